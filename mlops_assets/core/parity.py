"""Whether an exported model decides as the trained one does, above all near the places where a tree splits."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlops_assets.core.verdict import Outcome, Verdict

MAX_DIFFERENCE = 1e-4
"""Scores are float32 on one side and float64 on the other; a sound export differs by some 1e-7."""


def compare(
    expected: np.ndarray | Sequence[float],
    got: np.ndarray | Sequence[float],
    decision_threshold: float,
    max_difference: float = MAX_DIFFERENCE,
) -> Verdict:
    """Whether two sets of scores of the same rows make the same decisions.

    The value is the largest difference of two scores. One flipped decision fails whatever the difference; so does a score that
    is not finite, and another number of scores than rows. Nothing compared is inconclusive.

    Args:
        expected: scores of the trained model, shape (rows,).
        got: scores of its export, shape (rows,).
        decision_threshold: a score from here on is a yes.
        max_difference: of two scores, absolute.

    >>> compare([0.2, 0.5], [0.2, 0.4999999], 0.5).reason
    '1 of 2 decisions differ, the first in row 1 (0.5 became 0.4999999); the largest difference of two scores is 1e-07'
    """
    left, right = np.asarray(expected, dtype=np.float64), np.asarray(got, dtype=np.float64)
    rows = len(left)

    def verdict(outcome: Outcome, reason: str, value: float | None = None) -> Verdict:
        return Verdict("parity", outcome, value, max_difference, reason, rows)

    if left.ndim != 1 or left.shape != right.shape:
        return verdict(Outcome.FAIL, f"scores of shape {right.shape} for rows that have {left.shape}, expected one each")
    if rows == 0:
        return verdict(Outcome.INCONCLUSIVE, "no rows were compared")
    broken = ~(np.isfinite(left) & np.isfinite(right))
    if broken.any():
        return verdict(Outcome.FAIL, f"{int(broken.sum())} of {rows} scores are not finite, the first in row {int(np.argmax(broken))}")
    flipped = (left >= decision_threshold) != (right >= decision_threshold)
    first = int(np.argmax(flipped))
    example = f", the first in row {first} ({left[first]:.9g} became {right[first]:.9g})" if flipped.any() else ""
    largest = float(np.abs(left - right).max())
    outcome = Outcome.FAIL if flipped.any() or largest > max_difference else Outcome.PASS
    reason = f"{int(flipped.sum())} of {rows} decisions differ{example}; the largest difference of two scores is {largest:.3g}"
    return verdict(outcome, reason, largest)


def boundary_rows(base: np.ndarray, thresholds: Mapping[int, Sequence[float]], per_feature: int = 200) -> np.ndarray:
    """Rows that stand just on either side of the splits of a model.

    For each threshold of a feature there are three: the largest float32 that is not above it, and its neighbours below and
    above, as far as they are finite. The other features are those of a base row, each base row in its turn.

    Args:
        base: real rows, shape (rows, features), at least one; they lend the other values.
        thresholds: by feature index, where the model splits it, as float64.
        per_feature: how many thresholds of a feature are tried at most, evenly chosen.

    Returns float32 of shape (boundary rows, features).

    >>> boundary_rows(np.array([[0.0, 7.0]]), {0: [0.5]}).round(3).tolist()
    [[0.5, 7.0], [0.5, 7.0], [0.5, 7.0]]
    """
    made = [np.empty((0, base.shape[1]), dtype=np.float32)]
    for feature, values in sorted(thresholds.items()):
        every = np.unique(np.asarray(values, dtype=np.float64))
        at = floor_float32(every[np.linspace(0, len(every) - 1, min(per_feature, len(every)), dtype=int)])
        around = np.stack([np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))], axis=1).ravel()
        # a split at infinity separates the missing values from all others; no request can carry infinity
        around = around[np.isfinite(around)]
        rows = np.asarray(base, dtype=np.float32)[np.arange(len(around)) % len(base)]
        rows[:, feature] = around
        made.append(rows)
    return np.concatenate(made)


def floor_float32(values: np.ndarray) -> np.ndarray:
    """The largest float32 that is not above each value: for a float32 ``x``, ``x <= value`` is ``x <= floor_float32(value)``.

    >>> float(floor_float32(np.array([0.1]))[0]) <= 0.1 < float(np.float32(0.1))
    True
    """
    exact = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float32)
    return np.where(nearest.astype(np.float64) > exact, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)
