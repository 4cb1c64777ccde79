"""What a release counts of itself. BentoML's ``/metrics`` shows it beside its own.

What is counted lies in memory that all workers of the release share, so that each of them tells the sums, and :class:`_Families` hands them
out when it is asked. ``prometheus_client``'s own counters take a lock for each, together a third of the time that a request takes here,
and add up several processes through files. What is counted at each request is changed by the event loop's thread alone.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS
from mlops_assets.core.signature import Signature
from serving.feature_metrics import FeatureMetrics
from serving.shared_numbers import Numbers, Part

Role = Literal["live", "shadow"]
Outcome = Literal["answered", "invalid", "unready", "overloaded", "unlogged", "failed", "unfeatured"]
LookUp = Literal["fresh", "missing", "stale", "unavailable"]
Loss = Literal["disk", "space", "torn", "damaged"]

_SCORE_BOUNDS = tuple(bound / 20 for bound in range(1, 21))
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
_OUTCOMES: dict[Outcome, int] = {outcome: place for place, outcome in enumerate(get_args(Outcome))}
_LOOK_UPS: dict[LookUp, int] = {look_up: place for place, look_up in enumerate(get_args(LookUp))}
_LOSSES: dict[Loss, int] = {loss: place for place, loss in enumerate(get_args(Loss))}


class Tally:
    """A histogram of plain numbers.

    >>> tally = Tally((1, 2))
    >>> for value in (0.5, 1, 1.5, 9): tally.observe(value)
    >>> tally.buckets(), tally.total
    ([('1.0', 2.0), ('2.0', 3.0), ('+Inf', 4.0)], 12.0)
    """

    __slots__ = ("_bounds", "_mine", "_part")

    def __init__(self, bounds: Sequence[float], numbers: Numbers | None = None) -> None:
        self._bounds, self._part = tuple(bounds), (numbers or Numbers()).take(len(bounds) + 2)
        self._mine = self._part.mine  # a count below each bound, one above all, and the sum of the values

    def observe(self, value: float) -> None:
        mine = self._mine
        mine[bisect_left(self._bounds, value)] += 1
        mine[-1] += value

    @property
    def total(self) -> float:
        return self._part.total()[-1]

    def buckets(self) -> list[tuple[str, float]]:
        """How many were at most each bound, as Prometheus wants it."""
        found, below = [], 0.0
        for bound, count in zip((*self._bounds, float("inf")), self._part.total()[:-1], strict=True):
            below += count
            found.append((floatToGoString(bound), below))
        return found


class RoleMetrics:
    """What is counted of one role."""

    def __init__(self, numbers: Numbers) -> None:
        self._outcomes = numbers.take(len(_OUTCOMES))
        self.score = Tally(_SCORE_BOUNDS, numbers)
        self.latency = Tally([bound / 1000 for bound in LATENCY_BOUNDS_MS], numbers)

    def answered(self, scores: Iterable[float], seconds: float) -> None:
        """Count an answered request with its rows' scores and how long it took."""
        rows = 0
        for score in scores:
            self.score.observe(score)
            rows += 1
        self._outcomes.mine[0] += rows
        self.latency.observe(seconds)

    def refused(self, outcome: Outcome) -> None:
        """Count a request without an answer."""
        self._outcomes.mine[_OUTCOMES[outcome]] += 1

    def outcomes(self) -> dict[Outcome, float]:
        return dict(zip(_OUTCOMES, self._outcomes.total(), strict=True))


class OnlineMetrics:
    """What the online store had: for each row and view whether its values were ``fresh``, and how long a request waited for them."""

    def __init__(self, numbers: Numbers) -> None:
        self._look_ups = numbers.take(len(_LOOK_UPS))
        self.seconds = Tally([bound / 10_000 for bound in LATENCY_BOUNDS_MS], numbers)

    def count(self, look_up: LookUp, rows: int) -> None:
        self._look_ups.mine[_LOOK_UPS[look_up]] += rows

    def families(self, model: str, release: str) -> Iterator[Metric]:
        names, who = ("model", "release"), [model, release]
        found = CounterMetricFamily("mlops_online_features", "Views looked up for rows, and what was found", labels=(*names, "outcome"))
        for look_up, count in zip(_LOOK_UPS, self._look_ups.total(), strict=True):
            found.add_metric([*who, look_up], count)
        seconds = HistogramMetricFamily("mlops_online_read_seconds", "Time to look the inputs of a request up", labels=names)
        seconds.add_metric(who, self.seconds.buckets(), self.seconds.total)
        yield from (found, seconds)


class LogMetrics:
    """What became of the logged answers. Any thread may count."""

    def __init__(self, numbers: Numbers) -> None:
        self._lock = threading.Lock()
        self._shipped, self._lost, self._now = numbers.take(1), numbers.take(len(_LOSSES)), numbers.take(2)

    def ship(self, count: int) -> None:
        """Count answers that reached the object store."""
        with self._lock:
            self._shipped.mine[0] += count

    def lose(self, reason: Loss, count: int) -> None:
        """Count lost answers.

        ``reason`` is ``disk`` (it does not take them), ``space`` (too many wait to be shipped), ``torn`` (cut off or damaged in a file
        that a process or machine left when it failed) or ``damaged`` (whole segments that cannot be read).
        """
        with self._lock:
            self._lost.mine[_LOSSES[reason]] += count

    def waits(self, pending_bytes: int, is_full: bool) -> None:
        """What waits on this worker's disk now, and whether it takes no more."""
        self._now.mine[0], self._now.mine[1] = pending_bytes, is_full

    def forget(self, worker: int) -> None:
        """What waits now is no longer an ended worker's."""
        self._now.forget(worker)

    def families(self, model: str, release: str) -> Iterator[Metric]:
        names, who = ("model", "release"), [model, release]
        shipped = CounterMetricFamily("mlops_prediction_log_shipped", "Answers that reached the object store", labels=names)
        shipped.add_metric(who, self._shipped.total()[0])
        lost = CounterMetricFamily("mlops_prediction_log_lost", "Answers that were given but not logged", labels=(*names, "reason"))
        for reason, count in zip(_LOSSES, self._lost.total(), strict=True):
            lost.add_metric([*who, reason], count)
        pending = GaugeMetricFamily("mlops_prediction_log_pending_bytes", "Bytes on disk, not shipped yet", labels=names)
        full = GaugeMetricFamily("mlops_prediction_log_full", "Workers that cannot log answers now", labels=names)
        for family, value in zip((pending, full), self._now.total(), strict=True):
            family.add_metric(who, value)
        yield from (shipped, lost, pending, full)


