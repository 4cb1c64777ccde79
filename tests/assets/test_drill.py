"""The previous release is brought back every day, beside production."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd
import pytest

from mlops_assets.adapters import tables
from mlops_assets.adapters.local import wall_clock
from mlops_assets.adapters.memory import MemoryPolicyStore, MemoryPredictionLog, MemoryRegistry
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.processes import SupervisedDeployments
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.assets import keys
from mlops_assets.assets.drill import Drilled, drill
from mlops_assets.assets.release import BY_HAND
from mlops_assets.core.drill import drill_hour
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.verdict import Outcome
from mlops_assets.operations import Operator
from mlops_assets.ports import Platform, TrainingRun, model_key
from mlops_assets.schedules import drill_schedule
from mlops_assets.sensors.production import look_at_world
from mlops_assets.sensors.tick import Tick
from mlops_assets.settings import Settings
from tests.assets.gifts import HOUR, NAME, Gifts, Moods, assert_settled
from tests.core.test_model_spec import spec as any_spec
from tests.servers import EnvoyServer
from tests.serving.models import SIGNATURE, tiny_model
from tests.world import World

DRILL = f"{NAME}.drill"


@pytest.fixture
def broken(shop: Gifts) -> tuple[World, Moods]:
    """v2 serves, v1 served before it and has ended; releases can be made to break."""
    if "v2" not in shop._built:
        made = shop.copy(shop.with_first_release())[0]
        assert shop.train(made).success
        made.settle()
        Operator(made.platform, NAME, Author(BY_HAND, "it is better")).promote(shop.spec)
        made.clock.advance(2 * HOUR)
        made.settle()
        shop._built["v2"] = made
    return shop.copy(shop._built["v2"])


@pytest.fixture
def world(broken: tuple[World, Moods]) -> World:
    return broken[0]


def running(world: World) -> set[str]:
    return {deployment.release for deployment in world.deployments.running(NAME)}


def test_the_previous_release_comes_back_and_production_notices_nothing(shop: Gifts, world: World) -> None:
    before = dict(world.gateway.applied(NAME))
    assert running(world) == {"v2"}
    assert world.materialize(NAME, "rollback_drill").success
    assert world.checks(NAME, "rollback_drill") == {"comes_back": True}
    found = world.materializations(NAME, "rollback_drill")[-1].metadata
    assert (found["release"].value, found["was_running"].value) == ("v1", False)
    assert {f"{part}_seconds" for part in ("artifact", "ready", "smoke_test", "route")} <= set(found)
    assert found["reason"].value.startswith("v1 came back in ")
    assert world.gateway.applied(NAME) == before
    assert running(world) == {"v2"}
    assert set(shop.serve(world)["release"]) == {"v2"}
    assert set(world.send(DRILL, shop.requests(50))["release"]) == {""}  # that route is gone
    assert_settled(world)


def test_a_release_that_is_still_warm_stays_so(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    world.settle()
    Operator(world.platform, NAME, Author(BY_HAND, "it is better")).promote(shop.spec)
    drilled = drill(world.platform, shop.spec)
    assert (drilled.release, drilled.was_running, drilled.verdict.outcome) == ("v1", True, Outcome.PASS)
    assert running(world) == {"v1", "v2"}


def test_without_a_previous_release_nothing_is_claimed(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    run = world.materialize(NAME, "rollback_drill")
    (check,) = run.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "there is no release before the champion to go back to"


def slow(world: World) -> Drilled:
    """Its start takes six minutes."""
    start = world.deployments._start

    def six_minutes(*release: str):
        world.clock.advance(timedelta(minutes=6))
        return start(*release)

    world.deployments._start = six_minutes
    return drill(world.platform, world.specs[NAME])


def refusing(world: World, moods: Moods) -> Drilled:
    moods.refusing.add("v1")
    return drill(world.platform, world.specs[NAME])


def shifted(world: World, moods: Moods) -> Drilled:
    moods.shifted.add("v1")
    return drill(world.platform, world.specs[NAME])


def overwritten(world: World) -> Drilled:
    world.objects.put(model_key(NAME, "v1"), b"something else")
    return drill(world.platform, world.specs[NAME])


def cut_off(world: World) -> Drilled:
    world.gateway.take_down()
    return drill(world.platform, world.specs[NAME])


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lambda world, moods: slow(world), "v1 came back in 360.0 s"),
        (refusing, "v1 needs more than there is"),
        (shifted, "it does not answer as its file does"),
        (lambda world, moods: overwritten(world), "expected .*: restore its earlier version"),
        (lambda world, moods: cut_off(world), "gateway local does not answer"),
    ],
    ids=["too slow", "it does not start", "it answers otherwise", "its file was changed", "the gateway is down"],
)
def test_what_would_hold_a_rollback_up_is_found(broken: tuple[World, Moods], happens, reason: str) -> None:
    world, moods = broken
    drilled = happens(world, moods)
    assert drilled.verdict.outcome is Outcome.FAIL
    assert pd.Series([drilled.verdict.reason]).str.contains(reason).all(), drilled.verdict.reason
    assert running(world) == {"v2"}


def test_what_a_killed_drill_leaves_is_ended_by_the_reconciler_and_does_not_stop_the_next(shop: Gifts, broken: tuple[World, Moods]) -> None:
    world, _ = broken
    stop, apply = world.deployments.stop, world.gateway.apply
    world.deployments.stop = lambda *_: None  # type: ignore[method-assign]
    world.gateway.apply = lambda route: apply(route) if route.shares else None  # type: ignore[method-assign]
    drill(world.platform, shop.spec)
    world.deployments.stop, world.gateway.apply = stop, apply  # type: ignore[method-assign]
    assert running(world) == {"v1", "v2"}
    busy = Tick(world.instance, world.platform, frozenset({(NAME, "drill")}), {})
    look_at_world(busy, shop.spec)
    assert running(world) == {"v1", "v2"}  # a drill under way is left alone
    world.tick("reconcile")
    assert running(world) == {"v2"}
    assert drill(world.platform, shop.spec).verdict.passed


def test_a_rollback_during_a_drill_keeps_what_the_drill_started(shop: Gifts, world: World) -> None:
    predict = world.deployments.predict

    def meanwhile(*asked):
        Operator(world.platform, NAME, Author("ada", "complaints")).rollback()
        return predict(*asked)

    world.deployments.predict = meanwhile  # type: ignore[method-assign]
    assert drill(world.platform, shop.spec).verdict.passed
    assert "v1" in running(world)
    assert set(shop.serve(world)["release"]) == {"v1"}


def test_each_model_is_drilled_once_a_day_at_its_own_hour(shop: Gifts) -> None:
    schedule, platform = drill_schedule([shop.spec]), shop.world()[0].platform
    asked = []
    for hour in range(24):
        at = datetime(2026, 11, 23, hour, 23, tzinfo=UTC)
        asked += [
            (hour, request)
            for request in schedule(dg.build_schedule_context(scheduled_execution_time=at, resources={"platform": platform}))
        ]
    ((hour, request),) = asked
    assert hour == drill_hour(NAME)
    assert request.asset_selection == [keys.key(shop.spec, "rollback_drill"), keys.key(shop.spec, "report")]
    assert request.tags == {"mlops/model": NAME, "mlops/stage": "drill"}


@pytest.fixture
def tiny(s3: Settings, envoy: EnvoyServer) -> Iterator[tuple[Platform, ModelSpec]]:
    """A platform of real processes, S3 and Envoy; v2 is champion of the model ``tiny``, v1 was before it."""
    objects, registry, policies = S3ObjectStore(s3.s3_url), MemoryRegistry(), MemoryPolicyStore()
    holdout = pd.DataFrame({"hour": [0.5, 1.0, None] * 40, "distance": [-1.0, 0.1, 2.0] * 40, "carrier": ["UA", "AA", "??"] * 40})
    digest = tables.write_set(objects, "tiny", holdout)
    for bias, release in enumerate(("v1", "v2")):
        file = tiny_model(SIGNATURE, bias=bias / 10)
        run = registry.log_run(TrainingRun("tiny", release, {}, {}, {}), {})
        registry.register("tiny", run, file.digest, {"holdout": digest})
        objects.create(model_key("tiny", release), file.data)
    digests = {release: registry.release("tiny", release).digest for release in ("v1", "v2")}
    policies.write(Policy("tiny", 1, ("v1", "v2"), weights={"v2": 100}, digests=digests), 0)
    deployments = SupervisedDeployments(s3, [sys.executable, "-m", "serving", "--port", "{port}"])
    platform = Platform(wall_clock, objects, policies, registry, MemoryFeatureStore(), deployments, envoy.gateway(), MemoryPredictionLog())
    yield platform, replace(any_spec(), name="tiny")
    for release in ("v1", "v2"):
        deployments.stop("tiny", release)


def test_a_real_release_comes_back_within_seconds(tiny: tuple[Platform, ModelSpec], envoy: EnvoyServer) -> None:
    platform, spec = tiny
    drilled = drill(platform, spec)
    assert drilled.verdict.passed, drilled.verdict.reason
    assert drilled.verdict.value < 30
    assert [part.name for part in drilled.parts] == ["artifact", "ready", "smoke_test", "route"]
    assert platform.deployments.running("tiny") == []
    assert envoy.predict("tiny.drill", "u").status == 503
    assert drill(platform, spec).verdict.passed  # and so it does the next day
