"""What a model's ``defs.yaml`` says of its data: the datasets that land, their columns, and the label."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from mlops_assets.core.pii import Pii
from mlops_assets.core.spec_checks import require

ColumnType = Literal["float", "integer", "string", "boolean", "timestamp"]


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
        require(
            not bounded or self.type in ("float", "integer"),
            f"minimum and maximum are for numbers, this column is a {self.type}: remove them or change its type",
        )
        require(
            self.minimum is None or self.maximum is None or self.minimum <= self.maximum,
            f"minimum {self.minimum} is above maximum {self.maximum}: swap them",
        )
        require(0 <= self.max_null_rate <= 1, f"max_null_rate: got {self.max_null_rate}, expected a share of 0 to 1")


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
            require(
                name in self.columns,
                f"column {name!r} is named by key, time or known_at but is not under columns: add it ({', '.join(self.columns)})",
            )
        for name in (self.time, *([self.known_at] if self.known_at else [])):
            require(
                self.columns[name].type == "timestamp",
                f"column {name!r} is used as a time: give it type 'timestamp', not {self.columns[name].type!r}",
            )
            require(
                self.columns[name].pii is None,
                f"column {name!r} is used as a time and marked pii: every answer is kept by its time; remove the mark",
            )
        require(len(self.key) > 0, "key: list at least one column that identifies a row")


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
            require(name in self.datasets, f"data.datasets: {name!r} is missing (got {', '.join(self.datasets) or 'none'}): add it")
        for name in self.datasets:
            require(name.isidentifier(), f"data.datasets: {name!r} must be a plain word such as 'weather'")
        require(
            self.datasets["events"].key == self.datasets["labels"].key,
            "data.datasets: events and labels must have the same key, since they are joined on it",
        )
        require(0 <= self.max_quarantined_share <= 1, f"max_quarantined_share: got {self.max_quarantined_share}, expected 0 to 1")


@dataclass(frozen=True)
class Label:
    """The binary outcome. It counts once it is older than ``horizon``; a score from ``decision_threshold`` up is a yes."""

    column: str
    horizon: timedelta
    decision_threshold: float = 0.5

    def __post_init__(self) -> None:
        require(self.horizon >= timedelta(0), "label.horizon: a label cannot be known before its event")
        require(0 < self.decision_threshold < 1, f"label.decision_threshold: got {self.decision_threshold}, expected between 0 and 1")
