"""A rollback while nobody can start or end releases."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

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
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.routing import Route
from mlops_assets.operations import Operator
from mlops_assets.ports import Platform

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


def platform(gateway: type[MemoryGateway], now: datetime = NOW) -> Platform:
    deployments = Away(lambda *_: lambda rows: np.zeros(len(rows)))
    log, store = MemoryPredictionLog(), MemoryPolicyStore()
    policy = Policy("m")
    for release in ("v1", "v2"):
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


def _with(gateway, apply):
    gateway.apply = apply
    return gateway
