"""Histograms and moments of columns on cells that are frozen at training time, so that any two windows can be added and compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import numpy as np

from mlops_assets.core import grid
from mlops_assets.core.errors import BadData
from mlops_assets.core.packing import pack, unpack

VERSION = 2
QUANTILES = 10
"""A column of many values is cut into this many bins of equal counts."""

BLOCK = 1 << 16
"""Values that are counted at once: they and the counts stay in a core's cache."""

FEW = 1 << 12
"""Up to so many values are counted one by one, which is faster than going through all cells."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations from it, and range of the finite values of a column; the range of none is None."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float | None = None
    maximum: float | None = None

    @property
    def deviation(self) -> float | None:
        """The standard deviation with divisor n; None without values."""
        return (self.squares / self.count) ** 0.5 if self.count else None

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together. Source: Chan, Golub and LeVeque, *Algorithms for Computing the Sample Variance*, 1983.

        >>> Moments(2, 1.0, 2.0, 0.0, 2.0).merged(Moments(1, 4.0, 0.0, 4.0, 4.0))
        Moments(count=3, mean=2.0, squares=8.0, minimum=0.0, maximum=4.0)
        """
        if not self.count or not other.count:
            return self if self.count else other
        count, apart = self.count + other.count, other.mean - self.mean
        mean = (self.count * self.mean + other.count * other.mean) / count
        squares = self.squares + other.squares + apart * apart * self.count * other.count / count
        low, high = (
            [side for side in sides if side is not None] for sides in ((self.minimum, other.minimum), (self.maximum, other.maximum))
        )
        return Moments(count, mean, squares, min(low), max(high))


@dataclass(frozen=True)
class ColumnProfile:
    """Counts of one column.

    Args:
        centre: the cells of :mod:`mlops_assets.core.grid` lie around it: the median of the baseline.
        cuts: the coarse bins, ascending; bin ``i`` holds the cells from ``cuts[i-1]`` to before ``cuts[i]``.
        categorical: whether the baseline had so few different values that each has a bin of its own.
        cells: the cells that hold values, ascending; those of infinities are the first and the last.
        cell_counts: values by cell.
        nulls: missing values.
        moments: of the finite values.
    """

    name: str
    centre: float
    cuts: tuple[int, ...]
    categorical: bool
    cells: tuple[int, ...]
    cell_counts: tuple[int, ...]
    nulls: int
    moments: Moments

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Values by coarse bin, one more than cuts; the first and the last bin are open and hold the infinities."""
        bins = np.searchsorted(self.cuts, self.cells, side="right")
        return tuple(int(count) for count in np.bincount(bins, self.cell_counts, minlength=len(self.cuts) + 1))

    @cached_property
    def rows(self) -> int:
        return sum(self.cell_counts) + self.nulls

    @property
    def infinite(self) -> int:
        """Values that are not finite and not missing either."""
        return sum(n for cell, n in zip(self.cells, self.cell_counts, strict=True) if abs(cell) == grid.INFINITE)


class Tally:
    """Counts the values of one column as they come, over the cells of its baseline; what it holds does not grow.

    >>> tally = Tally(baseline(["delay"], np.arange(5.0)[:, None]).columns[0])
    >>> tally.add(np.array([1, 1, 7], dtype=np.float32))
    >>> tally.profile().counts, tally.profile().moments.mean
    ((0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1), 3.0)
    """

    def __init__(self, column: ColumnProfile) -> None:
        self._column = column
        self._few: list[np.ndarray] = []
        self._counts: np.ndarray | None = None  # by pattern, once there are more than few
        self._moments = Moments()

    def add(self, values: np.ndarray) -> None:
        """Count values, shape (values,), read as the float32 that models see; NaN is missing."""
        if not len(values):
            return
        if self._counts is None and len(values) + sum(map(len, self._few)) <= FEW:
            self._few.append(self._patterns(values))
            return
        counts = np.zeros(grid.CELLS, dtype=np.int64)  # its own, which stays in the cache while other columns take turns
        for start in range(0, len(values), BLOCK):
            counts += np.bincount(self._patterns(values[start : start + BLOCK]), minlength=grid.CELLS)
        for found in self._few:
            np.add.at(counts, found, 1)
        self._few = []
        self._counts = counts if self._counts is None else self._counts + counts

    def _patterns(self, values: np.ndarray) -> np.ndarray:
        """The cells of a block of values, whose moments are added on the way."""
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.ascontiguousarray(values, dtype=np.float32)
            distance = block - np.float32(self._column.centre)
        self._moments = self._moments.merged(_moments(block, distance, self._column.centre))
        return grid.patterns(distance)

    def profile(self) -> ColumnProfile:
        few = np.concatenate([np.empty(0, dtype=np.intp), *self._few])
        cells, counts, nulls = grid.by_pattern(few) if self._counts is None else grid.by_cell(self._counts)
        column = self._column
        made = tuple(cells.tolist()), tuple(counts.tolist())
        return ColumnProfile(column.name, column.centre, column.cuts, column.categorical, *made, nulls, self._moments)


@dataclass(frozen=True)
class Profile:
    """The columns of one set of rows."""

    columns: tuple[ColumnProfile, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def to_json(self) -> str:
        """A document of some kB a column; :meth:`from_json` gives the same profile to the last bit."""
        return json.dumps({"version": VERSION, "columns": [_document(column) for column in self.columns]}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Read what :meth:`to_json` wrote.

        Raises:
            BadData: if it is of another version.
        """
        document = json.loads(text)
        if document.get("version") != VERSION:
            raise BadData(f"a profile of version {document.get('version')!r}, expected {VERSION}: make it again from its rows")
        return cls(tuple(_column(entry) for entry in document["columns"]))


