"""Challenger against champion on the same rows."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from mlops_assets.core.errors import BadData


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs on the same rows, and the confidence interval of ``uplift``, challenger minus champion."""

    champion_auc: float
    challenger_auc: float
    uplift: float
    standard_error: float
    lower: float
    upper: float
    p_value: float
    positives: int
    negatives: int


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """The probability that a positive has a higher score than a negative, ties counting half.

    Args:
        label: 0 or 1, shape (rows,).
        score: finite, shape (rows,).

    Raises:
        BadData: if shapes differ, a class is missing, or a score is not finite.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    positive, negative = _split(label, score)
    ranks = _midranks(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def delong(label: np.ndarray, challenger: np.ndarray, champion: np.ndarray, confidence: float = 0.95) -> AucComparison:
    """Paired comparison of two AUCs with a two-sided confidence interval of the uplift, in O(n log n).

    Args:
        label: 0 or 1, shape (rows,).
        challenger, champion: scores of the same rows, shape (rows,).
        confidence: of the interval, e.g. 0.95.

    Raises:
        BadData: as :func:`auc`, and if a class has fewer than two rows.
        ValueError: if ``confidence`` is not between 0 and 1.

    Two models that rank all rows alike differ by nothing, without error.

    Source: DeLong, DeLong and Clarke-Pearson, *Biometrics* 44, 1988; by midranks as in Sun and Xu, *IEEE Signal Processing
    Letters* 21, 2014.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, expected between 0 and 1, e.g. 0.95")
    placements = [_placements(*_split(label, score)) for score in (challenger, champion)]
    (by_positive_1, by_negative_1), (by_positive_2, by_negative_2) = placements
    m, n = len(by_positive_1), len(by_negative_1)
    if m < 2 or n < 2:
        raise BadData(f"got {m} positives and {n} negatives, expected at least two of each: take more rows")
    aucs = float(by_positive_1.mean()), float(by_positive_2.mean())
    variance = np.var(by_positive_1 - by_positive_2, ddof=1) / m + np.var(by_negative_1 - by_negative_2, ddof=1) / n
    error, uplift = float(np.sqrt(variance)), aucs[0] - aucs[1]
    half = float(ndtri(0.5 + confidence / 2)) * error
    p_value = float(2 * ndtr(-abs(uplift) / error)) if error > 0 else float(uplift == 0)
    return AucComparison(aucs[1], aucs[0], uplift, error, uplift - half, uplift + half, p_value, m, n)


def _split(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    label, score = np.asarray(label), np.asarray(score, dtype=float)
    if label.shape != score.shape or label.ndim != 1:
        raise BadData(f"got labels of shape {label.shape} and scores of {score.shape}, expected one of each a row")
    if not np.isfinite(score).all():
        raise BadData(f"{int((~np.isfinite(score)).sum())} scores are not finite: the model must answer a number for every row")
    if not np.isin(label, (0, 1)).all():
        wrong = label[~np.isin(label, (0, 1))][0]
        raise BadData(f"got a label of {wrong!r}, expected 0 or 1: leave out rows whose outcome is not known yet")
    positive, negative = score[label == 1], score[label == 0]
    if not len(positive) or not len(negative):
        raise BadData(f"got {len(positive)} positives and {len(negative)} negatives, expected some of both: take more rows")
    return positive, negative


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives below it, of each negative the share of positives above it."""
    m, n = len(positive), len(negative)
    together = _midranks(np.concatenate([positive, negative]))
    by_positive = (together[:m] - _midranks(positive)) / n
    by_negative = 1 - (together[m:] - _midranks(negative)) / m
    return by_positive, by_negative


def _midranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their mean. As scipy.stats.rankdata, whose import every run of every asset would pay for."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
