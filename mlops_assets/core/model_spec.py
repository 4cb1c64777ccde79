"""What a model's ``defs.yaml`` says: the schema is this class and those of its sections, and nothing else decides what a model is.

Durations are ``timedelta`` here and ``24h``, ``90s``, ``14d`` in the file. Contradictions are refused on construction
with a :class:`SpecError` that says what to write instead.
"""

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.data_spec import Data, Label
from mlops_assets.core.drill import Drill
from mlops_assets.core.feature_spec import Features
from mlops_assets.core.gate_spec import Gates
from mlops_assets.core.monitoring_spec import Drift, LivePerformance, Retrain
from mlops_assets.core.pii import Pii
from mlops_assets.core.retention import Retention
from mlops_assets.core.serving_spec import Serving
from mlops_assets.core.slo_spec import Slo
from mlops_assets.core.spec_checks import require, require_import_path
from mlops_assets.core.training_resources import Resources
from mlops_assets.core.triton_spec import Triton

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_name(name: str) -> None:
    """See that a model may be called ``name``, else raise :class:`SpecError`."""
    require(
        bool(_NAME.fullmatch(name)),
        f"name: got {name!r}, expected lower-case words joined by hyphens, such as 'fraud-detector'",
    )


@dataclass(frozen=True)
class Training:
    """``trainer`` follows :class:`mlops_assets.ports.Trainer`. It sees rows of at most ``window`` before the holdout.

    With ``resources`` it runs in a pod of its own on Kubernetes; without, in that of its run.
    """

    trainer: str
    window: timedelta
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    min_rows: int = 100
    resources: Resources | None = None

    def __post_init__(self) -> None:
        require_import_path("training.trainer", self.trainer)
        require(self.window > timedelta(0), "training.window: must be longer than nothing, e.g. '60d'")


@dataclass(frozen=True)
class Holdout:
    """The newest ``window`` of labelled rows: judged on, never trained on."""

    window: timedelta
    min_positives: int = 50

    def __post_init__(self) -> None:
        require(self.window > timedelta(0), "holdout.window: must be longer than nothing, e.g. '7d'")
        require(self.min_positives > 0, "holdout.min_positives: must be at least 1; no data is never a pass")


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
    triton: Triton = field(default_factory=Triton)
    retention: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        check_name(self.name)
        labels, events = self.data.datasets["labels"], self.data.datasets["events"]
        require(
            self.label.column in labels.columns,
            f"label.column: {self.label.column!r} is not a column of labels ({', '.join(labels.columns)})",
        )
        require(
            self.features.unit in events.columns,
            f"features.unit: {self.features.unit!r} is not a column of events ({', '.join(events.columns)})",
        )
        missing = [name for name in self.features.entities if name not in events.columns]
        require(not missing, f"features.entities: {', '.join(missing)} is not a column of events ({', '.join(events.columns)})")
        require(
            self.label.column not in self.features.names,
            f"features.inputs: {self.label.column!r} is the label: a model that sees its label learns nothing; remove it",
        )
        unknown = [name for name in self.drift.ignore if name not in self.features.names]
        require(not unknown, f"drift.ignore: {', '.join(unknown)} is not an input feature ({', '.join(self.features.names)})")
        off = [part.column for part in self.gates.slices if part.column not in events.columns]
        require(not off, f"gates.slices: {', '.join(off)} is not a column of events ({', '.join(events.columns)})")
        watched = max(self.drift.window, self.performance.window + self.label.horizon)
        require(
            self.retention.monitoring >= watched,
            f"retention.monitoring: got {self.retention.monitoring}, expected at least {watched}, which drift and performance look back on",
        )
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
            require(
                feature.pii is None or column is None or feature.pii == column,
                f"features.inputs: {feature.name!r} is marked pii: {feature.pii}, and the column of events pii: {column}: write it once",
            )
            require(
                marks.get(feature.name) != "hash" or bool(feature.categories),
                f"features.inputs: {feature.name!r} is a number and marked pii: hash: nothing could be told of its drift; write pii: drop",
            )
        require(
            marks.get(self.features.unit) != "drop",
            f"features.unit: {self.features.unit!r} is marked pii: drop, but answers are joined with labels by it: write pii: hash",
        )
        labels = self.data.datasets["labels"].columns
        require(
            labels[self.label.column].pii is None,
            f"label.column: {self.label.column!r} is marked pii, but performance is nothing else than what is told of it: remove the mark",
        )
        sliced = [part.column for part in self.gates.slices if columns[part.column].pii]
        require(not sliced, f"gates.slices: {', '.join(sliced)} is marked pii, and the certificate names the values of slices: remove one")
