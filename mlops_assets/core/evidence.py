"""What was seen of the releases of one model since a canary step began.

Gateways count since their own start. An :class:`Observation` adds up the increases between two looks, gateway by gateway; when a
gateway was restarted its new counts are all new, and what it counted between the last look and its end is lost. The same holds of
one release whose counts fell: a gateway forgets them with the release's cluster.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

_Sum = TypeVar("_Sum")

LATENCY_BOUNDS_MS: tuple[float, ...] = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10000)
"""Upper bounds of the latency buckets in milliseconds; one more bucket holds what is slower."""

SCORE_BINS = 50
"""Scores are counted in this many equal bins of ``[0, 1]``."""

UNIT_SIGNS = 64
"""How many random signs each unit has in a sketch of the requests a unit sends; see :func:`mlops_assets.core.sequential.design_effect`."""


@dataclass(frozen=True)
class Traffic:
    """Counts of one release: answered requests, those with a 5xx, and latencies by bucket (not cumulative)."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS_MS) + 1)

    def __add__(self, other: "Traffic") -> "Traffic":
        return self._combine(other, 1)

    def __sub__(self, other: "Traffic") -> "Traffic":
        return self._combine(other, -1)

    def _combine(self, other: "Traffic", sign: int) -> "Traffic":
        latency = tuple(a + sign * b for a, b in zip(self.latency, other.latency, strict=True))
        return Traffic(self.requests + sign * other.requests, self.errors + sign * other.errors, latency)

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    def latency_quantile(self, q: float) -> float | None:
        """The latency below which a share ``q`` of the requests lies, in ms, linear within its bucket; ``None`` without requests.

        Ten requests of 1 to 2 ms have their median in the middle of that bucket:

        >>> Traffic(10, 0, (0, 10, *(0,) * 20)).latency_quantile(0.5)
        1.5
        """
        total = sum(self.latency)
        if total == 0:
            return None
        rank, seen = q * total, 0
        for index, count in enumerate(self.latency):
            if count and seen + count >= rank:
                low = LATENCY_BOUNDS_MS[index - 1] if index else 0.0
                high = LATENCY_BOUNDS_MS[min(index, len(LATENCY_BOUNDS_MS) - 1)]
                return low + (high - low) * (rank - seen) / count
            seen += count
        return LATENCY_BOUNDS_MS[-1]


@dataclass(frozen=True)
class GatewaySample:
    """What one gateway has counted since ``epoch``, the time of its start."""

    gateway: str
    epoch: str
    traffic: Mapping[str, Traffic]


@dataclass(frozen=True)
class Expected:
    """What a release would have had if, at each look, errors and latencies were shared like that look's requests."""

    errors: float = 0.0
    latency: tuple[float, ...] = (0.0,) * (len(LATENCY_BOUNDS_MS) + 1)


@dataclass(frozen=True)
class Flips:
    """Requests that both releases answered, and those of them on which they decided differently."""

    pairs: int = 0
    flips: int = 0


@dataclass(frozen=True)
class Labelled:
    """Answers whose label has come, and the sum of their squared errors: of (score - label) squared."""

    rows: int = 0
    squared_error: float = 0.0


@dataclass(frozen=True)
class Logged:
    """What was read from the prediction log at one look; each by release.

    Args:
        position: how far the log has been read.
        scores: counts of scores in ``SCORE_BINS`` bins.
        units: sums of the signs of the requests' units, shape (``UNIT_SIGNS``,).
        flips: for the challenger, against the champion on the same requests.
    """

    position: str
    scores: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flips: Mapping[str, Flips] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """The evidence of one canary step, so far: running sums, of which every decision is a function.

    Args:
        since: when the step was first looked at.
        until: the latest look.
        traffic: increases since then, by release.
        expected: what each release would have had by its share of the requests alone.
        scores, units, flips: sums of what :class:`Logged` says.
        labelled: what has come true by now of all the step's answers.
        last: each gateway's latest sample, from which the next increase counts.
        log_position: how far the prediction log has been read.
    """

    since: datetime
    until: datetime
    traffic: Mapping[str, Traffic] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    scores: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    flips: Mapping[str, Flips] = field(default_factory=dict)
    labelled: Mapping[str, Labelled] = field(default_factory=dict)
    last: Mapping[str, GatewaySample] = field(default_factory=dict)
    log_position: str = ""


def begin(samples: Iterable[GatewaySample], log_position: str, now: datetime) -> Observation:
    """An observation of nothing yet: what the gateways counted before does not belong to it."""
    return Observation(now, now, last={sample.gateway: sample for sample in samples}, log_position=log_position)


def observe(seen: Observation, samples: Iterable[GatewaySample], logged: Logged, now: datetime) -> Observation:
    """Add what was counted since the last look. Looking twice at the same counts adds nothing."""
    traffic, expected, last = dict(seen.traffic), dict(seen.expected), dict(seen.last)
    for sample in samples:
        before = last.get(sample.gateway)
        base = before.traffic if before is not None and before.epoch == sample.epoch else {}
        new = {release: increase(base.get(release, Traffic()), counts) for release, counts in sample.traffic.items()}
        both = sum(new.values(), Traffic())
        for release, counts in new.items():
            traffic[release] = traffic.get(release, Traffic()) + counts
            expected[release] = _shared(expected.get(release, Expected()), counts, both)
        # A release that is missing from one look must not be counted anew when it is back.
        last[sample.gateway] = replace(sample, traffic={**base, **sample.traffic})
    return replace(
        seen,
        until=now,
        traffic=traffic,
        expected=expected,
        scores=_added(seen.scores, logged.scores),
        units=_added(seen.units, logged.units),
        flips=_summed(seen.flips, logged.flips, lambda a, b: Flips(a.pairs + b.pairs, a.flips + b.flips)),
        last=last,
        log_position=logged.position,
    )


def increase(before: Traffic, now: Traffic) -> Traffic:
    """What was counted between two looks; all of ``now`` if the counts fell, since they began anew then."""
    if now.requests < before.requests or now.errors < before.errors or sum(now.latency) < sum(before.latency):
        return now
    return now - before


def _shared(so_far: Expected, own: Traffic, both: Traffic) -> Expected:
    share = own.requests / both.requests if both.requests else 0.0
    timed = sum(both.latency)
    timed_share = sum(own.latency) / timed if timed else 0.0
    latency = tuple(a + b * timed_share for a, b in zip(so_far.latency, both.latency, strict=True))
    return Expected(so_far.errors + both.errors * share, latency)


def _added(so_far: Mapping[str, tuple[int, ...]], new: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return _summed(so_far, new, lambda old, more: tuple(a + b for a, b in zip(old, more, strict=True)))


def _summed(so_far: Mapping[str, _Sum], new: Mapping[str, _Sum], plus: Callable[[_Sum, _Sum], _Sum]) -> dict[str, _Sum]:
    return {**so_far, **{key: plus(so_far[key], value) if key in so_far else value for key, value in new.items()}}
