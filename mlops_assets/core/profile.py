"""Histograms of columns over bins that are frozen at training time, so that any two windows can be added and compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.errors import BadData

VERSION = 1
QUANTILES = 10
"""A column of many values is cut into this many bins of equal counts."""


@dataclass(frozen=True)
class ColumnProfile:
    """Counts of one column.

    Args:
        edges: borders of the bins, ascending; bin ``i`` holds ``edges[i-1] < value <= edges[i]``.
        counts: values by bin, one more than edges; the first and the last bin are open.
        nulls: missing values.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    nulls: int

    @property
    def rows(self) -> int:
        return sum(self.counts) + self.nulls


@dataclass(frozen=True)
class Profile:
    """The columns of one set of rows."""

    columns: tuple[ColumnProfile, ...]

    def to_json(self) -> str:
        columns = [{"name": c.name, "edges": c.edges, "counts": c.counts, "nulls": c.nulls} for c in self.columns]
        return json.dumps({"version": VERSION, "columns": columns}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        document = json.loads(text)
        if document.get("version") != VERSION:
            raise BadData(f"a profile of version {document.get('version')!r}, expected {VERSION}: make it again from its rows")
        return cls(tuple(ColumnProfile(c["name"], tuple(c["edges"]), tuple(c["counts"]), c["nulls"]) for c in document["columns"]))


def baseline(names: Sequence[str], matrix: np.ndarray) -> Profile:
    """Freeze bins at the quantiles of these rows, and count the rows over them.

    Args:
        names: of the columns.
        matrix: shape (rows, columns), read as the float32 that models see; NaN is missing.

    Raises:
        BadData: if the matrix has another number of columns.

    A column of at most 20 different values has a bin for each, and one for what lies below, between and above them, so that a
    new category is seen as such:

    >>> baseline(["weekday"], np.array([[0.0], [0.0], [1.0], [2.0]])).columns[0].counts
    (0, 2, 0, 1, 0, 1, 0)
    """
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise BadData(f"got a matrix of shape {matrix.shape}, expected {len(names)} columns: {', '.join(names)}")
    edges = [_edges(matrix[:, index]) for index in range(len(names))]
    empty = Profile(tuple(ColumnProfile(name, border, (0,) * (len(border) + 1), 0) for name, border in zip(names, edges, strict=True)))
    return profile(empty, matrix)


def profile(base: Profile, matrix: np.ndarray) -> Profile:
    """Count rows over the bins of ``base``; shape (rows, columns), in its order of columns.

    Raises:
        BadData: if the matrix has another number of columns.
    """
    if matrix.ndim != 2 or matrix.shape[1] != len(base.columns):
        raise BadData(
            f"got a matrix of shape {matrix.shape}, expected {len(base.columns)} columns: {', '.join(c.name for c in base.columns)}"
        )
    return Profile(tuple(_count(column, matrix[:, index]) for index, column in enumerate(base.columns)))


def merge(left: Profile, right: Profile) -> Profile:
    """The profile of both sets of rows together; the order does not matter.

    Raises:
        BadData: if they were counted over different bins.
    """
    require_same_bins(left, right)
    return Profile(tuple(_add(a, b) for a, b in zip(left.columns, right.columns, strict=True)))


def require_same_bins(left: Profile, right: Profile) -> None:
    """See that two profiles can be merged or compared, else raise :class:`BadData`."""
    if [c.name for c in left.columns] != [c.name for c in right.columns]:
        names = [", ".join(c.name for c in side.columns) for side in (left, right)]
        raise BadData(f"one profile has the columns {names[0]}, the other {names[1]}: count both over the same baseline")
    for one, other in zip(left.columns, right.columns, strict=True):
        if one.edges != other.edges:
            raise BadData(f"column {one.name!r} was counted over different bins: count both over the same baseline")


def _add(a: ColumnProfile, b: ColumnProfile) -> ColumnProfile:
    return ColumnProfile(a.name, a.edges, tuple(x + y for x, y in zip(a.counts, b.counts, strict=True)), a.nulls + b.nulls)


def _edges(column: np.ndarray) -> tuple[float, ...]:
    values = column.astype(np.float32)
    values = values[np.isfinite(values)]
    distinct = np.unique(values)
    if len(distinct) <= 2 * QUANTILES:
        edges = np.concatenate([np.nextafter(distinct, np.float32(-np.inf)), distinct])
    else:
        edges = np.quantile(values.astype(float), np.arange(1, QUANTILES) / QUANTILES)
    return tuple(float(edge) for edge in np.unique(edges))


def _count(column: ColumnProfile, values: np.ndarray) -> ColumnProfile:
    values = values.astype(np.float32).astype(float)
    missing = np.isnan(values)
    places = np.searchsorted(np.asarray(column.edges), values[~missing], side="left")
    counts = np.bincount(places, minlength=len(column.edges) + 1)
    return ColumnProfile(column.name, column.edges, tuple(int(count) for count in counts), int(missing.sum()))