class WorkerMetrics:
    """How many workers accept requests, and how many have the model."""

    def __init__(self, numbers: Numbers) -> None:
        self._part: Part = numbers.take(2)

    def accepts(self, does: bool) -> None:
        """Whether this worker accepts requests."""
        self._part.mine[0] = does

    def loaded(self) -> None:
        """This worker has the model."""
        self._part.mine[1] = 1

    @property
    def accepting(self) -> int:
        return int(self._part.total()[0])

    @property
    def loading(self) -> int:
        """How many accept requests that they cannot answer yet."""
        accepting, loaded = self._part.total()
        return max(0, int(accepting - loaded))

    def forget(self, worker: int) -> None:
        """An ended worker does neither."""
        self._part.forget(worker)


class LoadMetrics:
    """What a worker has to do now. The event loop's thread counts, another publishes it to the other workers."""

    def __init__(self, numbers: Numbers) -> None:
        self._part = numbers.take(2)
        self.in_flight = 0

    def publish(self, queued_rows: int) -> None:
        """Show the requests under way, and how many rows wait for the model."""
        self._part.mine[0], self._part.mine[1] = self.in_flight, queued_rows

    def forget(self, worker: int) -> None:
        """An ended worker has nothing to do."""
        self._part.forget(worker)

    def families(self, model: str, release: str) -> Iterator[Metric]:
        names = ("model", "release")
        in_flight = GaugeMetricFamily("mlops_requests_in_flight", "Requests that are being answered", labels=names)
        queue = GaugeMetricFamily("mlops_queue_rows", "Rows that wait for the model, or are with it", labels=names)
        for family, value in zip((in_flight, queue), self._part.total(), strict=True):
            family.add_metric([model, release], value)
        yield from (in_flight, queue)


class Metrics:
    """All that a release counts.

    Args:
        model: the model's name.
        release: the release.
        registry: shows it.
        numbers: where it is counted, if several workers do.
    """

    def __init__(self, model: str, release: str, registry: CollectorRegistry = REGISTRY, numbers: Numbers | None = None) -> None:
        numbers = numbers or Numbers()
        self.model, self.release = model, release
        self.roles: dict[Role, RoleMetrics] = {role: RoleMetrics(numbers) for role in get_args(Role)}
        self.batch = Tally(_BATCH_BOUNDS, numbers)
        self.online = OnlineMetrics(numbers)
        self.log = LogMetrics(numbers)
        self.workers = WorkerMetrics(numbers)
        self.load = LoadMetrics(numbers)
        self.features: FeatureMetrics | None = None
        self._numbers, self._digest = numbers, ""
        registry.register(_Families(self))

    def describe(self, digest: str, signature: Signature) -> FeatureMetrics:
        """What the release is, once its model is here; harmless if that was told."""
        if self.features is None:
            self.features, self._digest = FeatureMetrics(signature, self._numbers), digest
        return self.features

    def families(self) -> Iterator[Metric]:
        """What can be told only of a loaded model."""
        if self.features is None:
            return
        info = GaugeMetricFamily("mlops_release_info", "The model that answers", labels=("model", "release", "digest"))
        info.add_metric([self.model, self.release, self._digest], 1)
        yield info
        yield from self.features.families(self.model, self.release)


class _Families(Collector):
    """Hands the numbers to whoever scrapes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        names, roles, per_role = ("model", "release"), self._metrics.roles, ("model", "release", "role")
        who = [self._metrics.model, self._metrics.release]
        total = CounterMetricFamily("mlops_predictions", "Rows answered, and requests refused or failed", labels=(*per_role, "outcome"))
        score = HistogramMetricFamily("mlops_prediction_score", "Scores given", labels=per_role)
        latency = HistogramMetricFamily("mlops_prediction_latency_seconds", "Time to answer a request", labels=per_role)
        for role, counted in roles.items():
            for outcome, count in counted.outcomes().items():
                total.add_metric([*who, role, outcome], count)
            score.add_metric([*who, role], counted.score.buckets(), counted.score.total)
            latency.add_metric([*who, role], counted.latency.buckets(), counted.latency.total)
        batch = HistogramMetricFamily("mlops_batch_rows", "Rows that the model was given at once", labels=names)
        batch.add_metric(who, self._metrics.batch.buckets(), self._metrics.batch.total)
        workers = GaugeMetricFamily("mlops_workers", "Processes that answer", labels=names)
        workers.add_metric(who, self._metrics.workers.accepting)
        yield from (total, score, latency, batch, workers)
        yield from self._metrics.online.families(*who)
        yield from self._metrics.log.families(*who)
        yield from self._metrics.load.families(*who)
        yield from self._metrics.families()
