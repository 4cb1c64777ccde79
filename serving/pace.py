"""How fast a model is, measured before it serves: whether joining the rows of several requests helps, and whether it may be done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

BATCH_SIZES = (8, 32)
"""The batches that are tried. Larger ones save next to nothing more, and make the first of them wait for the last."""

PIECE_ROWS = 256
JOINING_SECONDS = 4e-6
"""What it costs to have a row scored in a batch: a future, a turn of the event loop, its place in the matrix."""

_TRIALS = 5
_PROBE_ROWS = 64
_PROBE_SIZES = (2, 3, 4, 5, 8, 13, 16, 31, 32, 64)

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pace:
    """What was measured of a model.

    Args:
        batch_rows: how many rows of several requests may be scored at once; 1 if they are not joined.
        piece_rows: into how many rows at most a large request is cut.
        call_seconds: what a call takes whatever the rows.
        row_seconds: what each row takes on top.
        reason: why, in words.
    """

    batch_rows: int
    piece_rows: int
    call_seconds: float
    row_seconds: float
    reason: str


def measure(score: Score, width: int) -> Pace:
    """Time the model for one row and for batches, and see whether a row's bits depend on what it is scored with.

    ONNX Runtime's kernels may add up in another order for one row than for many. Then joining would give an answer that depends on who
    else asked at that moment: such a model is never batched, and its large requests are never cut.

    Args:
        score: float32 of shape (rows, features) to float32 of shape (rows,).
        width: the number of features.
    """
    probe = _probe(width)
    one = _time(score, probe[:1])
    times = {size: _time(score, probe[np.arange(size) % len(probe)]) for size in BATCH_SIZES}
    best = min(times, key=lambda size: times[size] / size)
    row = max(0.0, (times[best] - one) / (best - 1))
    call = max(0.0, one - row)
    told = f"1 row takes {1e6 * one:.0f} µs, {best} together {1e6 * times[best] / best:.0f} µs each"
    if not is_row_wise(score, probe):
        return Pace(1, 2**31, call, row, f"rows are not joined: the last bits of a score depend on what else is scored ({told})")
    if one - times[best] / best <= JOINING_SECONDS:
        return Pace(1, PIECE_ROWS, call, row, f"rows are not joined, it would save nothing: {told}")
    return Pace(best, PIECE_ROWS, call, row, f"up to {best} rows are joined: {told}")


def is_row_wise(score: Score, probe: np.ndarray) -> bool:
    """Whether every row of ``probe`` gets the same bits alone and in batches of any size and place."""
    alone = np.concatenate([score(probe[place : place + 1]) for place in range(len(probe))])
    for size in _PROBE_SIZES:
        together = np.concatenate([score(probe[start : start + size]) for start in range(0, len(probe), size)])
        if together.tobytes() != alone.tobytes():
            return False
    return True


def _probe(width: int) -> np.ndarray:
    """Rows of all sorts: numbers of many sizes, and missing ones. The same at each start, so that a decision can be repeated."""
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(_PROBE_ROWS, width)) * 10.0 ** chance.integers(-2, 4, size=(_PROBE_ROWS, width))
    rows[chance.random(rows.shape) < 0.05] = 0.0
    rows[_PROBE_ROWS // 2 :][chance.random((_PROBE_ROWS // 2, width)) < 0.1] = -1.0
    return rows.astype(np.float32)


def _time(score: Score, matrix: np.ndarray) -> float:
    """The shortest of a few calls, in seconds: what else the machine does only adds."""
    best = float("inf")
    for _ in range(_TRIALS):
        began = perf_counter()
        score(matrix)
        best = min(best, perf_counter() - began)
    return best
