"""Drift trains: once a report, with its cause told everywhere, and not for ever."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from mlops_assets.assets import keys
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.schedules import TRAINING_NOUNS
from mlops_assets.sensors.tick import CAUSE_TAG, TRIGGER_TAG, Tick
from mlops_assets.sensors.training import look_for_training
from tests.assets.gifts import DAYS, HOUR, NAME, SLUG, Gifts
from tests.world import World


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves, and a day has landed since it was trained."""
    world = shop.copy(shop.with_first_release())[0]
    shop.land(world, DAYS + 1)
    return world


@pytest.fixture
def spec(shop: Gifts) -> ModelSpec:
    """One that trains on drift."""
    return replace(shop.spec, retrain=replace(shop.spec.retrain, on_drift_above=0.5, max_per_week=2))


def report_drift(world: World, spec: ModelSpec, largest: float = 3.0) -> None:
    metadata: dict[str, Any] = {"largest_psi": largest, "drifted": "amount", "rows": 4000}
    world.instance.report_runless_asset_event(dg.AssetMaterialization(keys.key(spec, "drift_report"), metadata=metadata))


def look(world: World, spec: ModelSpec) -> Tick:
    tick = Tick(world.instance, world.platform, frozenset(), {})
    look_for_training(tick, spec)
    return tick


def train_as_asked(world: World, spec: ModelSpec, hyperparameters: dict[str, Any] | None = None) -> None:
    """Make the run that the sensor asks for."""
    (asked,) = look(world, spec).requests
    ops = {**asked.run_config["ops"], f"{SLUG}_train_and_export": {"config": {"hyperparameters": hyperparameters or {}}}}
    assert world.materialize(NAME, *TRAINING_NOUNS, config={"ops": ops}, tags=asked.tags).success


def test_a_training_tells_the_drift_report_that_caused_it_everywhere(world: World, spec: ModelSpec) -> None:
    report_drift(world, spec)
    world.clock.advance(2 * spec.drift.cooldown)
    (asked,) = look(world, spec).requests
    cause = asked.tags[CAUSE_TAG]
    assert asked.tags[TRIGGER_TAG] == "drift"
    assert f"/assets/{SLUG}/drift_report?view=events&asOf=" in cause
    train_as_asked(world, spec)
    world.settle()
    made = world.materializations(NAME, "training_set")[-1].metadata
    assert (made["trigger"].value, made["cause"]) == ("drift", dg.MetadataValue.url(cause))
    info = world.platform.registry.release(NAME, "v2")
    assert (info.tags["trigger"], info.tags["cause"]) == ("drift", cause)
    assert cause in info.tags["certificate"]
    assert world.platform.registry.runs[info.run_id].run.tags["cause"] == cause
    assert world.policy(NAME).last("v2", "register").author.why == f"trained because of drift: {cause}"


def test_the_same_report_does_not_train_twice(shop: Gifts, world: World, spec: ModelSpec) -> None:
    report_drift(world, spec)
    world.clock.advance(2 * spec.drift.cooldown)
    train_as_asked(world, spec, {"behave": "noise"})
    world.settle()
    assert world.policy(NAME).last("v2").action == "refuse"
    shop.sample.land(world.objects, DAYS + 2)
    world.clock.advance(timedelta(days=10))
    world.tick("new_data")
    assert look(world, spec).requests == []


def test_a_refused_training_doubles_the_wait_for_the_next_report_and_says_so(shop: Gifts, world: World, spec: ModelSpec) -> None:
    report_drift(world, spec)
    world.clock.advance(2 * spec.drift.cooldown)
    train_as_asked(world, spec, {"behave": "noise"})
    world.settle()
    shop.sample.land(world.objects, DAYS + 2)
    world.clock.advance(HOUR)
    world.tick("new_data")
    report_drift(world, spec)
    # Dagster stamps the training with the wall clock, which the world's is ahead of.
    since = world.clock.now - datetime.now(UTC)
    slow = replace(spec, drift=replace(spec.drift, cooldown=since * 0.75))
    held = look(world, slow)
    assert held.requests == []
    (told,) = held.events
    assert "doubled by each of the 1 releases before that came to nothing" in told.metadata["held"].value
    again = Tick(world.instance, world.platform, frozenset(), held.state)
    look_for_training(again, slow)
    assert again.events == []  # said once
    world.clock.advance(since)
    assert len(look(world, slow).requests) == 1


def test_drift_trains_no_more_often_than_declared_a_week(shop: Gifts, world: World, spec: ModelSpec) -> None:
    once = replace(spec, retrain=replace(spec.retrain, max_per_week=1))
    report_drift(world, once)
    world.clock.advance(2 * once.drift.cooldown)
    train_as_asked(world, once, {"behave": "noise"})
    world.settle()
    shop.sample.land(world.objects, DAYS + 2)
    world.clock.advance(timedelta(days=3))
    world.tick("new_data")
    report_drift(world, once)
    (told,) = look(world, once).events
    assert "retrain.max_per_week is 1" in told.metadata["held"].value
    world.clock.advance(timedelta(days=4))
    assert len(look(world, once).requests) == 1
