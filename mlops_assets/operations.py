"""What an operator does by hand, without Dagster: act on the data plane first; the reconcile sensor records it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.changes import change
from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import IllegalChange, MlopsError, NotFound, NotReady, Unavailable
from mlops_assets.core.policy import Author, Policy
from mlops_assets.ports import Platform
from mlops_assets.reconcile import apply_route, converge_traffic, with_traffic

if TYPE_CHECKING:
    from mlops_assets.core.model_spec import ModelSpec


@dataclass(frozen=True)
class Operator:
    """A person at work on one model; ``warn`` tells him what could not be done and can wait."""

    platform: Platform
    model: str
    author: Author
    warn: Callable[[str], None] = lambda _: None

    def rollback(self, to: str | None = None) -> Policy:
        """Send the traffic back to ``to``, by default the champion before this one; to the champion it ends what an earlier call began."""

        def rolled_back(policy: Policy) -> Policy:
            if to is not None and to == policy.champion and policy.challenger is None:
                return policy
            return policy_changes.rollback(policy, self.author, self.platform.clock(), to)

        return self._act(rolled_back)

    def abort(self) -> Policy:
        """End the canary under way; all traffic is the champion's."""
        return self._act(lambda policy: policy_changes.abort(policy, self.author, self.platform.clock()))

    def restart(self, release: str) -> Policy:
        """Let an aborted release wait for its canary again."""
        return self._act(lambda policy: policy_changes.restart(policy, release, self.author, self.platform.clock()))

    def promote(self, spec: ModelSpec) -> Policy:
        """Make the challenger champion, whatever its canary says; its quality gate must have passed."""
        from mlops_assets.rollout import promote  # a rollback does not wait for the rules of a canary

        policy = self.platform.policies.read(self.model)
        if policy.challenger is None:
            raise IllegalChange(f"{self.model} has no release in canary: {policies.describe(policy)}")
        return promote(self.platform, spec, policy.challenger.release, policy, self.author, forced=True)[1]

    def pause(self) -> Policy:
        """Keep the canary at its step."""
        return self._act(lambda policy: policy_changes.pause(policy, self.author, self.platform.clock()))

    def resume(self) -> Policy:
        """Let a paused canary go on, or approve the step that asks for a person."""
        return self._act(lambda policy: policy_changes.resume(policy, self.author, self.platform.clock()))

    def retire(self) -> Policy:
        """Take the whole model out of use; its history stays."""
        return self._act(lambda policy: policy_changes.retire(policy, self.author, self.platform.clock()))

    def reinstate(self) -> Policy:
        """Bring a retired model back to where it was."""
        return self._act(lambda policy: policy_changes.reinstate(policy, self.author, self.platform.clock()))

    def _act(self, apply: Callable[[Policy], Policy]) -> Policy:
        before = wanted = self.platform.policies.read(self.model)

        def noted(policy: Policy) -> Policy:
            nonlocal wanted
            wanted = apply(policy)
            return wanted

        try:
            changed = change(self.platform, self.model, noted)
        except IllegalChange:
            self._require_known()  # only now: a rollback waits for no list of models
            raise
        except Unavailable as error:
            if wanted.champion == before.champion:
                raise
            # what was lost may be no more than the answer to the write
            raise Unavailable(f"it is not known whether {self._in_force(wanted)}: {error}") from error
        try:
            self._follow(changed, before.live_releases(self.platform.clock()))
        except MlopsError as error:
            raise type(error)(f"{self._in_force(changed)}: {error}") from error
        except KeyboardInterrupt:
            self.warn(self._in_force(changed))
            raise
        return changed

    def _follow(self, changed: Policy, ran: Collection[str]) -> None:
        """See that the traffic is as the policy says, by which ``ran`` should run already."""
        served = with_traffic(changed)
        if self.platform.gateway.follows_policies and served and served <= set(ran):
            # What should run may not: then it is started. What is not needed any more the reconcile sensor ends: a rollback does not
            # wait for Kubernetes.
            with suppress(NotReady):
                apply_route(self.platform, changed, {})
                return
        try:
            converge_traffic(self.platform, self.model)
        except Unavailable as error:
            self._require_traffic_follows(changed, error)

    def _in_force(self, policy: Policy) -> str:
        """What stands although the traffic may not follow: a rollback that is called again without ``to`` would go one release further."""
        champion = f"with {policy.champion} as champion" if policy.champion else "without a champion"
        is_settled = policy.champion is not None and policy.challenger is None
        by = f"'mlops rollback {self.model} --to {policy.champion} --reason ...'" if is_settled else "the reconcile sensor"
        return f"generation {policy.generation} of the policy of {self.model}, {champion}, is in force, and {by} completes it"

    def _require_traffic_follows(self, changed: Policy, error: Unavailable) -> None:
        """See that the gateways follow without whoever starts and ends releases; what is left to do then is told."""
        if not self.platform.gateway.follows_policies:
            raise error
        try:
            apply_route(self.platform, changed, {})
        except NotReady as late:
            raise NotReady(f"{late}; it cannot be started now either: {error}") from error
        self.warn(f"the traffic is as it should be, but releases cannot be started or ended now, which is done later by itself: {error}")

    def _require_known(self) -> None:
        known = self.platform.policies.models()
        if self.model not in known:
            raise NotFound(f"there is no model {self.model!r}, expected one of {', '.join(known) or 'none yet'}")
