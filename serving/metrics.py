"""What a serving process counts of itself. BentoML's ``/metrics`` shows it beside its own.

What is counted at each request is kept in plain numbers, which :class:`_Tallies` hands out when it is asked: ``prometheus_client``'s own
counters take a lock for each, together a third of the time that a request takes here. They are changed by the event loop's thread alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS

Role = Literal["live", "shadow"]
Outcome = Literal["answered", "invalid", "unready", "overloaded", "unlogged", "failed"]

_SCORE_BOUNDS = tuple(bound / 20 for bound in range(1, 21))
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
_OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_ROLES: tuple[Role, ...] = get_args(Role)


class Tally:
    """A histogram of plain numbers.

    >>> tally = Tally((1, 2))
    >>> for value in (0.5, 1, 1.5, 9): tally.observe(value)
    >>> tally.buckets(), tally.total
    ([('1.0', 2), ('2.0', 3), ('+Inf', 4)], 12.0)
    """

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self.total = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """How many were at most each bound, as Prometheus wants it."""
        found, below = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            found.append((floatToGoString(bound), below))
        return found


@dataclass(frozen=True)
class RoleMetrics:
    """What is counted of one role."""

    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(_OUTCOMES, 0))
    score: Tally = field(default_factory=lambda: Tally(_SCORE_BOUNDS))
    latency: Tally = field(default_factory=lambda: Tally([bound / 1000 for bound in LATENCY_BOUNDS_MS]))

    def answered(self, scores: Iterable[float], seconds: float) -> None:
        """Count an answered request with its rows' scores and how long it took."""
        rows = 0
        for score in scores:
            self.score.observe(score)
            rows += 1
        self.outcomes["answered"] += rows
        self.latency.observe(seconds)

    def refused(self, outcome: Outcome) -> None:
        """Count a request without an answer."""
        self.outcomes[outcome] += 1


@dataclass(frozen=True)
class LogMetrics:
    """What became of the logged answers."""

    model: str
    release: str
    shipped: Counter
    lost: Counter
    pending_bytes: Gauge
    full: Gauge

    def lose(self, reason: str, count: int) -> None:
        """Count lost answers.

        ``reason`` is ``disk`` (it does not take them), ``space`` (too many wait to be shipped), ``torn`` (cut off or damaged in a file
        that a process or machine left when it failed) or ``damaged`` (whole segments that cannot be read).
        """
        if count:
            self.lost.labels(self.model, self.release, reason).inc(count)


@dataclass(frozen=True)
class Metrics:
    """All of a serving process."""

    model: str
    release: str
    registry: CollectorRegistry = field(default=REGISTRY)
    roles: dict[Role, RoleMetrics] = field(default_factory=lambda: {role: RoleMetrics() for role in _ROLES})
    batch: Tally = field(default_factory=lambda: Tally(_BATCH_BOUNDS))

    def __post_init__(self) -> None:
        self.registry.register(_Tallies(self))

    def log(self) -> LogMetrics:
        """The counters of the prediction log; ``lost`` has the label ``reason``."""
        labels, registry = ("model", "release"), self.registry
        shipped = Counter("mlops_prediction_log_shipped", "Answers that reached the object store", labels, registry=registry)
        lost = Counter("mlops_prediction_log_lost", "Answers that were given but not logged", (*labels, "reason"), registry=registry)
        pending = Gauge(
            "mlops_prediction_log_pending_bytes", "Bytes on disk, not shipped yet", labels, multiprocess_mode="livesum", registry=registry
        )
        full = Gauge(
            "mlops_prediction_log_full", "1 while answers cannot be logged", labels, multiprocess_mode="livemax", registry=registry
        )
        who = (self.model, self.release)
        return LogMetrics(*who, shipped.labels(*who), lost, pending.labels(*who), full.labels(*who))


class _Tallies(Collector):
    """Hands the plain numbers to whoever scrapes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        names, roles, per_role = ("model", "release"), self._metrics.roles, ("model", "release", "role")
        who = [self._metrics.model, self._metrics.release]
        total = CounterMetricFamily("mlops_predictions", "Rows answered, and requests refused or failed", labels=(*per_role, "outcome"))
        score = HistogramMetricFamily("mlops_prediction_score", "Scores given", labels=per_role)
        latency = HistogramMetricFamily("mlops_prediction_latency_seconds", "Time to answer a request", labels=per_role)
        for role, counted in roles.items():
            for outcome, count in counted.outcomes.items():
                total.add_metric([*who, role, outcome], count)
            score.add_metric([*who, role], counted.score.buckets(), counted.score.total)
            latency.add_metric([*who, role], counted.latency.buckets(), counted.latency.total)
        batch = HistogramMetricFamily("mlops_batch_rows", "Rows that the model was given at once", labels=names)
        batch.add_metric(who, self._metrics.batch.buckets(), self._metrics.batch.total)
        yield from (total, score, latency, batch)
