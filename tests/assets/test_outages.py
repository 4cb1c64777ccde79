"""Systems that are down for a while: it is seen on the asset ``production``, nothing is lost, and the champion serves on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from mlops_assets.assets import keys
from mlops_assets.core.errors import NotFound, Unavailable
from mlops_assets.core.policy import Author
from mlops_assets.operations import Operator
from mlops_assets.ports import Platform
from tests.assets.gifts import NAME, Gifts, assert_settled
from tests.world import World

SYSTEMS = {"S3": ("objects", "policies", "predictions"), "MLflow": ("registry",), "Envoy": ("gateway",), "supervisord": ("deployments",)}


class Down:
    """A port of a system that does not answer."""

    follows_policies = False

    def __init__(self, system: str) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*_arguments: Any, **_named: Any) -> Any:
            raise Unavailable(f"{self._system} does not answer: see that it runs ('mlops status')")

        return call


def without(platform: Platform, system: str) -> Platform:
    return replace(platform, **{port: Down(system) for port in SYSTEMS[system]})


def verdicts(world: World, shop: Gifts) -> list[tuple[bool, str]]:
    """Every evaluation of ``serves_champion`` that no run made, oldest first."""
    key = dg.AssetCheckKey(keys.key(shop.spec, "production"), "serves_champion")
    records = world.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    found = [record.event.dagster_event.asset_check_evaluation_data for record in reversed(records) if record.event and not record.run_id]
    return [(evaluation.passed, evaluation.description or "") for evaluation in found]


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_outage_fails_serves_champion_once_and_passes_it_when_it_is_over(shop: Gifts, system: str) -> None:
    world, _ = shop.copy(shop.with_first_release())
    whole, before = world.platform, len(verdicts(world, shop))
    world.platform = without(whole, system)
    for _ in range(3):
        world.tick()
    (told,) = verdicts(world, shop)[before:]
    assert told == (False, f"{system} does not answer: see that it runs ('mlops status')")

    world.platform = whole
    served = shop.serve(world)
    assert set(served["release"]) == {"v1"}
    for _ in range(3):
        world.tick()
    assert verdicts(world, shop)[before + 1 :] == [(True, "champion v1")]
    world.settle()
    assert_settled(world)


def test_a_rollback_by_hand_needs_no_registry_and_is_recorded_before_the_registry_is_back(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    world.settle()
    shop.go_on(world, [5, 7, 7, 9])
    assert world.policy(NAME).champion == "v2"
    whole = world.platform
    world.platform = without(whole, "MLflow")
    changed = Operator(world.platform, NAME, Author("ada", "customers complain")).rollback()
    assert set(shop.serve(world)["release"]) == {"v1"}
    world.tick("reconcile")
    (record,) = world.materializations(NAME, "rollback", "v2")
    assert record.metadata["generation"].value == changed.generation

    world.platform = whole
    world.tick("reconcile")
    assert_settled(world)


def test_a_model_that_nobody_knows_is_named_beside_those_that_are(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    operator = Operator(world.platform, "git-returns", Author("ada", "a slip"))
    for act in (operator.rollback, operator.abort, operator.pause, operator.resume, lambda: operator.restart("v1")):
        with pytest.raises(NotFound, match=f"there is no model 'git-returns', expected one of {NAME}"):
            act()