def baseline(names: Sequence[str], matrix: np.ndarray) -> Profile:
    """Freeze cells and bins by these rows, and count the rows over them.

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
    return profile(Profile(tuple(_frozen(name, matrix[:, index]) for index, name in enumerate(names))), matrix)


def profile(base: Profile, matrix: np.ndarray) -> Profile:
    """Count rows over the cells of ``base``; shape (rows, columns), in its order of columns.

    Raises:
        BadData: if the matrix has another number of columns.
    """
    if matrix.ndim != 2 or matrix.shape[1] != len(base.columns):
        raise BadData(f"got a matrix of shape {matrix.shape}, expected {len(base.columns)} columns: {', '.join(base.names)}")
    tallies = [Tally(column) for column in base.columns]
    for index, tally in enumerate(tallies):
        tally.add(matrix[:, index])
    return Profile(tuple(tally.profile() for tally in tallies))


def bins_of(column: ColumnProfile, values: np.ndarray) -> np.ndarray:
    """The coarse bin of each value, shape (values,); that of a missing one comes after the last."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance = values.astype(np.float32) - np.float32(column.centre)
    missing = np.isnan(distance)
    bins = np.searchsorted(column.cuts, grid.cell_of(np.where(missing, np.float32(0), distance)), side="right")
    return np.where(missing, len(column.cuts) + 1, bins)


def merge(left: Profile, right: Profile) -> Profile:
    """The profile of both sets of rows together. Order and grouping do not matter: counts are whole numbers, moments agree to rounding.

    Raises:
        BadData: if they were counted over different bins.
    """
    return merge_all((left, right))


def merge_all(profiles: Sequence[Profile]) -> Profile:
    """The profile of the rows of all of them, at least one; as merging one after the other, but each is looked at once.

    Raises:
        BadData: if they were counted over different bins.
    """
    for other in profiles[1:]:
        require_same_bins(profiles[0], other)
    return Profile(tuple(_added(parts) for parts in zip(*(profile.columns for profile in profiles), strict=True)))


def require_same_bins(left: Profile, right: Profile) -> None:
    """See that two profiles can be merged or compared, else raise :class:`BadData`."""
    if left.names != right.names:
        names = [", ".join(side.names) for side in (left, right)]
        raise BadData(f"one profile has the columns {names[0]}, the other {names[1]}: count both over the same baseline")
    for one, other in zip(left.columns, right.columns, strict=True):
        if (one.centre, one.cuts) != (other.centre, other.cuts):
            raise BadData(f"column {one.name!r} was counted over different bins: count both over the same baseline")


def _added(parts: Sequence[ColumnProfile]) -> ColumnProfile:
    cells, places = np.unique(np.concatenate([np.asarray(part.cells, dtype=np.int64) for part in parts]), return_inverse=True)
    counts = np.zeros(len(cells), dtype=np.int64)
    np.add.at(counts, places, np.concatenate([np.asarray(part.cell_counts, dtype=np.int64) for part in parts]))
    one, moments = parts[0], reduce(Moments.merged, (part.moments for part in parts))
    made = tuple(cells.tolist()), tuple(counts.tolist())
    return ColumnProfile(one.name, one.centre, one.cuts, one.categorical, *made, sum(part.nulls for part in parts), moments)


def _frozen(name: str, column: np.ndarray) -> ColumnProfile:
    """An empty profile whose bins follow these values."""
    with np.errstate(over="ignore"):
        values = column.astype(np.float32)
    values = values[np.isfinite(values)]
    centre = np.quantile(values, 0.5, method="lower") if len(values) else np.float32(0)
    distinct = np.unique(values)
    categorical = len(distinct) <= 2 * QUANTILES
    with np.errstate(over="ignore"):
        if categorical:
            cells = grid.cell_of(distinct - centre)
            cuts = np.concatenate([cells, cells + 1])
        else:
            cuts = grid.cell_of(np.quantile(values, np.arange(1, QUANTILES) / QUANTILES) - centre) + 1
    return ColumnProfile(name, float(centre), tuple(np.unique(cuts).tolist()), categorical, (), (), 0, Moments())


def _moments(values: np.ndarray, distance: np.ndarray, centre: float) -> Moments:
    """Of the values whose distance is finite. Deviations are taken from the centre, so that squares of large values do not cancel."""
    low, high = values.min(), values.max()
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite([low - np.float32(centre), high - np.float32(centre)]).all()
    if not finite:  # the least and the largest of anything with a NaN are NaN
        values = values[np.isfinite(distance)]
        if not len(values):
            return Moments()
        low, high = values.min(), values.max()
    exact = values.astype(np.float64)
    exact -= centre
    offset = float(exact.mean())
    squares = max(float(np.einsum("i,i->", exact, exact)) - len(exact) * offset * offset, 0.0)
    return Moments(len(exact), centre + offset, squares, float(low), float(high))


def _document(column: ColumnProfile) -> dict[str, Any]:
    steps = [b - a for a, b in pairwise((0, *column.cells))]
    moments = column.moments
    return {
        "name": column.name,
        "centre": column.centre,
        "cuts": column.cuts,
        "categorical": column.categorical,
        "cells": pack(steps),
        "counts": pack(column.cell_counts),
        "nulls": column.nulls,
        "moments": [moments.count, moments.mean, moments.squares, moments.minimum, moments.maximum],
    }


def _column(entry: dict[str, Any]) -> ColumnProfile:
    cells = tuple(np.cumsum(unpack(entry["cells"])).tolist())
    counts, moments = tuple(unpack(entry["counts"]).tolist()), Moments(*entry["moments"])
    return ColumnProfile(entry["name"], entry["centre"], tuple(entry["cuts"]), entry["categorical"], cells, counts, entry["nulls"], moments)
