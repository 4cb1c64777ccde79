"""How good scores are: each metric with its weighted form, for the bootstrap, and its influence values, for standard errors."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.errors import BadData
from mlops_assets.core.gate_spec import Costs, MetricName
from mlops_assets.core.ranking import area, average_precision, ranked

ECE_BINS = 10
"""Bins of equal width (0, 0.1], (0.1, 0.2] ... of the expected calibration error; the first holds 0 as well."""

HIGHER_IS_BETTER = frozenset({"auc", "average_precision"})


@dataclass(frozen=True)
class Statistic:
    """A metric of one model's scores.

    Args:
        value: of the rows as they are.
        influence: by how much ``value`` changes with a row's weight, shape (rows,). It sums to 0, and its squares to the variance.
        under: the metric under other weights of the rows, from shape (draws, rows) to (draws,); NaN where a class has no weight.
    """

    value: float
    influence: np.ndarray
    under: Callable[[np.ndarray], np.ndarray]


def statistic(metric: MetricName, label: np.ndarray, score: np.ndarray, threshold: float = 0.5, costs: Costs | None = None) -> Statistic:
    """A metric, ready for standard errors and the bootstrap.

    Args:
        metric: ``auc``, ``average_precision`` (scikit-learn's: no interpolation), ``log_loss`` (natural logarithm, scores clipped at
            2.2e-16), ``brier`` (mean squared error), ``ece`` (expected calibration error: Guo et al., *ICML* 2017, with ten bins),
            ``cost`` (mean cost a row of the decision at ``threshold``).
        label: 0 or 1, shape (rows,).
        score: finite, shape (rows,); a probability for all but ``auc``, ``average_precision`` and ``cost``.
        threshold: a score from here up is a yes; only ``cost`` asks.
        costs: what a wrong decision costs; by default 1 either way.

    Raises:
        BadData: if shapes differ, a class is missing, a score is not finite or no probability where one is needed.

    >>> label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> statistic("auc", label, score).value
    0.75
    >>> round(statistic("brier", label, score).value, 6)  # (0.01 + 0.16 + 0.4225 + 0.04) / 4
    0.158125
    >>> statistic("cost", label, score, costs=Costs(false_yes=1, false_no=8)).value  # one false no among four
    2.0
    """
    label, score = checked(label, score)
    if metric == "auc":
        return Statistic(*area(ranked(label, score)))
    if metric == "average_precision":
        return Statistic(*average_precision(ranked(label, score)))
    if metric == "cost":
        return _mean(_costs(label, score, threshold, costs or Costs()))
    _require_probabilities(metric, score)
    if metric == "ece":
        return _calibration_error(label, score)
    return _mean(_log_losses(label, score) if metric == "log_loss" else (score - label) ** 2)


def checked(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as float64, if a metric can be made of them.

    Raises:
        BadData: if shapes differ, a class is missing, or a score is not finite.
    """
    label, score = np.asarray(label), np.asarray(score, dtype=float)
    if label.shape != score.shape or label.ndim != 1:
        raise BadData(f"got labels of shape {label.shape} and scores of {score.shape}, expected one of each a row")
    if not np.isfinite(score).all():
        raise BadData(f"{int((~np.isfinite(score)).sum())} scores are not finite: the model must answer a number for every row")
    known = (label == 0) | (label == 1)
    if not known.all():
        raise BadData(f"got a label of {label[~known][0]!r}, expected 0 or 1: leave out rows whose outcome is not known yet")
    positives = int(label.sum())
    if not 0 < positives < len(label):
        raise BadData(f"got {positives} positives and {len(label) - positives} negatives, expected some of both: take more rows")
    return label.astype(float), score


def bin_of(score: np.ndarray) -> np.ndarray:
    """The calibration bin of each score, from 0.

    >>> bin_of(np.array([0.0, 0.1, 0.11, 1.0])).tolist()
    [0, 0, 1, 9]
    """
    inner_edges = np.linspace(0, 1, ECE_BINS + 1)[1:-1]
    return np.searchsorted(inner_edges, score)


def _require_probabilities(metric: MetricName, score: np.ndarray) -> None:
    off = score[(score < 0) | (score > 1)]
    if len(off):
        raise BadData(f"{metric}: {len(off)} scores are no probabilities, such as {off[0]:.4g}: expected 0 to 1, or take metric 'auc'")


def _costs(label: np.ndarray, score: np.ndarray, threshold: float, costs: Costs) -> np.ndarray:
    yes = score >= threshold
    return np.where(yes & (label == 0), costs.false_yes, 0.0) + np.where(~yes & (label == 1), costs.false_no, 0.0)


def _log_losses(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    tiny = np.finfo(float).eps
    clipped = np.clip(score, tiny, 1 - tiny)
    losses: np.ndarray = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
    return losses


def _mean(losses: np.ndarray) -> Statistic:
    value = float(losses.mean())
    return Statistic(value, (losses - value) / len(losses), lambda weights: (weights @ losses) / weights.sum(axis=1))


def _calibration_error(label: np.ndarray, score: np.ndarray) -> Statistic:
    """The sum over bins of |sum of (label - score)|, a row."""
    residual, place = label - score, bin_of(score)
    sums = np.bincount(place, residual, ECE_BINS)
    value = float(np.abs(sums).sum() / len(label))
    spread = np.zeros((len(label), ECE_BINS))
    spread[np.arange(len(label)), place] = residual
    influence = (np.sign(sums)[place] * residual - value) / len(label)
    return Statistic(value, influence, lambda weights: np.abs(weights @ spread).sum(axis=1) / weights.sum(axis=1))
