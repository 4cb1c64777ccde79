"""Fifty models under the shared sensors: each is looked at once, and none suffers for another."""

import json
from datetime import timedelta

import dagster as dg
import pytest

from bench import canaries
from bench.fleet import Fleet
from mlops_assets.components.model import model_definitions
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.definitions import shared_definitions
from mlops_assets.reconcile import project_registry

MODELS = 50


@pytest.fixture(scope="module")
def specs() -> list[ModelSpec]:
    return canaries.fleet(MODELS)


@pytest.fixture
def world(specs: list[ModelSpec]) -> Fleet:
    """Every challenger at canary-5, with enough traffic behind it and its bake time over."""
    world = Fleet(MODELS)
    requests(world, "release")
    canaries.send(world.gateway, specs, world.now)
    world.now += timedelta(days=2)
    return world


def requests(world: Fleet, sensor: str) -> list[dg.RunRequest]:
    """What a sensor asks for at one look. The runs are not made."""
    return list(world.look(sensor).run_requests or ())


def records(world: Fleet, spec: ModelSpec, noun: str) -> int:
    """How many materializations of an asset there are."""
    return len(world.instance.fetch_materializations(dg.AssetKey([spec.slug, noun]), limit=1000).records)


def test_fifty_models_make_one_code_location_with_seven_sensors(specs: list[ModelSpec]) -> None:
    repository = dg.Definitions.merge(*(model_definitions(spec) for spec in specs), shared_definitions(specs)).get_repository_def()
    slugs = {key.path[0] for key in repository.asset_graph.materializable_asset_keys}
    assert slugs == {*(spec.slug for spec in specs), "platform"}
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "new_data",
        "retrain",
        "release",
        "monitoring",
        "slo",
        "reconcile",
        "failed_runs",
    }


def test_each_challenger_is_decided_once(world: Fleet, specs: list[ModelSpec]) -> None:
    asked = requests(world, "release")
    assert sorted(request.tags["mlops/model"] for request in asked) == [spec.name for spec in specs]
    assert all(request.partition_key == canaries.CHALLENGER for request in asked)
    assert {request.run_key for request in requests(world, "release")} == {request.run_key for request in asked}


def test_a_policy_that_cannot_be_read_stops_no_other_model(world: Fleet, specs: list[ModelSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    read, broken = world.platform.policies.read, specs[MODELS // 2].name

    def sometimes(model: str) -> Policy:
        if model == broken:
            raise Unavailable("the policy store does not answer: see that it runs")
        return read(model)

    monkeypatch.setattr(world.platform.policies, "read", sometimes)
    others = [spec.name for spec in specs if spec.name != broken]
    assert sorted(request.tags["mlops/model"] for request in requests(world, "release")) == others
    requests(world, "reconcile")
    states = json.loads(world.cursors["reconcile"] or "")
    assert sorted(name for name, state in states.items() if "trouble" not in state) == others
    assert "does not answer" in states[broken]["trouble"]


def test_what_happened_outside_of_runs_is_recorded_once_for_each_model(world: Fleet, specs: list[ModelSpec]) -> None:
    for _ in range(2):
        requests(world, "reconcile")
    world.cursors["reconcile"] = None
    requests(world, "reconcile")
    for spec in specs:
        assert records(world, spec, "canary") == 3
        assert records(world, spec, "production") == 1


def test_the_registry_is_asked_only_about_releases_that_can_have_changed(specs: list[ModelSpec], world: Fleet) -> None:
    model = specs[0].name
    policy, read = world.platform.policies.read(model), []
    release = world.platform.registry.release
    world.platform.registry.release = lambda model, name: read.append(name) or release(model, name)  # type: ignore[method-assign]
    rolled = canaries.aborted(policy, world.now)
    project_registry(world.platform, rolled, shown=policy.generation)
    assert sorted(set(read)) == ["v1", "v2"]
    assert release(model, "v2").tags["stage"] == "Archived"
    read.clear()
    project_registry(world.platform, rolled, shown=rolled.generation)
    assert read == ["v1"]
