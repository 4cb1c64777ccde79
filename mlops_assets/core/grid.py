"""A grid of cells that every column is counted on: fine near the column's centre, coarse far away, and the same for every window.

A cell holds the float32 distances from the centre that agree in sign, exponent and the first 8 bits of the fraction, so a cell is at
most 1/256 as wide as it is far from the centre. Finding the cell of a value is one shift of its bits. Cells are numbered in the order
of values: 0 holds the centre, 1, 2, ... what lies above and -1, -2, ... what lies below it. Source: the log-linear histograms of Tene,
*HdrHistogram*, 2012, and Masson et al., *DDSketch*, VLDB 2019, on the bits of a float.
"""

import numpy as np

_DROPPED = 15
"""Bits of the fraction that are not looked at: float32 has 23."""

_SIGN = 1 << (31 - _DROPPED)
CELLS = 2 * _SIGN
"""How many bit patterns there are, of both signs, with those of infinity and NaN."""

INFINITE = 255 << (23 - _DROPPED)
"""The number of the cell of +infinity; that of -infinity is its negative."""


def patterns(distance: np.ndarray) -> np.ndarray:
    """The bit pattern, 0 to ``CELLS`` - 1, of float32 distances; shape (values,)."""
    return (distance.view(np.uint32) >> _DROPPED).astype(np.intp)


def by_cell(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Counts by pattern, shape (CELLS,), as the cells that are not empty in ascending order, their counts, and the number of NaN.

    >>> counts = np.bincount(patterns(np.array([-1.0, 0.0, -0.0, np.nan], dtype=np.float32)), minlength=CELLS)
    >>> [part.tolist() if isinstance(part, np.ndarray) else part for part in by_cell(counts)]
    [[-32512, 0], [1, 2], 1]
    """
    above, below = counts[: INFINITE + 1].copy(), counts[_SIGN : _SIGN + INFINITE + 1]
    missing = int(counts.sum() - above.sum() - below.sum())
    above[0] += below[0]  # 0.0 and -0.0 are one value
    up, down = np.flatnonzero(above), np.flatnonzero(below[1:]) + 1
    cells = np.concatenate([-down[::-1], up])
    return cells, np.concatenate([below[down[::-1]], above[up]]), missing


def by_pattern(found: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The same of patterns one by one, shape (values,), which for a few thousand is faster than going through all cells.

    >>> [int(part[0]) for part in by_pattern(patterns(np.array([2.0, 2.0], dtype=np.float32)))[:2]]
    [32768, 2]
    """
    cells = np.where(found < _SIGN, found, _SIGN - found)
    is_number = np.abs(cells) <= INFINITE
    kept, counts = np.unique(cells[is_number], return_counts=True)
    return kept, counts, int(len(found) - is_number.sum())


def cell_of(distance: np.ndarray) -> np.ndarray:
    """The number of each distance's cell, for distances that are not NaN; shape (values,).

    The distances 1 and 1.005 lie in neighbouring cells, 1 and 1.003 in one:

    >>> (cell_of(np.array([1, 1.003, 1.005], dtype=np.float32)) - cell_of(np.array([1], dtype=np.float32))).tolist()
    [0, 0, 1]
    """
    pattern = patterns(np.ascontiguousarray(distance, dtype=np.float32))
    return np.where(pattern < _SIGN, pattern, _SIGN - pattern)


def places(cells: np.ndarray, exact: bool) -> np.ndarray:
    """The distance that stands for each finite cell: its border next to the centre if ``exact``, else its middle.

    The border is right to the last bit for whole numbers up to 511 from the centre; the middle is off by at most 1/512 of the distance.

    >>> places(cell_of(np.array([3, -7], dtype=np.float32)), exact=True).tolist()
    [3.0, -7.0]
    """
    size = np.abs(cells).astype(np.uint32)
    near = (size << _DROPPED).view(np.float32).astype(float)
    far = np.minimum(((size + 1) << _DROPPED).view(np.float32), np.finfo(np.float32).max).astype(float)
    middle = np.where(size == 0, 0.0, (near + far) / 2)
    return np.asarray(np.sign(cells) * (near if exact else middle))
