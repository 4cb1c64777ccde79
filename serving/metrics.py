"""What a serving process counts of itself. BentoML's ``/metrics`` shows it beside its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS

Role = Literal["live", "shadow"]
Outcome = Literal["answered", "invalid", "unready", "failed"]

_SCORE_BOUNDS = tuple(bound / 20 for bound in range(1, 21))
_OUTCOMES: tuple[Outcome, ...] = ("answered", "invalid", "unready", "failed")


@dataclass(frozen=True)
class RoleMetrics:
    """The counters of one role. Looking a label up at each request would cost more than counting."""

    outcomes: dict[Outcome, Counter]
    score: Histogram
    latency: Histogram

    def answered(self, scores: list[float], seconds: float) -> None:
        """Count an answered request with its rows' scores and how long it took."""
        self.outcomes["answered"].inc(len(scores))
        for score in scores:
            self.score.observe(score)
        self.latency.observe(seconds)


@dataclass(frozen=True)
class LogMetrics:
    """What became of the logged answers."""

    model: str
    release: str
    shipped: Counter
    lost: Counter
    pending_bytes: Gauge

    def lose(self, reason: str, count: int) -> None:
        """Count lost answers; ``reason`` is ``queue``, ``disk``, ``space``, ``torn`` or ``damaged`` (then whole segments)."""
        if count:
            self.lost.labels(self.model, self.release, reason).inc(count)


@dataclass(frozen=True)
class Metrics:
    """All of a serving process."""

    model: str
    release: str
    registry: CollectorRegistry = field(default=REGISTRY)

    def roles(self) -> dict[Role, RoleMetrics]:
        """The request counters, by role."""
        labels = ("model", "release", "role")
        registry = self.registry
        total = Counter("mlops_predictions", "Rows answered, and requests refused or failed", (*labels, "outcome"), registry=registry)
        score = Histogram("mlops_prediction_score", "Scores given", labels, buckets=_SCORE_BOUNDS, registry=registry)
        bounds = tuple(bound / 1000 for bound in LATENCY_BOUNDS_MS)
        latency = Histogram("mlops_prediction_latency_seconds", "Time to answer a request", labels, buckets=bounds, registry=registry)
        roles: tuple[Role, ...] = ("live", "shadow")
        return {
            role: RoleMetrics(
                {outcome: total.labels(self.model, self.release, role, outcome) for outcome in _OUTCOMES},
                score.labels(self.model, self.release, role),
                latency.labels(self.model, self.release, role),
            )
            for role in roles
        }

    def log(self) -> LogMetrics:
        """The counters of the prediction log; ``lost`` has the label ``reason``."""
        labels, registry = ("model", "release"), self.registry
        shipped = Counter("mlops_prediction_log_shipped", "Answers that reached the object store", labels, registry=registry)
        lost = Counter("mlops_prediction_log_lost", "Answers that were given but not logged", (*labels, "reason"), registry=registry)
        pending = Gauge(
            "mlops_prediction_log_pending_bytes", "Bytes on disk, not shipped yet", labels, multiprocess_mode="livesum", registry=registry
        )
        return LogMetrics(
            self.model,
            self.release,
            shipped.labels(self.model, self.release),
            lost,
            pending.labels(self.model, self.release),
        )
