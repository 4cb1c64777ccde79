"""A model that is retired: nobody is answered, nothing runs and nothing is asked for, and all of it comes back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.assets import keys
from mlops_assets.assets.hourly_monitoring import build_hourly_monitoring
from mlops_assets.components.model import model_definitions
from mlops_assets.core.drill import drill_hour
from mlops_assets.core.errors import NotFound
from mlops_assets.core.policy import Author, Policy
from mlops_assets.exporter.reader import Reader
from mlops_assets.operations import Operator
from mlops_assets.schedules import build_schedules, drill_schedule, freshness_schedule
from tests.assets.gifts import DAYS, HOUR, NAME, Gifts, assert_settled, recorded
from tests.world import World

ADA = Author("ada", "the shop is closed")


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves."""
    return shop.copy(shop.with_first_release())[0]


def requests_of(schedule: dg.ScheduleDefinition, world: World, at: datetime) -> Sequence[dg.RunRequest]:
    resources = {"platform": dg.ResourceDefinition.hardcoded_resource(world.platform), "io_manager": dg.mem_io_manager}
    models = dg.Definitions.merge(*(model_definitions(spec) for spec in world.specs.values()))
    shared = dg.Definitions(assets=build_hourly_monitoring(list(world.specs.values())), schedules=[schedule], resources=resources)
    repository = dg.Definitions.merge(models, shared).get_repository_def()
    used = {"platform": world.platform}
    with dg.build_schedule_context(world.instance, at, resources=used, repository_def=repository) as context:
        return schedule.evaluate_tick(context).run_requests or ()


def test_a_retired_model_is_left_alone_and_comes_back(shop: Gifts, world: World) -> None:
    operator = Operator(world.platform, NAME, ADA)
    operator.retire()
    assert world.deployments.running(NAME) == []
    world.settle()
    assert_settled(world)
    assert recorded(world)["production", None, world.policy(NAME).generation] == 1

    runs = len(world.runs)
    shop.sample.land(world.objects, DAYS + 4)  # reason enough to ingest, to train and to evaluate
    for _ in range(3):
        world.clock.advance(3 * HOUR)
        world.settle()
    assert len(world.runs) == runs
    assert world.deployments.running(NAME) == []

    operator.reinstate()
    assert [deployment.release for deployment in world.deployments.running(NAME)] == ["v1"]
    assert (shop.serve(world)["release"] == "v1").all()
    world.clock.advance(HOUR)
    world.settle()
    assert len(world.runs) > runs, "what landed meanwhile is ingested now"
    assert set(world.policy(NAME).digests) == {"v1", "v2"}, "and trained on"


def test_its_history_is_kept(world: World) -> None:
    before = world.policy(NAME).log
    Operator(world.platform, NAME, ADA).retire()
    after = world.policy(NAME)
    assert after.log[: len(before)] == before
    assert (after.log[-1].action, after.log[-1].author) == ("retire", ADA)
    assert decode(Policy, encode(after), "a test") == after


def test_schedules_pass_over_a_retired_model(world: World) -> None:
    spec = world.specs[NAME]
    drilled, noon = datetime(2026, 11, 26, drill_hour(NAME), 23, tzinfo=UTC), datetime(2026, 11, 26, 12, tzinfo=UTC)
    looks = [(drill_schedule([spec]), drilled), (freshness_schedule([spec]), noon)]
    assert [len(requests_of(schedule, world, at)) for schedule, at in looks] == [1, 1]
    (request,) = requests_of(*looks[1][:1], world, noon)
    assert {key.asset_key for key in request.asset_check_keys or ()} == {keys.key(spec, "events"), keys.key(spec, "labels")}
    Operator(world.platform, NAME, ADA).retire()
    assert [len(requests_of(schedule, world, at)) for schedule, at in looks] == [0, 0]


def test_a_training_on_a_cadence_is_skipped(world: World) -> None:
    spec = world.specs[NAME]
    (schedule,) = build_schedules(replace(spec, retrain=replace(spec.retrain, schedule="0 3 * * *")))
    at = datetime(2026, 11, 26, 3, tzinfo=UTC)
    assert len(requests_of(schedule, world, at)) == 1
    Operator(world.platform, NAME, ADA).retire()
    assert len(requests_of(schedule, world, at)) == 0


def test_nobody_is_alerted_of_the_age_of_what_a_retired_model_has(world: World) -> None:
    reader = Reader(list(world.specs.values()), world.platform, world.instance)
    assert {seen.model for seen in reader.read().assets} == {NAME}
    Operator(world.platform, NAME, ADA).retire()
    assert (reader.read().assets, reader.read().checks) == ([], [])


def test_a_model_that_nobody_knows_is_not_retired(world: World) -> None:
    with pytest.raises(NotFound, match="no model 'gift-return', expected one of gift-returns"):
        Operator(world.platform, "gift-return", ADA).retire()


def test_a_retired_champion_is_warm_no_longer(world: World) -> None:
    Operator(world.platform, NAME, ADA).retire()
    assert world.policy(NAME).live_releases(world.clock() + timedelta(seconds=1)) == frozenset()
