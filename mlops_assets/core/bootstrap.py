"""Intervals of any metric's uplift by drawing rows, or whole blocks of rows, again. The same arguments give the same figures."""

import math
from collections.abc import Iterator

import numpy as np

from mlops_assets.core.comparison import Comparison, Paired, TooFew, by_block, by_class, check_confidence, compared, standard_error
from mlops_assets.core.metrics import bin_of, checked

MIN_DRAWS, TAIL_DRAWS = 2000, 20
"""At least so many draws, and so many beyond either bound."""

_CHUNK = 2_000_000
"""Weights that are held at once: about what a processor's cache takes."""


def bootstrap(
    pair: Paired, confidence: float = 0.95, blocks: np.ndarray | None = None, draws: int | None = None, seed: int = 0
) -> Comparison:
    """A two-sided confidence interval of the uplift, studentized (bootstrap-t).

    Args:
        pair: both models under one metric, from :func:`comparison.paired`.
        confidence: of the interval, e.g. 0.95.
        blocks: which block each row belongs to, if rows of one depend on each other (a day, a customer), shape (rows,): whole blocks are
            drawn. Else rows are drawn within their class (stratified): prevalence is as observed.
        draws: how many samples are drawn; by default 2,000, and at least 20 beyond either bound.

    Raises:
        TooFew: if a class has fewer than two rows, there are fewer than five blocks, or one in ten samples lacks an outcome.
        ValueError: if ``confidence`` is not between 0 and 1.

    The uplift of each sample is divided by its own standard error, by the influence values of the rows as they are: that makes
    intervals right for skewed losses and for few blocks, where percentiles are too short.

    >>> from mlops_assets.core.comparison import paired
    >>> label = np.arange(400) % 2
    >>> even = np.full(400, 0.5)
    >>> pair = paired("brier", label, np.where(label == 1, 0.7, 0.3), even)
    >>> round(bootstrap(pair).uplift, 4), round(bootstrap(pair).lower, 4)  # 0.25 - 0.09, on every single row
    (0.16, 0.16)

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, 12.5; by blocks Cameron, Gelbach and Miller, *Review of
    Economics and Statistics* 90, 2008.
    """
    check_confidence(confidence)
    tail = (1 - confidence) / 2
    draws = draws or max(MIN_DRAWS, math.ceil(TAIL_DRAWS / tail))
    error, degrees = standard_error(pair.label, pair.influence, blocks)
    low = high = pair.uplift
    # Rounding leaves an error of 1e-17 where every row says the same.
    if error > 1e-12 * max(abs(pair.uplift), 1e-3):
        low_t, high_t = np.quantile(_studentized(pair, blocks, draws, seed), [tail, 1 - tail], method="weibull")
        low, high = pair.uplift - float(high_t) * error, pair.uplift - float(low_t) * error
    return compared(pair, error, low, high, None if degrees is None else degrees + 1)


def calibration_bound(label: np.ndarray, score: np.ndarray, confidence: float = 0.95, blocks: np.ndarray | None = None) -> float:
    """A lower confidence bound of the expected calibration error, which holds for a perfectly calibrated model too.

    The observed error is too high by chance, as it adds up absolute values: by no more than the sum of what each bin is off, whose
    distribution is drawn. So the bound is cautious: it is above the truth ``1 - confidence`` of the time at most.

    Raises:
        BadData: as :func:`metrics.statistic`; TooFew as :func:`bootstrap`.
    """
    check_confidence(confidence)
    label, score = checked(label, score)
    residual, place = label - score, bin_of(score)
    spread = np.zeros((len(label), place.max() + 1))
    spread[np.arange(len(label)), place] = residual
    if blocks is None:
        samples = stratified_weights(label, MIN_DRAWS, seed=0)
    else:
        names, block = by_block(residual, blocks)
        samples = (weights[:, block] for weights in block_weights(len(names), len(label), MIN_DRAWS, seed=0))
    off = np.concatenate([np.abs(weights @ spread - spread.sum(axis=0)).sum(axis=1) for weights in samples]) / len(label)
    return float(np.abs(spread.sum(axis=0)).sum() / len(label) - np.quantile(off, confidence))


def _studentized(pair: Paired, blocks: np.ndarray | None, draws: int, seed: int) -> np.ndarray:
    """Of each sample: how many of its own standard errors its uplift lies above the observed one."""
    parts = _block_samples(pair, blocks, draws, seed) if blocks is not None else _row_samples(pair, draws, seed)
    found = np.concatenate([(pair.under(weights) - pair.uplift) / np.sqrt(np.maximum(variance, 1e-30)) for weights, variance in parts])
    usable: np.ndarray = found[np.isfinite(found)]
    if len(usable) < 0.9 * draws:
        raise TooFew(f"{draws - len(usable)} of {draws} samples lack one of the outcomes: take more rows, or more blocks that have both")
    return usable


def _row_samples(pair: Paired, draws: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    classes, influence = by_class(pair.label), pair.influence
    for weights in stratified_weights(pair.label, draws, seed):
        yield weights, sum(_variance(weights[:, part], influence[part]) for part in classes)  # type: ignore[misc]


def _block_samples(pair: Paired, blocks: np.ndarray, draws: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    sums, place = by_block(pair.influence, blocks)
    for weights in block_weights(len(sums), len(place), draws, seed):
        yield weights[:, place], _variance(weights, sums)


def stratified_weights(label: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row is drawn, with as many rows of each class as there are: chunks of shape (some draws, rows)."""
    generator, classes = np.random.default_rng(seed), by_class(label)
    for size in _chunks(draws, len(label)):
        weights = np.empty((size, len(label)))
        for part in classes:
            drawn = generator.integers(0, len(part), (size, len(part))) + len(part) * np.arange(size)[:, None]
            weights[:, part] = np.bincount(drawn.ravel(), minlength=size * len(part)).reshape(size, -1)
        yield weights


def block_weights(blocks: int, rows: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each block is drawn: chunks of shape (some draws, blocks)."""
    generator = np.random.default_rng(seed)
    for size in _chunks(draws, rows):
        yield generator.multinomial(blocks, np.full(blocks, 1 / blocks), size).astype(float)


def _chunks(draws: int, rows: int) -> Iterator[int]:
    size = max(_CHUNK // rows, 1)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def _variance(weights: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """Of the sum of influence values, estimated from each sample."""
    count = len(influence)
    variances: np.ndarray = count / (count - 1) * (weights @ influence**2 - (weights @ influence) ** 2 / count)
    return variances
