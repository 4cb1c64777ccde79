"""Service level objectives: how fast a release burns its error budget, by what the gateways counted.

Multi-window, multi-burn-rate alerts of *The Site Reliability Workbook* (Beyer and others, O'Reilly 2018), chapter 5. A burn rate of 1
spends the whole budget in exactly the objective's window. Each alert asks two windows: the long one shows that it matters, the short one
that it is still going on, so that the alert ends soon after the trouble does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, GatewaySample, Traffic, increase
from mlops_assets.core.slo_spec import MONTH, Slo
from mlops_assets.core.verdict import Outcome, Verdict

Severity = Literal["page", "ticket"]
ObjectiveName = Literal["availability", "latency"]

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Burn:
    """One alert: the budget burns ``factor`` times as fast as it may, over ``long`` and over ``short``."""

    factor: float
    long: timedelta
    short: timedelta
    severity: Severity


BURNS = (
    Burn(14.4, _HOUR, 5 * _MINUTE, "page"),  # 2 % of a month's budget in an hour
    Burn(6.0, 6 * _HOUR, 30 * _MINUTE, "page"),  # 5 % in six
    Burn(3.0, _DAY, 2 * _HOUR, "ticket"),  # 10 % in a day
    Burn(1.0, 3 * _DAY, 6 * _HOUR, "ticket"),  # 10 % in three
)
"""The workbook's table 5-8, for a window of 30 days."""

_SPACING = ((_HOUR, _MINUTE), (6 * _HOUR, 5 * _MINUTE), (3 * _DAY, _HOUR), (MONTH + _DAY, _DAY))
"""Up to which age of a point how far apart points are kept: a fifth of the short window that they are asked for, or less."""


def burns(slo: Slo, pace: float = 1.0) -> tuple[Burn, ...]:
    """The alerts of an objective, with windows in proportion to its own: the factors mean the same shares of the budget then.

    >>> [(burn.factor, str(burn.long), str(burn.short)) for burn in burns(Slo(window=timedelta(days=15)))][0]
    (14.4, '0:30:00', '0:02:30')
    """
    scale = _scale(slo, pace)
    return tuple(replace(burn, long=burn.long * scale, short=burn.short * scale) for burn in BURNS)


def _scale(slo: Slo, pace: float) -> float:
    return slo.window / MONTH / pace


@dataclass(frozen=True)
class Objective:
    """What share of the requests is to be good, and what a bad one did, for a sentence."""

    name: ObjectiveName
    target: float
    failing: str


def objectives(slo: Slo) -> tuple[Objective, ...]:
    return (
        Objective("availability", slo.availability, "failed"),
        Objective("latency", slo.latency_share, f"took longer than {slo.latency_ms:g} ms"),
    )


@dataclass(frozen=True)
class Counts:
    """Requests and those with a 5xx; requests whose latency is known and those slower than the objective's bound."""

    requests: int = 0
    errors: int = 0
    timed: int = 0
    slow: int = 0

    @classmethod
    def of(cls, traffic: Traffic, slo: Slo) -> "Counts":
        within = LATENCY_BOUNDS_MS.index(slo.latency_ms) + 1
        return cls(traffic.requests, traffic.errors, sum(traffic.latency), sum(traffic.latency[within:]))

    def __add__(self, other: "Counts") -> "Counts":
        return self._combine(other, 1)

    def __sub__(self, other: "Counts") -> "Counts":
        return self._combine(other, -1)

    def _combine(self, other: "Counts", sign: int) -> "Counts":
        return Counts(
            self.requests + sign * other.requests,
            self.errors + sign * other.errors,
            self.timed + sign * other.timed,
            self.slow + sign * other.slow,
        )

    def bad_of(self, objective: ObjectiveName) -> tuple[int, int]:
        """How many were bad, of how many."""
        return (self.errors, self.requests) if objective == "availability" else (self.slow, self.timed)


@dataclass(frozen=True)
class Point:
    """What was counted of each release in production since the history began."""

    at: datetime
    counts: Mapping[str, Counts]


@dataclass(frozen=True)
class History:
    """Counts at points in time, ever farther apart the older they are, and what each gateway said last."""

    points: tuple[Point, ...] = ()
    last: Mapping[str, GatewaySample] = field(default_factory=dict)


def count(
    history: History, samples: Iterable[GatewaySample], serving: frozenset[str], slo: Slo, now: datetime, pace: float = 1.0
) -> History:
    """Add what the gateways counted since the last look. Looking twice at the same counts adds nothing.

    Args:
        serving: the releases that answer callers now. What others answer to copies of requests is no part of an objective.
    """
    last = dict(history.last)
    totals = dict(history.points[-1].counts) if history.points else {}
    for sample in samples:
        before = last.get(sample.gateway)
        base = before.traffic if before is not None and before.epoch == sample.epoch else {}
        # What was counted before the very first look does not belong to the history.
        for release in sample.traffic.keys() & serving if history.points else ():
            new = increase(base.get(release, Traffic()), sample.traffic[release])
            totals[release] = totals.get(release, Counts()) + Counts.of(new, slo)
        last[sample.gateway] = replace(sample, traffic={**base, **sample.traffic})
    points = _thinned((*history.points, Point(now, totals)), now, _scale(slo, pace))
    return History(_without_idle(points, serving), last)


