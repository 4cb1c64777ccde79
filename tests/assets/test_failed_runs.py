"""Runs that fail: who is told, how often, and when it is over."""

import json
from dataclasses import asdict

import dagster as dg
import pytest

from mlops_assets.adapters.memory_pager import MemoryPager
from mlops_assets.core.errors import Unavailable
from mlops_assets.sensors.failed_runs import Seen, look_at_failed_runs
from mlops_assets.sensors.tick import INTENT_TAG, MODEL_TAG, STAGE_TAG
from tests.assets.gifts import NAME, Gifts
from tests.world import QUIET, Clock


class Night:
    """Runs that end as told, and what a person hears of them."""

    def __init__(self) -> None:
        self.instance, self.clock = dg.DagsterInstance.ephemeral(), Clock()
        self.pager = MemoryPager(self.clock)
        self.seen = Seen()
        self.run("all", "before", "the/first/look", fails=True)
        self.look()

    def run(self, model: str, stage: str, intent: str, fails: bool, check: str = "") -> None:
        @dg.asset(
            key=[model.replace("-", "_"), "thing"],
            check_specs=[dg.AssetCheckSpec(check or "fine", asset=[model.replace("-", "_"), "thing"], blocking=True)],
        )
        def thing() -> dg.MaterializeResult:
            if fails and not check:
                raise ZeroDivisionError("no gradient")
            return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=not fails)])

        tags = {MODEL_TAG: model, STAGE_TAG: stage, INTENT_TAG: intent}
        dg.materialize([thing], instance=self.instance, tags=tags, raise_on_error=False, run_config=QUIET)

    def look(self) -> None:
        platform = type("Platform", (), {"pager": self.pager, "clock": self.clock})
        self.seen = look_at_failed_runs(self.instance, platform, Seen.from_json(json.dumps(asdict(self.seen))))

    @property
    def told(self) -> list[tuple[str, str, str, str]]:
        return [(what, alert.model, alert.labels["stage"], alert.severity) for what, alert in self.pager.told]


@pytest.fixture
def night() -> Night:
    return Night()


def test_what_failed_before_the_first_look_is_told_to_nobody(night: Night) -> None:
    night.look()
    assert night.told == []


def test_a_failed_run_is_told_once_however_often_one_looks_and_ends_with_the_success_of_its_intent(night: Night) -> None:
    night.run("fraud", "train", "fraud/train/1", fails=True)
    for _ in range(3):
        night.look()
    assert night.told == [("trigger", "fraud", "train", "page")]
    alert = night.pager.told[0][1]
    assert alert.cause == "run-failed"
    assert alert.summary == "the run for fraud/train/1 failed: fraud__thing: ZeroDivisionError: no gradient"
    assert "/runs/" in alert.link
    night.run("fraud", "train", "fraud/train/1", fails=True)
    night.look()
    assert len(night.told) == 1
    night.run("fraud", "train", "fraud/train/1", fails=False)
    night.look()
    night.look()
    assert night.told == [("trigger", "fraud", "train", "page"), ("resolve", "fraud", "train", "page")]


def test_a_later_success_of_the_same_kind_ends_what_was_given_up(night: Night) -> None:
    night.run("fraud", "train", "fraud/train/1", fails=True)
    night.look()
    night.run("other", "train", "other/train/2", fails=False)
    night.look()
    assert len(night.told) == 1
    night.run("fraud", "train", "fraud/train/2", fails=False)
    night.look()
    assert [what for what, *_ in night.told] == ["trigger", "resolve"]


def test_days_are_ingested_beside_each_other_and_one_s_success_ends_no_other_s_failure(night: Night) -> None:
    night.run("fraud", "ingest", "fraud/ingest/monday", fails=True)
    night.run("fraud", "ingest", "fraud/ingest/tuesday", fails=True)
    night.look()
    night.run("fraud", "ingest", "fraud/ingest/monday", fails=False)
    night.look()
    assert night.told == [("trigger", "fraud", "ingest", "page")]
    night.run("fraud", "ingest", "fraud/ingest/tuesday", fails=False)
    night.look()
    assert [what for what, *_ in night.told] == ["trigger", "resolve"]


def test_a_run_that_failed_and_succeeded_between_two_looks_is_told_to_nobody(night: Night) -> None:
    night.run("fraud", "train", "fraud/train/1", fails=True)
    night.run("fraud", "train", "fraud/train/1", fails=False)
    night.look()
    assert night.told == []


@pytest.mark.parametrize(
    ("check", "told"), [("quality_gate", []), ("smoke_test", []), ("schema", [("trigger", "fraud", "train", "ticket")])]
)
def test_a_check_that_refuses_a_release_wakes_nobody_and_another_that_blocks_is_a_ticket(night: Night, check: str, told: list) -> None:
    night.run("fraud", "train", "fraud/train/1", fails=True, check=check)
    night.look()
    assert night.told == told


def test_while_nobody_can_be_told_nothing_is_forgotten(night: Night) -> None:
    class Deaf(MemoryPager):
        def fire(self, *_: object) -> None:
            raise Unavailable("nobody there")

        resolve = fire

    hearing, night.pager = night.pager, Deaf(night.clock)
    night.run("fraud", "train", "fraud/train/1", fails=True)
    night.run("fraud", "online", "fraud/online/1", fails=True)
    night.look()
    night.run("fraud", "online", "fraud/online/1", fails=False)
    night.look()
    assert (len(night.seen.open), len(night.seen.over)) == (1, 1)
    night.pager = hearing
    night.look()
    assert night.told == [("trigger", "fraud", "train", "page")]
    assert night.seen.over == ()


def test_the_sensor_of_the_platform_tells_of_a_training_that_raises(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    world.tick("failed_runs")
    shop.train(world, behave="raise")
    world.tick("failed_runs")
    world.tick("failed_runs")
    [(told, alert)] = world.pager.told
    assert (told, alert.model, alert.cause, alert.labels) == ("trigger", NAME, "run-failed", {"stage": "by hand"})
    assert "no gradient" in alert.summary


def test_a_refused_challenger_is_no_failed_run(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    world.tick("failed_runs")
    shop.train(world, behave="noise")
    world.settle()
    assert world.policy(NAME).last("v2").action == "refuse"
    assert world.pager.told == []
