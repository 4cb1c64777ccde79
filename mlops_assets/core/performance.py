"""How good a model still is, before the labels come: confidence-based performance estimation.

A calibrated score says how likely its row is a yes, so AUC and the confusion matrix have an expectation without any label. It holds as
long as a score means what it meant on the holdout: drift of the inputs is seen, a change of what they mean is not. Source: NannyML's
CBPE (Kivimäki, Białek, Kuberski and Nurminen, *Confidence-based Estimators for Predictive Performance*, 2024).
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mlops_assets.core.errors import BadData

BINS = 20
"""Scores of the holdout are cut into so many bins of equal counts, in each of which the share of yes is measured."""

FEWEST = 10
"""Expected rows of each kind below which a figure is not given: its distribution would not be normal."""


@dataclass(frozen=True)
class Calibration:
    """What a score means: knots between which the probability of a yes is linear.

    Args:
        scores: the mean score of each bin, ascending.
        rates: the share of yes in each, never falling.
        rows: how many rows each is measured on.
    """

    scores: tuple[float, ...]
    rates: tuple[float, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """An expected figure, and the interval that holds the one that labels will show with the asked-for probability."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Performance:
    """What can be expected of the window's scores; a figure that cannot be told is None."""

    auc: Estimate | None
    accuracy: Estimate | None
    precision: Estimate | None
    recall: Estimate | None
    rows: int
    reason: str


def calibrate(score: np.ndarray, label: np.ndarray) -> Calibration | None:
    """Learn what a score means from rows that the model has not been trained on.

    Bins of equal counts, then the closest rates that never fall (pool adjacent violators). None with one class, or fewer than 2
    different scores.

    Args:
        score: finite, shape (rows,).
        label: 0 or 1, shape (rows,).

    Raises:
        BadData: if shapes differ or a score is not finite.

    >>> score = np.repeat([0.25, 0.75], 40)
    >>> calibrate(score, np.tile([1, 0, 0, 0], 20) * (score < 0.5) + (score > 0.5))
    Calibration(scores=(0.25, 0.75), rates=(0.25, 1.0), rows=(40, 40))
    """
    from scipy.optimize import isotonic_regression

    if score.shape != label.shape or not np.all(np.isfinite(score)):
        raise BadData(f"got {score.shape} scores for {label.shape} labels, expected one finite score a label")
    if len(np.unique(label)) < 2 or len(np.unique(score)) < 2:
        return None
    edges = np.unique(np.quantile(score, np.arange(1, BINS) / BINS))
    # nearly all scores may be the highest one: the others are then one bin together
    edges = edges[edges < score.max()] if edges[0] < score.max() else np.unique(score)[-2:-1]
    place = np.searchsorted(edges, score, side="left")
    rows = np.bincount(place, minlength=len(edges) + 1)
    kept = rows > 0
    means, rates = (np.bincount(place, side, len(rows))[kept] / rows[kept] for side in (score.astype(float), label))
    rising = isotonic_regression(rates, weights=rows[kept]).x
    return Calibration(*(tuple(side.tolist()) for side in (means, rising, rows[kept])))


def probability(known: Calibration, score: np.ndarray) -> np.ndarray:
    """The probability of a yes, shape (rows,). Beyond the outermost knots it goes on as it came, as far as the next knot is away.

    >>> probability(Calibration((0.2, 0.8), (0.1, 0.4), (50, 50)), np.array([0.2, 0.4, 0.8])).round(3).tolist()
    [0.1, 0.2, 0.4]
    """
    left, weight = _weights(known, score)
    rates = np.asarray(known.rates)
    return np.asarray(np.clip((1 - weight) * rates[left] + weight * rates[left + 1], 0, 1))


def estimate(known: Calibration, score: np.ndarray, threshold: float, confidence: float = 0.95) -> Performance:
    """AUC, and accuracy, precision and recall of the decision ``score >= threshold``, as expected before labels come.

    The interval is for the figure that the labels will show. Its variance is by the delta method: labels are drawn by their
    probabilities, and the probabilities are known from as many rows as the holdout had.

    Args:
        known: from :func:`calibrate`.
        score: of the window, shape (rows,), finite.

    Raises:
        BadData: if a score is not finite.

    100 rows of 0.1 and 100 of 0.9, calibrated: 0.9 of the answers are right, and AUC is 0.9 * 0.9 + 0.5 * 2 * 0.9 * 0.1 = 0.9 too:

    >>> told = estimate(Calibration((0.1, 0.9), (0.1, 0.9), (10_000, 10_000)), np.repeat([0.1, 0.9], 100), 0.5)
    >>> [round(figure.value, 2) for figure in (told.auc, told.accuracy, told.precision, told.recall)]
    [0.9, 0.9, 0.9, 0.9]
    """
    return expected(known, score, score >= threshold, np.ones(len(score)), confidence)


