"""The metrics that only look at the order of the scores, each from one sort."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Under = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ranked:
    """Rows in the order of their scores, in groups of equal ones.

    Args:
        label: 0 or 1 of each row, as it came, shape (rows,).
        order: places of the rows, lowest score first, shape (rows,).
        starts: where in ``order`` each group begins, shape (groups,).
    """

    label: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @cached_property
    def sorted_label(self) -> np.ndarray:
        ordered: np.ndarray = self.label[self.order]
        return ordered

    def by_group(self, values: np.ndarray) -> np.ndarray:
        """Sums over each group of values in sorted order, along the last axis."""
        if len(self.starts) == values.shape[-1]:
            return values
        sums: np.ndarray = np.add.reduceat(values, self.starts, axis=-1)
        return sums

    def to_rows(self, by_group: np.ndarray) -> np.ndarray:
        """A value of each group, given to each of its rows as they came."""
        sizes = np.diff(self.starts, append=len(self.order))
        rows = np.empty(len(self.order))
        rows[self.order] = by_group if len(by_group) == len(rows) else np.repeat(by_group, sizes)
        return rows


def ranked(label: np.ndarray, score: np.ndarray) -> Ranked:
    order = np.argsort(score)
    ordered = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return Ranked(label, order, starts)


def area(rows: Ranked) -> tuple[float, np.ndarray, Under]:
    """AUC, with its influence: of a positive the share of negatives below it (ties half) beyond the AUC, over the positives."""
    positives, negatives = _classes(rows, rows.sorted_label)
    m, n = float(positives.sum()), float(negatives.sum())
    below = np.cumsum(negatives) - negatives / 2
    above = m - np.cumsum(positives) + positives / 2
    value = float((positives * below).sum() / (m * n))
    influence = np.where(rows.label == 1, (rows.to_rows(below) / n - value) / m, (rows.to_rows(above) / m - value) / n)

    def under(weights: np.ndarray) -> np.ndarray:
        yes, no = _weighted_classes(rows, weights)
        beneath = np.cumsum(no, axis=1)
        pairs = np.einsum("bg,bg->b", yes, beneath) - np.einsum("bg,bg->b", yes, no) / 2
        return _share(pairs, yes.sum(axis=1) * beneath[:, -1])

    return value, influence, under


def average_precision(rows: Ranked) -> tuple[float, np.ndarray, Under]:
    """The mean over positives of the precision at their score, and its influence.

    A row changes the precision at every score up to its own: by (label - precision) over the rows from there up.
    """
    positives, negatives = _classes(rows, rows.sorted_label)
    m = float(positives.sum())
    precision, found = _precision(positives, negatives)
    value = float((positives * precision).sum() / m)
    gain, loss = np.cumsum(positives / found), np.cumsum(positives * precision / found)
    label = rows.label
    own = np.where(label == 1, rows.to_rows(precision) - value, 0.0)
    influence = (own + label * rows.to_rows(gain) - rows.to_rows(loss)) / m

    def under(weights: np.ndarray) -> np.ndarray:
        yes, no = _weighted_classes(rows, weights)
        return _share(np.einsum("bg,bg->b", yes, _precision(yes, no)[0]), yes.sum(axis=1))

    return value, influence, under


def _classes(rows: Ranked, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.by_group(label), rows.by_group(1 - label)


def _weighted_classes(rows: Ranked, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of positives and of negatives in each group, shape (draws, groups)."""
    ordered = np.take(weights, rows.order, axis=1)
    yes = ordered * rows.sorted_label
    return rows.by_group(yes), rows.by_group(ordered - yes)


def _precision(yes: np.ndarray, no: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each group up: the share of positives, and how many rows there are; 0 of 0 is 0."""
    found = np.cumsum((yes + no)[..., ::-1], axis=-1)[..., ::-1]
    right = np.cumsum(yes[..., ::-1], axis=-1)[..., ::-1]
    return np.divide(right, found, out=np.zeros_like(right), where=found > 0), found


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return shares
