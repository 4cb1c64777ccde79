"""A rollback while nobody can start or end releases, and one that is asked for again because it did not come to its end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bench.canaries import fleet
from mlops_assets.adapters.memory import (
    MemoryDeployments,
    MemoryGateway,
    MemoryObjectStore,
    MemoryPolicyStore,
    MemoryPredictionLog,
    MemoryRegistry,
)
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.errors import IllegalChange, MlopsError, NotReady, Unavailable
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.routing import Route
from mlops_assets.operations import Operator
from mlops_assets.ports import Platform
from mlops_assets.rollout import leave

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ADA = Author("ada", "complaints")


class Away(MemoryDeployments):
    """Whoever runs releases does not answer."""

    def running(self, model: str) -> list:
        raise Unavailable("Kubernetes does not answer")


class Following(MemoryGateway):
    """Gateways that read the policies themselves: they are only waited for."""

    follows_policies = True
    waited_for: int = -1

    def apply(self, route: Route) -> None:
        self.waited_for = route.generation


class Asking(Following):
    """Gateways that follow the policies to releases that run, and to no other."""

    def apply(self, route: Route) -> None:
        running = {deployment.release for deployment in MemoryDeployments.running(self._deployments, route.model)}
        late = sorted({share.release for share in route.shares} - running)
        if late:
            raise NotReady(f"{', '.join(late)} is not healthy")
        super().apply(route)


def platform(
    gateway: type[MemoryGateway],
    now: datetime = NOW,
    runs_on: type[MemoryDeployments] = Away,
    releases: tuple[str, ...] = ("v1", "v2"),
) -> Platform:
    deployments = runs_on(lambda *_: lambda rows: np.zeros(len(rows)))
    log, store = MemoryPredictionLog(), MemoryPolicyStore()
    policy = Policy("m")
    for release in releases:
        policy = policy_changes.register(policy, release, "d" * 64, ADA, NOW)
        policy = policy_changes.accept(policy_changes.stage(policy, release, ADA, NOW), release, ADA, NOW)
        policy = policy_changes.begin(policy, release, Step("all", timedelta(minutes=1), 50), ADA, NOW)
        policy = policy_changes.promote(policy, ADA, NOW, timedelta(days=1))
    store.write(policy, 0)
    made = gateway(deployments, log, lambda: now)
    return Platform(lambda: now, MemoryObjectStore(), store, MemoryRegistry(), None, deployments, made, log)  # type: ignore[arg-type]


def test_gateways_that_follow_the_policies_take_a_warm_release_without_whoever_starts_releases():
    told: list[str] = []
    there = platform(Following)
    changed = Operator(there, "m", ADA, told.append).rollback()
    assert changed.champion == "v1"
    assert there.gateway.waited_for == changed.generation
    assert told == []


def test_a_model_that_is_retired_is_ended_by_the_command_itself_or_it_says_why_not():
    told: list[str] = []
    Operator(platform(Following), "m", ADA, told.append).retire()
    assert len(told) == 1


def test_what_cannot_be_started_now_is_told_when_the_release_is_warm_no_more():
    told: list[str] = []
    there = platform(Following, NOW + timedelta(days=2))
    changed = Operator(there, "m", ADA, told.append).rollback()
    assert changed.champion == "v1"
    assert there.policies.read("m") == changed
    assert there.gateway.waited_for == changed.generation
    [warning] = told
    assert warning.startswith("the traffic is as it should be, but releases cannot be started or ended now")
    assert warning.endswith("Kubernetes does not answer")


def test_gateways_that_have_to_be_told_are_not_passed_off_as_done():
    there = platform(MemoryGateway)
    with pytest.raises(Unavailable, match="Kubernetes does not answer"):
        Operator(there, "m", ADA).rollback()


def test_a_gateway_that_does_not_follow_is_an_error():
    there = platform(Following)

    def late(route: Route) -> None:
        raise Unavailable(f"generation {route.generation} of m is not everywhere")

    operator = Operator(replace(there, gateway=_with(there.gateway, late)), "m", ADA)
    with pytest.raises(Unavailable, match="is not everywhere"):
        operator.rollback()


@pytest.mark.parametrize("gateway", [Following, MemoryGateway])
@pytest.mark.parametrize("error", [Unavailable("the gateway does not answer"), NotReady("v2 is not healthy; its log ends:\nkilled")])
def test_a_rollback_that_ended_half_way_says_what_ends_it_and_goes_no_release_further(monkeypatch, gateway, error: MlopsError):
    there = platform(gateway, NOW, MemoryDeployments, ("v1", "v2", "v3"))
    operator = Operator(there, "m", ADA)
    with monkeypatch.context() as outage:
        outage.setattr(there.gateway, "apply", _raising(error))
        with pytest.raises(type(error)) as told:
            operator.rollback()
    written = there.policies.read("m")
    assert written.champion == "v2"
    for part in (f"generation {written.generation} of the policy of m, with v2 as champion, is in force", str(error)):
        assert part in str(told.value)
    assert "'mlops rollback m --to v2 --reason ...' completes it" in str(told.value)

    applied: list[int] = []
    monkeypatch.setattr(there.gateway, "apply", lambda route: applied.append(route.generation))
    assert operator.rollback("v2") == there.policies.read("m") == written
    assert applied == [written.generation]


def test_a_rollback_that_is_interrupted_says_what_ends_it(monkeypatch):
    told: list[str] = []
    there = platform(Following)
    monkeypatch.setattr(there.gateway, "apply", _raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        Operator(there, "m", ADA, told.append).rollback()
    [warning] = told
    assert "with v1 as champion, is in force, and 'mlops rollback m --to v1 --reason ...' completes it" in warning


@pytest.mark.parametrize("is_written", [True, False])
def test_a_rollback_of_which_nobody_knows_whether_it_was_written_says_how_it_is_asked_for_again(monkeypatch, is_written: bool):
    there = platform(Following, NOW, Away, ("v1", "v2", "v3"))
    operator, write = Operator(there, "m", ADA), there.policies.write

    def unanswered(policy: Policy, expected: int) -> None:
        if is_written:
            write(policy, expected)
        raise Unavailable("S3 does not answer")

    with monkeypatch.context() as outage:
        outage.setattr(there.policies, "write", unanswered)
        with pytest.raises(Unavailable, match="it is not known whether.*--to v2.*S3 does not answer"):
            operator.rollback()
    assert operator.rollback("v2").champion == "v2"
    assert [change.action for change in there.policies.read("m").log].count("rollback") == 1


def test_a_change_that_moves_no_champion_leaves_its_rest_to_the_reconcile_sensor(monkeypatch):
    there = platform(Following)
    policy = _in_canary(there, "v3")
    monkeypatch.setattr(there.gateway, "apply", _raising(Unavailable("no gateway is ready")))
    with pytest.raises(Unavailable, match=f"generation {policy.generation + 1} .*the reconcile sensor completes it: no gateway is ready"):
        Operator(there, "m", ADA).pause()


def test_a_canary_is_not_taken_for_the_rest_of_a_rollback():
    there = platform(Following)
    before = _in_canary(there, "v3")
    with pytest.raises(IllegalChange, match="v2 of m is in production already: 'mlops abort m' ends the canary"):
        Operator(there, "m", ADA).rollback("v2")
    assert there.policies.read("m") == before


def test_a_click_that_takes_the_champion_out_cannot_name_it_as_where_to_go():
    there, spec = platform(MemoryGateway, NOW, MemoryDeployments), replace(fleet(1)[0], name="m")
    before = there.policies.read("m")
    with pytest.raises(IllegalChange, match="v2 of m is in production already"):
        leave(there, spec, "v2", before, ADA, to="v2")
    assert there.policies.read("m") == before


def test_what_the_policy_calls_warm_and_does_not_run_is_started():
    there = platform(Asking, NOW, MemoryDeployments)
    changed = Operator(there, "m", ADA).rollback()
    assert [deployment.release for deployment in there.deployments.running("m")] == ["v1"]
    assert there.gateway.waited_for == changed.generation


def test_what_could_not_be_started_at_first_is_started_when_it_is_asked_for_again():
    told: list[str] = []
    there = platform(Asking, NOW + timedelta(days=2))
    with pytest.raises(NotReady) as late:
        Operator(there, "m", ADA, told.append).rollback()
    for part in ("--to v1 --reason ...' completes it", "v1 is not healthy", "cannot be started now either: Kubernetes does not answer"):
        assert part in str(late.value)
    assert told == []

    back = MemoryDeployments(lambda *_: lambda rows: np.zeros(len(rows)))
    gateway = Asking(back, MemoryPredictionLog(), there.clock)
    changed = Operator(replace(there, deployments=back, gateway=gateway), "m", ADA).rollback("v1")
    assert [deployment.release for deployment in back.running("m")] == ["v1"]
    assert gateway.waited_for == changed.generation


def _raising(error: BaseException):
    def does(*_):
        raise error

    return does


def _in_canary(there: Platform, release: str) -> Policy:
    policy = before = there.policies.read("m")
    policy = policy_changes.register(policy, release, "d" * 64, ADA, NOW)
    policy = policy_changes.accept(policy_changes.stage(policy, release, ADA, NOW), release, ADA, NOW)
    policy = policy_changes.begin(policy, release, Step("5", timedelta(minutes=1), 5), ADA, NOW)
    there.policies.write(policy, before.generation)
    return policy


def _with(gateway, apply):
    gateway.apply = apply
    return gateway