def expected(known: Calibration, score: np.ndarray, decided: np.ndarray, counts: np.ndarray, confidence: float = 0.95) -> Performance:
    """As :func:`estimate`, of scores that stand for several rows each, such as the cells of a profile.

    Args:
        score: shape (scores,), finite; one may stand there twice.
        decided: whether its rows were decided yes, shape (scores,).
        counts: how many rows have it, shape (scores,).

    Raises:
        BadData: if a score is not finite.

    >>> told = expected(Calibration((0.1, 0.9), (0.1, 0.9), (100, 100)), np.array([0.1, 0.9]), np.array([0, 1]), np.array([100, 100]))
    >>> round(told.auc.value, 2), told.rows
    (0.9, 200)
    """
    if not np.all(np.isfinite(score)):
        raise BadData("got a score that is not finite, expected probabilities")
    rows = int(counts.sum())
    if rows < 2 * FEWEST:
        return Performance(None, None, None, None, rows, f"{rows} rows, {2 * FEWEST} are needed")
    chance, decided, counts = probability(known, score), decided.astype(float), counts.astype(float)
    yes = float(chance @ counts)
    window = _Window(known, score, chance, counts, NormalDist().inv_cdf(0.5 + confidence / 2))
    accuracy = window.interval(float(np.where(decided, chance, 1 - chance) @ counts) / rows, (2 * decided - 1) / rows)
    if not FEWEST <= yes <= rows - FEWEST:
        reason = f"{yes:.1f} yes and {rows - yes:.1f} no are expected, {FEWEST} of each are needed"
        return Performance(None, accuracy, None, None, rows, reason)
    right, told = float((chance * decided) @ counts), float(decided @ counts)
    precision = window.interval(right / told, decided / told) if told >= FEWEST else None
    recall = window.interval(right / yes, (decided - right / yes) / yes)
    return Performance(_auc(window, yes), accuracy, precision, recall, rows, f"as expected of {rows} calibrated scores")


@dataclass(frozen=True, eq=False)
class _Window:
    """Scores, the probability of a yes of each, how many rows have it, and how wide an interval is in standard errors."""

    known: Calibration
    score: np.ndarray
    chance: np.ndarray
    counts: np.ndarray
    width: float

    def interval(self, value: float, slope: np.ndarray) -> Estimate:
        """Around ``value``; ``slope`` is what it changes by with the label of one row, shape (scores,)."""
        labels = float(np.sum(self.counts * slope**2 * self.chance * (1 - self.chance)))
        left, weight = _weights(self.known, self.score)
        together, knots = self.counts * slope, len(self.known.rates)
        by_knot = np.bincount(left, together * (1 - weight), knots) + np.bincount(left + 1, together * weight, knots)
        rates = np.asarray(self.known.rates)
        holdout = float(np.sum(by_knot**2 * rates * (1 - rates) / np.asarray(self.known.rows)))
        half = self.width * (labels + holdout) ** 0.5
        return Estimate(value, max(value - half, 0.0), min(value + half, 1.0))


def _auc(window: _Window, yes: float) -> Estimate:
    """Pairs of a yes and a no in the right order, over all such pairs, both as expected; ties count half."""
    chance, counts = window.chance, window.counts
    no, spread = float(counts.sum()) - yes, float(np.sum(counts * chance * (1 - chance)))
    ranks = _midranks(window.score, counts)
    # of the number of yes, whose square enters: E[X^2] = E[X]^2 + Var[X]
    pairs = yes * no - spread
    value = (float((chance * counts) @ ranks) - (yes * yes + spread + yes) / 2) / pairs
    return window.interval(value, (ranks - yes - 0.5 - value * (no - yes)) / pairs)


def _midranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    _, place = np.unique(values, return_inverse=True)
    many = np.bincount(place, counts)
    return np.asarray((np.cumsum(many) - (many - 1) / 2)[place])


def _weights(known: Calibration, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each score the knot to its left, and the share of the way from there to the next."""
    knots = np.asarray(known.scores)
    left = np.clip(np.searchsorted(knots, score, side="right") - 1, 0, len(knots) - 2)
    return left, np.clip((score - knots[left]) / (knots[left + 1] - knots[left]), -1, 2)
