"""Whether drift is reason enough to train again, and how often it may be.

A report is a reason once. A training that came to nothing does not make the next one more promising: each such release in a row doubles
the cooldown, until one is promoted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mlops_assets.core.monitoring_spec import Drift, Retrain
from mlops_assets.core.policy import Policy
from mlops_assets.core.verdict import Outcome, Verdict

WEEK = timedelta(days=7)
MOST_DOUBLINGS = 6
"""A cooldown of six hours grows to sixteen days, and no further: the season may turn in between."""


@dataclass(frozen=True)
class DriftReport:
    """What a drift report says, as far as a training is asked for by it.

    Args:
        at: when it was made.
        rows: how many answers it is of; None where it does not say.
        largest_psi: the PSI of the watched feature that moved most; None if none could be measured.
        drifted: the features that have drifted by the model's own policy.
        cause: where a person finds it.
    """

    at: datetime
    rows: int | None
    largest_psi: float | None
    drifted: str
    cause: str = ""


@dataclass(frozen=True)
class Trainings:
    """What was trained before.

    Args:
        newest: when the newest training set was made.
        by_drift: when trainings were asked for because of drift.
        in_vain: how many releases in a row drift had trained that were refused or aborted.
    """

    newest: datetime | None = None
    by_drift: Sequence[datetime] = field(default=())
    in_vain: int = 0


def calls_for_training(retrain: Retrain, drift: Drift, report: DriftReport, trained: datetime | None) -> Verdict:
    """Whether the report is bad enough to train on, and of after the newest training.

    Under the policy ``calibrated`` a PSI that the baseline's own windows have too is not.
    """
    limit, psi = retrain.on_drift_above, report.largest_psi
    if limit is None:
        return _no(psi, limit, "retrain.on_drift_above is null: drift never trains")
    if trained is not None and report.at <= trained:
        return _no(psi, limit, f"the newest drift report is of {report.at:%Y-%m-%d %H:%M}, before the newest training")
    if psi is None or (report.rows is not None and report.rows < drift.min_rows):
        reason = f"the report is of {report.rows or 0} rows, drift.min_rows is {drift.min_rows}"
        return Verdict("drift", Outcome.INCONCLUSIVE, psi, limit, reason, report.rows or 0)
    if psi <= limit:
        return _no(psi, limit, f"the largest PSI is {psi:.3f}, not above {limit:g}")
    if drift.policy == "calibrated" and not report.drifted:
        return _no(psi, limit, f"the largest PSI is {psi:.3f}, which windows of the baseline have by themselves")
    return Verdict("drift", Outcome.PASS, psi, limit, f"the largest PSI is {psi:.3f}, above {limit:g}", report.rows or 0)


def may_train_now(retrain: Retrain, cooldown: timedelta, past: Trainings, now: datetime, pace: float) -> Verdict:
    """Whether drift may ask for a training now: after its cooldown, and within ``retrain.max_per_week``.

    Args:
        cooldown: as declared.
        pace: how many seconds of cooldowns and weeks pass in one second of the clock.

    The verdict is in the clock's time: seconds since the newest training against the cooldown, or trainings against the cap.
    """
    wait = cooldown / pace * 2 ** min(past.in_vain, MOST_DOUBLINGS)
    since = None if past.newest is None else now - past.newest
    if since is not None and since < wait:
        vain = f", doubled by each of the {past.in_vain} releases before that came to nothing" if past.in_vain else ""
        reason = f"the newest training is {since} ago, the cooldown is {wait}{vain}"
        return Verdict("cooldown", Outcome.FAIL, since.total_seconds(), wait.total_seconds(), reason)
    recent = sum(now - at < WEEK / pace for at in past.by_drift)
    if recent >= retrain.max_per_week:
        reason = f"drift has trained {recent} times within {WEEK / pace}, retrain.max_per_week is {retrain.max_per_week}"
        return Verdict("max_per_week", Outcome.FAIL, recent, retrain.max_per_week, reason)
    return Verdict("max_per_week", Outcome.PASS, recent, retrain.max_per_week, f"training {recent + 1} of {retrain.max_per_week} this week")


def came_to_nothing(policy: Policy) -> tuple[str, ...]:
    """The releases that were registered since the newest promotion and refused or aborted, newest first, up to one that was not."""
    found: list[str] = []
    for change in reversed(policy.log):
        if change.action == "promote":
            break
        if change.action == "register":
            last = policy.last(change.release)
            if last is None or last.action not in ("refuse", "abort"):
                break
            found.append(change.release)
    return tuple(found)


def _no(value: float | None, limit: float | None, reason: str) -> Verdict:
    return Verdict("drift", Outcome.FAIL, value, limit, reason)
