"""What a model's ``defs.yaml`` says: the schema is these classes, and nothing else decides what a model is.

Durations are ``timedelta`` here and ``24h``, ``90s``, ``14d`` in the file. Contradictions are refused on construction
with a :class:`SpecError` that says what to write instead.
"""

import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal, get_args

from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.drill import Drill
from mlops_assets.core.errors import SpecError
from mlops_assets.core.gate_spec import GatePolicy, Gates
from mlops_assets.core.pii import Pii
from mlops_assets.core.serving_spec import Serving
from mlops_assets.core.slo_spec import Slo

ColumnType = Literal["float", "integer", "string", "boolean", "timestamp"]
DriftPolicy = Literal["fixed", "calibrated"]
OnlinePolicy = Literal["null", "default", "refuse"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


def check_name(name: str) -> None:
    """See that a model may be called ``name``, else raise :class:`SpecError`."""
    _require(
        bool(_NAME.fullmatch(name)),
        f"name: got {name!r}, expected lower-case words joined by hyphens, such as 'fraud-detector'",
    )


def _require_import_path(field_name: str, value: str) -> None:
    _require(
        bool(_IMPORT_PATH.fullmatch(value)),
        f"{field_name}: got {value!r}, expected an import path such as 'my_package.my_module:my_function'",
    )


@dataclass(frozen=True)
class Column:
    """One column of a landed dataset, and what a value of it may be.

    ``pii`` marks what tells who somebody is: its values are shown nowhere. A unit, entity or input of the name of a marked column of
    ``events`` is hashed or dropped before an answer is logged.
    """

    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_null_rate: float = 1.0
    pii: Pii | None = None

    def __post_init__(self) -> None:
        bounded = self.minimum is not None or self.maximum is not None
        _require(
            not bounded or self.type in ("float", "integer"),
            f"minimum and maximum are for numbers, this column is a {self.type}: remove them or change its type",
        )
        _require(
            self.minimum is None or self.maximum is None or self.minimum <= self.maximum,
            f"minimum {self.minimum} is above maximum {self.maximum}: swap them",
        )
        _require(0 <= self.max_null_rate <= 1, f"max_null_rate: got {self.max_null_rate}, expected a share of 0 to 1")


@dataclass(frozen=True)
class Dataset:
    """Rows that land as Parquet files under ``<model>/<dataset>/<YYYY-MM-DD>/`` in the landing bucket."""

    key: tuple[str, ...]
    time: str
    columns: dict[str, Column]
    min_rows: int = 1
    known_at: str | None = None

    def __post_init__(self) -> None:
        for name in (*self.key, self.time, *([self.known_at] if self.known_at else [])):
            _require(
                name in self.columns,
                f"column {name!r} is named by key, time or known_at but is not under columns: add it ({', '.join(self.columns)})",
            )
        for name in (self.time, *([self.known_at] if self.known_at else [])):
            _require(
                self.columns[name].type == "timestamp",
                f"column {name!r} is used as a time: give it type 'timestamp', not {self.columns[name].type!r}",
            )
            _require(
                self.columns[name].pii is None,
                f"column {name!r} is used as a time and marked pii: every answer is kept by its time; remove the mark",
            )
        _require(len(self.key) > 0, "key: list at least one column that identifies a row")


@dataclass(frozen=True)
class Data:
    """The datasets of a model. ``events`` (what is predicted) and ``labels`` (what came true) are required."""

    start: date
    datasets: dict[str, Dataset]
    end: date | None = None
    max_quarantined_share: float = 0.1
    freshness: timedelta = timedelta(days=2)

    def __post_init__(self) -> None:
        for name in ("events", "labels"):
            _require(name in self.datasets, f"data.datasets: {name!r} is missing (got {', '.join(self.datasets) or 'none'}): add it")
        for name in self.datasets:
            _require(name.isidentifier(), f"data.datasets: {name!r} must be a plain word such as 'weather'")
        _require(
            self.datasets["events"].key == self.datasets["labels"].key,
            "data.datasets: events and labels must have the same key, since they are joined on it",
        )
        _require(0 <= self.max_quarantined_share <= 1, f"max_quarantined_share: got {self.max_quarantined_share}, expected 0 to 1")


@dataclass(frozen=True)
class Label:
    """The binary outcome. It counts once it is older than ``horizon``; a score from ``decision_threshold`` up is a yes."""

    column: str
    horizon: timedelta
    decision_threshold: float = 0.5

    def __post_init__(self) -> None:
        _require(self.horizon >= timedelta(0), "label.horizon: a label cannot be known before its event")
        _require(0 < self.decision_threshold < 1, f"label.decision_threshold: got {self.decision_threshold}, expected between 0 and 1")


@dataclass(frozen=True)
class Feature:
    """One input of the model. A category is given to the model as its place in ``categories``, an unknown one as -1.

    ``default`` stands in for a value that the online store does not have, where :class:`Online` says so. What is marked ``pii`` is hashed
    or dropped before an answer is logged, and shown nowhere; without a mark that of the column of ``events`` of the same name counts.
    """

    name: str
    categories: tuple[str, ...] = ()
    default: float | str | None = None
    pii: Pii | None = None

    def __post_init__(self) -> None:
        twice = sorted({category for category in self.categories if self.categories.count(category) > 1})
        _require(not twice, f"features.inputs: {self.name!r} has the category {', '.join(twice)} twice: remove one")
        kind, expected = (str, "a string") if self.categories else (int | float, "a number")
        fits = self.default is None or (isinstance(self.default, kind) and not isinstance(self.default, bool))
        _require(fits, f"features.inputs: {self.name!r} has the default {self.default!r}, expected {expected}")


@dataclass(frozen=True)
class Online:
    """What the model sees of a value that the online store does not have, or has of a time too long ago: ``null``, the ``default`` of
    the input, or nothing, since the request is refused.
    """

    missing: OnlinePolicy = "null"
    stale: OnlinePolicy = "null"

    def __post_init__(self) -> None:
        for name in ("missing", "stale"):
            got = getattr(self, name)
            _require(
                got in get_args(OnlinePolicy),
                f"features.online.{name}: got {got!r}, expected one of {', '.join(get_args(OnlinePolicy))} (null in quotes)",
            )

    @property
    def uses_defaults(self) -> bool:
        return "default" in (self.missing, self.stale)


@dataclass(frozen=True)
class Features:
    """Where the inputs come from: a Feast feature service, fed by the views that ``transform`` computes from the datasets."""

    service: str
    entities: tuple[str, ...]
    transform: str
    inputs: tuple[Feature, ...]
    unit: str
    lookback: timedelta = timedelta(days=7)
    online: Online = field(default_factory=Online)

    def __post_init__(self) -> None:
        _require_import_path("features.transform", self.transform)
        names = [feature.name for feature in self.inputs]
        _require(len(names) > 0, "features.inputs: name at least one feature")
        twice = sorted({name for name in names if names.count(name) > 1})
        _require(not twice, f"features.inputs: {', '.join(twice)} stands there twice: remove one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.inputs)


@dataclass(frozen=True)
class Training:
    """``trainer`` follows :class:`mlops_assets.ports.Trainer`. It sees rows of at most ``window`` before the holdout."""

    trainer: str
    window: timedelta
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    min_rows: int = 100

    def __post_init__(self) -> None:
        _require_import_path("training.trainer", self.trainer)
        _require(self.window > timedelta(0), "training.window: must be longer than nothing, e.g. '60d'")


@dataclass(frozen=True)
class Holdout:
    """The newest ``window`` of labelled rows: judged on, never trained on."""

    window: timedelta
    min_positives: int = 50

    def __post_init__(self) -> None:
        _require(self.window > timedelta(0), "holdout.window: must be longer than nothing, e.g. '7d'")
        _require(self.min_positives > 0, "holdout.min_positives: must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class Drift:
    """The served features and scores of the last ``window`` (event time) against the training baseline.

    A report is made ``every`` so often while there is traffic; drift asks for one training a ``cooldown``, which doubles with each one in a
    row that came to nothing.

    Policy ``fixed``: a PSI above ``max_psi`` has drifted. ``calibrated``: a PSI has drifted that windows of the baseline itself have so
    seldom that without drift at most a share ``alpha`` of the reports names any feature. It needs six days of training data, or six windows
    where those are shorter, and a window no longer than the training data; of a window longer than a sixth of them it asks that its
    sixths stray independently.
    """

    window: timedelta = timedelta(days=1)
    policy: DriftPolicy = "fixed"
    max_psi: float = 0.2
    alpha: float = 0.05
    min_rows: int = 200
    every: timedelta = timedelta(hours=1)
    cooldown: timedelta = timedelta(hours=6)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.window > timedelta(0), "drift.window: must be longer than nothing, e.g. '1d'")
        _require(self.max_psi > 0, f"drift.max_psi: got {self.max_psi}, expected a PSI above 0, e.g. 0.2")
        _require(0 < self.alpha < 0.5, f"drift.alpha: got {self.alpha}, expected a share of false alarms between 0 and 0.5, e.g. 0.05")
        _require(self.min_rows > 0, "drift.min_rows: must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class LivePerformance:
    """What the champion must be worth once labels are in: its AUC on what it answered in the last ``window`` of event time that is due.

    At least ``floor``; without one, at least what it had on its holdout less ``margin``. It has failed when it is shown to be below,
    wrongly 1 - ``confidence`` of the time at most; with fewer than ``min_positives`` of either outcome nothing is concluded.
    """

    window: timedelta = timedelta(days=7)
    floor: float | None = None
    margin: float = 0.05
    confidence: float = 0.95
    min_positives: int = 50

    def __post_init__(self) -> None:
        _require(self.window >= timedelta(hours=1), "performance.window: must be an hour at least, e.g. '7d'")
        _require(self.floor is None or 0 < self.floor < 1, f"performance.floor: got {self.floor}, expected an AUC between 0 and 1")
        _require(self.margin >= 0, "performance.margin: must not be negative")
        _require(0.5 < self.confidence < 1, f"performance.confidence: got {self.confidence}, expected between 0.5 and 1, e.g. 0.95")
        _require(self.min_positives > 0, "performance.min_positives: must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class Retrain:
    """When a new release is trained, and under which gate policy it is judged.

    The first is trained when ``first_after`` lies before the holdout. Drift trains again when the PSI of some watched feature is above
    ``on_drift_above``, which may be more than the PSI at which a report fails: weather always drifts. ``None`` never trains on drift, and
    so does a week in which it has trained ``max_per_week`` times.
    """

    first_after: timedelta = timedelta(days=28)
    after_days: int | None = None
    after_days_gate: GatePolicy = "refresh"
    on_drift_above: float | None = 0.2
    on_drift_gate: GatePolicy = "refresh"
    max_per_week: int = 3
    schedule: str | None = None

    def __post_init__(self) -> None:
        _require(self.after_days is None or self.after_days > 0, "retrain.after_days: a positive number of days of data")
        _require(
            self.max_per_week > 0, f"retrain.max_per_week: got {self.max_per_week}, expected at least 1; on_drift_above: null never trains"
        )


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is declared of one model."""

    name: str
    description: str
    owners: tuple[str, ...]
    data: Data
    label: Label
    features: Features
    training: Training
    holdout: Holdout
    gates: Gates
    canary: Canary
    drift: Drift = field(default_factory=Drift)
    performance: LivePerformance = field(default_factory=LivePerformance)
    retrain: Retrain = field(default_factory=Retrain)
    serving: Serving = field(default_factory=Serving)
    slo: Slo = field(default_factory=Slo)
    drill: Drill = field(default_factory=Drill)

    def __post_init__(self) -> None:
        check_name(self.name)
        labels, events = self.data.datasets["labels"], self.data.datasets["events"]
        _require(
            self.label.column in labels.columns,
            f"label.column: {self.label.column!r} is not a column of labels ({', '.join(labels.columns)})",
        )
        _require(
            self.features.unit in events.columns,
            f"features.unit: {self.features.unit!r} is not a column of events ({', '.join(events.columns)})",
        )
        missing = [name for name in self.features.entities if name not in events.columns]
        _require(not missing, f"features.entities: {', '.join(missing)} is not a column of events ({', '.join(events.columns)})")
        _require(
            self.label.column not in self.features.names,
            f"features.inputs: {self.label.column!r} is the label: a model that sees its label learns nothing; remove it",
        )
        unknown = [name for name in self.drift.ignore if name not in self.features.names]
        _require(not unknown, f"drift.ignore: {', '.join(unknown)} is not an input feature ({', '.join(self.features.names)})")
        off = [part.column for part in self.gates.slices if part.column not in events.columns]
        _require(not off, f"gates.slices: {', '.join(off)} is not a column of events ({', '.join(events.columns)})")
        self._check_pii()

    @property
    def slug(self) -> str:
        """The model's name where hyphens are not allowed: asset keys, groups, Python packages."""
        return self.name.replace("-", "_")

    @property
    def pii(self) -> dict[str, Pii]:
        """What becomes of the marked fields before they are logged, by name: of the columns of events, and of inputs.

        A unit, an entity and what a request says beside its inputs have the names of columns of events.
        """
        columns = {name: column.pii for name, column in self.data.datasets["events"].columns.items() if column.pii is not None}
        return columns | {feature.name: feature.pii for feature in self.features.inputs if feature.pii is not None}

    @property
    def watched(self) -> tuple[str, ...]:
        """The inputs whose drift is judged: what is not ignored, and is not dropped before anybody can look at it."""
        return tuple(name for name in self.features.names if name not in self.drift.ignore and self.pii.get(name) != "drop")

    def _check_pii(self) -> None:
        columns, marks = self.data.datasets["events"].columns, self.pii
        for feature in self.features.inputs:
            column = columns[feature.name].pii if feature.name in columns else None
            _require(
                feature.pii is None or column is None or feature.pii == column,
                f"features.inputs: {feature.name!r} is marked pii: {feature.pii}, and the column of events pii: {column}: write it once",
            )
            _require(
                marks.get(feature.name) != "hash" or bool(feature.categories),
                f"features.inputs: {feature.name!r} is a number and marked pii: hash: nothing could be told of its drift; write pii: drop",
            )
        _require(
            marks.get(self.features.unit) != "drop",
            f"features.unit: {self.features.unit!r} is marked pii: drop, but answers are joined with labels by it: write pii: hash",
        )
        labels = self.data.datasets["labels"].columns
        _require(
            labels[self.label.column].pii is None,
            f"label.column: {self.label.column!r} is marked pii, but performance is nothing else than what is told of it: remove the mark",
        )
        sliced = [part.column for part in self.gates.slices if columns[part.column].pii]
        _require(not sliced, f"gates.slices: {', '.join(sliced)} is marked pii, and the certificate names the values of slices: remove one")
