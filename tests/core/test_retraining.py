"""When drift trains, and what keeps it from training for ever."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import SpecError
from mlops_assets.core.monitoring_spec import Drift, Retrain
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.retraining import DriftReport, Trainings, calls_for_training, came_to_nothing, may_train_now
from mlops_assets.core.verdict import Outcome

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RETRAIN = Retrain(on_drift_above=0.5, max_per_week=2)
REPORT = DriftReport(NOW, 5000, 0.9, "amount")
SOMEBODY = Author("somebody", "because")


@pytest.mark.parametrize(
    ("report", "retrain", "policy", "outcome"),
    [
        (REPORT, RETRAIN, "fixed", Outcome.PASS),
        (REPORT, replace(RETRAIN, on_drift_above=None), "fixed", Outcome.FAIL),
        (replace(REPORT, largest_psi=0.5), RETRAIN, "fixed", Outcome.FAIL),
        (replace(REPORT, largest_psi=None), RETRAIN, "fixed", Outcome.INCONCLUSIVE),
        (replace(REPORT, rows=199), RETRAIN, "fixed", Outcome.INCONCLUSIVE),
        (replace(REPORT, rows=200), RETRAIN, "fixed", Outcome.PASS),
        (replace(REPORT, drifted=""), RETRAIN, "fixed", Outcome.PASS),
        (replace(REPORT, drifted=""), RETRAIN, "calibrated", Outcome.FAIL),
        (replace(REPORT, at=NOW - 2 * HOUR), RETRAIN, "fixed", Outcome.FAIL),
    ],
    ids=[
        "a large PSI trains",
        "a model that never trains on drift",
        "a PSI at the limit",
        "nothing measured",
        "a sample too small",
        "a sample just large enough",
        "fixed: the limit is enough",
        "calibrated: what the baseline has by itself",
        "a report of before the newest training",
    ],
)
def test_a_report_calls_for_a_training(report: DriftReport, retrain: Retrain, policy: str, outcome: Outcome) -> None:
    verdict = calls_for_training(retrain, Drift(policy=policy, min_rows=200), report, NOW - HOUR)
    assert verdict.outcome is outcome
    assert verdict.reason


def test_a_report_is_a_reason_once() -> None:
    assert not calls_for_training(RETRAIN, Drift(), REPORT, REPORT.at).passed
    assert calls_for_training(RETRAIN, Drift(), REPORT, None).passed


@pytest.mark.parametrize(
    ("in_vain", "hours"), [(0, 6), (1, 12), (2, 24), (6, 384), (50, 384)], ids=["none", "one", "two", "six", "and no further"]
)
def test_each_release_that_came_to_nothing_doubles_the_cooldown(in_vain: int, hours: int) -> None:
    def may(since: timedelta, pace: float = 1.0) -> bool:
        return may_train_now(RETRAIN, 6 * HOUR, Trainings(NOW - since, (), in_vain), NOW, pace).passed

    assert may(hours * HOUR)
    assert not may(hours * HOUR - timedelta(seconds=1))
    assert may(hours * HOUR / 100, pace=100)


def test_a_cooldown_says_how_long_it_is_and_why() -> None:
    verdict = may_train_now(RETRAIN, 6 * HOUR, Trainings(NOW - HOUR, (), 2), NOW, 1.0)
    assert (verdict.value, verdict.threshold) == (3600, 24 * 3600)
    assert "doubled by each of the 2 releases before" in verdict.reason


@pytest.mark.parametrize(
    ("days_ago", "pace", "passed"),
    [((), 1, True), ((1,), 1, True), ((1, 6.9), 1, False), ((1, 7), 1, True), ((0.01, 0.06), 100, False), ((0.01, 0.07), 100, True)],
)
def test_drift_trains_so_often_a_week(days_ago: tuple[float, ...], pace: float, passed: bool) -> None:
    past = Trainings(NOW - 30 * DAY, [NOW - DAY * days for days in days_ago])
    verdict = may_train_now(RETRAIN, 6 * HOUR, past, NOW, pace)
    assert verdict.passed is passed
    assert verdict.threshold == 2


def registered(policy: Policy, release: str) -> Policy:
    return policy_changes.register(policy, release, release * 32, SOMEBODY, NOW)


def refused(policy: Policy, release: str) -> Policy:
    return policy_changes.refuse(registered(policy, release), release, SOMEBODY, NOW)


def test_only_releases_since_the_newest_promotion_came_to_nothing_in_a_row() -> None:
    policy = refused(Policy("tiny"), "v1")
    assert came_to_nothing(policy) == ("v1",)
    promotion = policies.Change(policy.generation + 1, NOW, "promote", "v2", SOMEBODY)
    policy = replace(registered(policy, "v2"), log=(*policy.log, promotion))
    assert came_to_nothing(policy) == ()
    policy = refused(refused(policy, "v3"), "v4")
    assert came_to_nothing(policy) == ("v4", "v3")
    assert came_to_nothing(registered(policy, "v5")) == ()  # it may still be promoted


def test_a_week_without_any_training_is_declared_otherwise() -> None:
    with pytest.raises(SpecError, match=r"max_per_week: got 0, expected at least 1; on_drift_above: null never trains"):
        Retrain(max_per_week=0)
