"""How often a run is asked for again: what failed by itself is tried three times, what was killed is not to blame for it."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType, JobFailureData, RunFailureReason
from dagster._core.test_utils import create_run_for_test

from mlops_assets.core.errors import Unavailable
from mlops_assets.sensors.tick import INTENT_TAG, MOST_RUNS, TRIES, is_given_up, runs_of
from tests.assets.conftest import shop as shop
from tests.assets.gifts import NAME, Gifts

INTENT = "gift-returns/train/2024-02-01"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def failed(instance: dg.DagsterInstance, reason: RunFailureReason | None) -> None:
    """A run for the intent that ended with an event of Dagster's own; without a reason it was marked from outside."""
    run = create_run_for_test(instance, job_name="training", tags={INTENT_TAG: INTENT}, status=dg.DagsterRunStatus.STARTED)
    if reason is None:
        instance.report_run_failed(run)
        return
    data = JobFailureData(error=None, failure_reason=reason)
    event = dg.DagsterEvent(DagsterEventType.RUN_FAILURE.value, "training", event_specific_data=data)
    instance.report_dagster_event(event, run.run_id)


@pytest.mark.parametrize(
    "reason", [RunFailureReason.STEP_FAILURE, RunFailureReason.JOB_INITIALIZATION_FAILURE, RunFailureReason.RUN_EXCEPTION]
)
def test_what_fails_by_itself_is_given_up_after_three_times(instance: dg.DagsterInstance, reason: RunFailureReason) -> None:
    for count in range(TRIES):
        assert not is_given_up(runs_of(instance, INTENT)), count
        failed(instance, reason)
    assert is_given_up(runs_of(instance, INTENT))


@pytest.mark.parametrize("reason", [None, RunFailureReason.UNEXPECTED_TERMINATION])
def test_a_run_that_was_killed_is_no_try_but_it_is_not_started_for_ever(
    instance: dg.DagsterInstance, reason: RunFailureReason | None
) -> None:
    for count in range(MOST_RUNS):
        assert not is_given_up(runs_of(instance, INTENT)), count
        failed(instance, reason)
    assert is_given_up(runs_of(instance, INTENT))


def test_kills_between_failures_do_not_shorten_the_tries(instance: dg.DagsterInstance) -> None:
    for _ in range(TRIES - 1):
        failed(instance, RunFailureReason.STEP_FAILURE)
        failed(instance, None)
    assert not is_given_up(runs_of(instance, INTENT))
    failed(instance, RunFailureReason.STEP_FAILURE)
    assert is_given_up(runs_of(instance, INTENT))


@pytest.mark.long
def test_a_release_whose_evaluation_fails_again_and_again_is_refused_with_how_often(shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    world = shop.copy(shop.with_first_release())[0]
    assert shop.train(world).success

    def fail(*_: object) -> None:
        raise Unavailable("MLflow is down")

    monkeypatch.setattr(world.platform.registry, "release", fail)
    for _ in range(TRIES):
        world.clock.advance(timedelta(hours=1))
        assert world.tick("release") == 1
    assert world.tick("release") == 0
    refused = world.policy(NAME).last("v2", "refuse")
    assert refused is not None
    assert refused.author.why == "its evaluation and staging came to nothing in 3 runs: look at their logs"
