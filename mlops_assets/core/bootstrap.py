"""Intervals of a metric's uplift by drawing rows again. The same arguments give the same figures."""

import math
from collections.abc import Iterator

import numpy as np

from mlops_assets.core.comparison import Comparison, Paired, by_block, by_class, check_confidence, compared, standard_error
from mlops_assets.core.metrics import bin_of, checked

MIN_DRAWS, TAIL_DRAWS = 2000, 20
"""At least so many draws, and so many beyond either bound."""

_CHUNK = 2_000_000
"""Weights that are held at once: about what a processor's cache takes."""


def bootstrap(pair: Paired, confidence: float = 0.95, draws: int | None = None, seed: int = 0) -> Comparison:
    """A two-sided confidence interval of the uplift of independent rows, drawn within their class (stratified): prevalence is as observed.

    Args:
        pair: both models under one metric, from :func:`comparison.paired`.
        confidence: of the interval, e.g. 0.95.
        draws: how many samples are drawn; by default 2,000, and at least 20 beyond either bound.

    Raises:
        TooFew: if a class has fewer than two rows.
        ValueError: if ``confidence`` is not between 0 and 1.

    Mean losses are studentized (bootstrap-t): the uplift of each sample is divided by its own standard error, which puts as many misses
    on either side where losses are skewed. Of average precision the percentiles hold better. Neither holds for the expected
    calibration error, whose absolute values have a bend where a bin is well calibrated: it has :func:`comparison.linearized`.

    >>> from mlops_assets.core.comparison import paired
    >>> label = np.arange(400) % 2
    >>> even = np.full(400, 0.5)
    >>> got = bootstrap(paired("brier", label, np.where(label == 1, 0.7, 0.3), even))
    >>> round(got.uplift, 4), round(got.lower, 4)  # 0.25 - 0.09, on every single row
    (0.16, 0.16)

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, 12.5 and 13.3; of average precision Boyd, Eng and Page,
    *ECML PKDD* 2013.
    """
    check_confidence(confidence)
    tail = (1 - confidence) / 2
    draws = draws or max(MIN_DRAWS, math.ceil(TAIL_DRAWS / tail))
    error, _ = standard_error(pair.label, pair.influence, None)
    # Rounding leaves an error of 1e-17 where every row says the same.
    if error <= 1e-12 * max(abs(pair.uplift), 1e-3):
        return compared(pair, error, pair.uplift, pair.uplift, None)
    uplifts, errors = _samples(pair, draws, seed)
    if pair.metric == "average_precision":
        low, high = np.quantile(uplifts, [tail, 1 - tail], method="weibull")
    else:
        low_t, high_t = np.quantile((uplifts - pair.uplift) / errors, [tail, 1 - tail], method="weibull")
        low, high = pair.uplift - high_t * error, pair.uplift - low_t * error
    return compared(pair, error, float(low), float(high), None)


def calibration_bound(label: np.ndarray, score: np.ndarray, confidence: float = 0.95, blocks: np.ndarray | None = None) -> float:
    """A lower confidence bound of the expected calibration error, which holds for a perfectly calibrated model too.

    The observed error is too high by chance, as it adds up absolute values: by no more than the sum of what each bin is off, whose
    distribution is drawn. So the bound is cautious: it is above the truth ``1 - confidence`` of the time at most.

    Args:
        label, score: 0 or 1, and a probability, shape (rows,).
        blocks: which block each row belongs to, if rows of one depend on each other, shape (rows,): whole blocks are drawn.

    Raises:
        BadData: as :func:`metrics.statistic`.
        TooFew: if a class has fewer than two rows, or there are fewer than 20 blocks.

    >>> label, score = np.arange(400) % 2, np.full(400, 0.9)  # half of what is 90 % sure happens
    >>> round(calibration_bound(label, score), 4)  # within a class each sample says the same
    0.4
    """
    check_confidence(confidence)
    label, score = checked(label, score)
    residual, place = label - score, bin_of(score)
    spread = np.zeros((len(label), place.max() + 1))
    spread[np.arange(len(label)), place] = residual
    sums = spread.sum(axis=0)
    off = np.concatenate([np.abs(weights @ spread - sums).sum(axis=1) for weights in _weights(label, residual, blocks)])
    return float((np.abs(sums).sum() - np.quantile(off, confidence)) / len(label))


def _weights(label: np.ndarray, residual: np.ndarray, blocks: np.ndarray | None) -> Iterator[np.ndarray]:
    """How often each row is drawn, alone or with its block: chunks of shape (some draws, rows)."""
    if blocks is None:
        yield from _stratified_weights(label, MIN_DRAWS, 0)
        return
    sums, place = by_block(residual, blocks)
    generator = np.random.default_rng(0)
    for size in _chunks(MIN_DRAWS, len(label)):
        yield generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size)[:, place].astype(float)


def _samples(pair: Paired, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The uplift of each sample, and its standard error by the influence values of the rows as they are; shape (draws,) each."""
    uplifts, errors, influence = [], [], pair.influence
    for weights in _stratified_weights(pair.label, draws, seed):
        uplifts.append(pair.under(weights))
        variance = sum(_variance(weights[:, part], influence[part]) for part in by_class(pair.label))
        errors.append(np.sqrt(np.maximum(variance, 1e-30)))
    return np.concatenate(uplifts), np.concatenate(errors)


def _stratified_weights(label: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, with as many rows of each class as there are: chunks of shape (some draws, rows)."""
    generator, classes = np.random.default_rng(seed), by_class(label)
    for size in _chunks(draws, len(label)):
        weights = np.empty((size, len(label)))
        for part in classes:
            drawn = generator.integers(0, len(part), (size, len(part))) + len(part) * np.arange(size)[:, None]
            weights[:, part] = np.bincount(drawn.ravel(), minlength=size * len(part)).reshape(size, -1)
        yield weights


def _chunks(draws: int, rows: int) -> Iterator[int]:
    size = max(_CHUNK // rows, 1)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _variance(weights: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """Of the sum of influence values, estimated from each sample."""
    count = len(influence)
    variances: np.ndarray = count / (count - 1) * (weights @ influence**2 - (weights @ influence) ** 2 / count)
    return variances
