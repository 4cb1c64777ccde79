"""What an operator does by hand, without Dagster: act on the data plane first; the reconcile sensor records it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.changes import change
from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import IllegalChange, NotFound, Unavailable
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
        """Send the traffic back to ``to``, by default the champion before this one."""
        return self._act(lambda policy: policy_changes.rollback(policy, self.author, self.platform.clock(), to))

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
        ran = self.platform.policies.read(self.model).live_releases(self.platform.clock())
        try:
            changed = change(self.platform, self.model, apply)
        except IllegalChange:
            self._require_known()  # only now: a rollback waits for no list of models
            raise
        served = with_traffic(changed)
        if self.platform.gateway.follows_policies and served and served <= ran:
            # All that is needed runs. What is not needed any more the reconcile sensor ends: a rollback does not wait for Kubernetes.
            apply_route(self.platform, changed, {})
            return changed
        try:
            converge_traffic(self.platform, self.model)
        except Unavailable as error:
            self._require_traffic_follows(changed, error)
        return changed

    def _require_traffic_follows(self, changed: Policy, error: Unavailable) -> None:
        """See that the gateways follow without whoever starts and ends releases; what is left to do then is told."""
        if not self.platform.gateway.follows_policies:
            raise error
        apply_route(self.platform, changed, {})
        self.warn(f"the traffic is as it should be, but releases cannot be started or ended now, which is done later by itself: {error}")

    def _require_known(self) -> None:
        known = self.platform.policies.models()
        if self.model not in known:
            raise NotFound(f"there is no model {self.model!r}, expected one of {', '.join(known) or 'none yet'}")
