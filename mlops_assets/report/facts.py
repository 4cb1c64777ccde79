"""What the report page of a model tells. Whatever was not measured yet is None or empty, and the page says so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from mlops_assets.core.shares import Span


@dataclass(frozen=True)
class Told:
    """A conclusion with its reason and when it was made. ``outcome`` is ``pass``, ``fail`` or ``inconclusive``."""

    name: str
    outcome: str
    reason: str
    at: datetime | None = None


@dataclass(frozen=True)
class ReleaseRow:
    """A release: why it was trained, what its gate said, how far it got and why no further."""

    release: str
    registered_at: datetime
    trigger: str
    cause: str
    gate: str
    stage: str
    reached: str
    why: str
    url: str


@dataclass(frozen=True)
class TrafficRow:
    """What the gateways counted of a release since they started; latencies in milliseconds."""

    release: str
    requests: int
    error_rate: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True)
class Scores:
    """A distribution of scores: counts in bins of equal width from 0 to 1. ``release`` is None for the baseline."""

    name: str
    release: str | None
    counts: tuple[int, ...]


@dataclass(frozen=True)
class DriftRow:
    """A column against its baseline; ``history`` has its PSI in earlier reports, oldest first."""

    column: str
    outcome: str
    psi: float | None
    limit: float | None
    importance: float | None
    history: tuple[float, ...]


@dataclass(frozen=True)
class DriftFacts:
    """The newest drift report."""

    at: datetime
    release: str
    rows: int
    summary: str
    columns: tuple[DriftRow, ...]
    url: str


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds it; both ends None where it has none."""

    value: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Metric:
    """What was expected of a metric before labels came, and what it came to."""

    name: str
    expected: Interval | None
    true: Interval | None


@dataclass(frozen=True)
class DrillFacts:
    """The newest rollback drill, and the seconds of its parts."""

    told: Told
    release: str
    objective: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Facts:
    """All that a report page tells of a model.

    Args:
        made_at: when it was gathered.
        live: one line on what is live and on its way.
        since: since when the champion is live.
        spans: who had the traffic when.
        features: one row a feature of the newest training set, with the columns of its ``statistics``.
        fresh: of each view, and of events and labels, whether it is as new as it must be.
    """

    model: str
    description: str
    owners: Sequence[str]
    made_at: datetime
    live: str
    champion: str | None
    since: datetime | None
    challenger: str | None
    spans: tuple[Span, ...]
    releases: tuple[ReleaseRow, ...]
    traffic: tuple[TrafficRow, ...]
    scores: tuple[Scores, ...]
    drift: DriftFacts | None
    metrics: tuple[Metric, ...]
    labelled: str
    features: tuple[Mapping[str, object], ...]
    fresh: tuple[Told, ...]
    skew: Told | None
    drill: DrillFacts | None
    links: Mapping[str, str]