def _thinned(points: tuple[Point, ...], now: datetime, scale: float) -> tuple[Point, ...]:
    """The newest point, and of the older ones those that are far enough after the last one kept."""
    kept: list[Point] = []
    for point in points[:-1]:
        spacing = next((apart for age, apart in _SPACING if now - point.at <= age * scale), None)
        if spacing is not None and (not kept or point.at - kept[-1].at >= spacing * scale):
            kept.append(point)
    return (*kept, points[-1])


def _without_idle(points: tuple[Point, ...], serving: frozenset[str]) -> tuple[Point, ...]:
    """Releases that no longer serve and have answered nothing since the oldest point are forgotten."""
    oldest, newest = points[0].counts, points[-1].counts
    idle = {release for release, counts in newest.items() if release not in serving and oldest.get(release) == counts}
    if not idle:
        return points
    return tuple(replace(point, counts={r: counts for r, counts in point.counts.items() if r not in idle}) for point in points)


def counted(history: History, release: str | None, window: timedelta, now: datetime) -> Counts:
    """What was counted of a release, or of all, in the last ``window``, or since the history began if that is shorter."""
    if not history.points:
        return Counts()
    start = next((point for point in reversed(history.points) if point.at <= now - window), history.points[0])
    newest = history.points[-1].counts
    wanted = newest if release is None else newest.keys() & {release}
    return sum((newest[each] - start.counts.get(each, Counts()) for each in wanted), Counts())


def judge(slo: Slo, history: History, release: str, now: datetime, pace: float = 1.0) -> tuple[Verdict, ...]:
    """One verdict for each objective and alert, in the order of :data:`BURNS`. ``value`` is the burn rate over the long window."""
    return tuple(_verdict(slo, history, release, now, objective, burn) for objective in objectives(slo) for burn in burns(slo, pace))


def _verdict(slo: Slo, history: History, release: str, now: datetime, objective: Objective, burn: Burn) -> Verdict:
    name = f"{objective.name} over {_told(burn.long)}"
    bad, total = counted(history, release, burn.long, now).bad_of(objective.name)
    if total < slo.min_requests:
        reason = f"{total} requests of {release} over {_told(burn.long)}, {slo.min_requests} are needed"
        return Verdict(name, Outcome.INCONCLUSIVE, None, burn.factor, reason, total)
    rate = burn_rate(bad, total, objective.target)
    recent_bad, recent = counted(history, release, burn.short, now).bad_of(objective.name)
    recent_rate = burn_rate(recent_bad, recent, objective.target)
    burning = rate > burn.factor and recent_rate > burn.factor
    reason = (
        f"{bad} of {total} requests of {release} {objective.failing} over {_told(burn.long)}: {objective.name} burns {rate:.3g} times as "
        f"fast as its {objective.target:.6g} allows, {recent_rate:.3g} times over the last {_told(burn.short)} (limit {burn.factor:g})"
    )
    return Verdict(name, Outcome.FAIL if burning else Outcome.PASS, rate, burn.factor, reason, total)


def burn_rate(bad: int, total: int, target: float) -> float:
    """How many times as fast as it may the budget burns; 0 without requests.

    Three bad requests of a thousand are three times what 99.9 % allows:

    >>> round(burn_rate(3, 1000, 0.999), 6)
    3.0
    """
    return bad / total / (1 - target) if total else 0.0


def budget_left(slo: Slo, history: History, now: datetime, pace: float = 1.0) -> dict[ObjectiveName, float]:
    """The share of each objective's budget that is left of its window, all releases together; below 0 if it is overdrawn.

    An objective without requests is missing.
    """
    found: dict[ObjectiveName, float] = {}
    seen = counted(history, None, slo.window / pace, now)
    for objective in objectives(slo):
        bad, total = seen.bad_of(objective.name)
        if total:
            found[objective.name] = 1 - burn_rate(bad, total, objective.target)
    return found


def pages(slo: Slo, verdicts: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """Of the verdicts of :func:`judge` those that a person is woken for."""
    severities = [burn.severity for _ in objectives(slo) for burn in BURNS]
    return tuple(v for v, severity in zip(verdicts, severities, strict=True) if severity == "page" and v.outcome is Outcome.FAIL)


def _told(window: timedelta) -> str:
    """A duration as one says it.

    >>> _told(timedelta(hours=6)), _told(timedelta(minutes=5)), _told(timedelta(seconds=2.5)), _told(timedelta(days=3))
    ('6 h', '5 min', '2.5 s', '3 d')
    """
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if window >= unit and window % unit == timedelta(0):
            return f"{window // unit} {name}"
    return f"{window.total_seconds():.3g} s" if window < _HOUR else f"{window / _HOUR:.3g} h"
