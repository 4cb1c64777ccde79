"""How far apart two distributions are: one definition each, versioned as ``DEFINITION``.

*Bins*: those frozen with the baseline, one more for missing values; a bin that neither side has used is left out. *Smoothing*: half an
observation a bin (Jeffreys' prior) for PSI and KL, which are infinite where one side has an empty bin; none for the others.
*Logarithms* are natural. *Wasserstein* and *Kolmogorov-Smirnov* look at the finite values on the fine cells of
:mod:`mlops_assets.core.grid`, all others at the coarse bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core import grid
from mlops_assets.core.profile import ColumnProfile

DEFINITION = 1
"""Goes up when a figure would come out differently for the same rows."""

PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class Distances:
    """How far a column is from its baseline; what cannot be measured is None.

    Args:
        psi: population stability index.
        kl: Kullback-Leibler divergence of the present from the baseline, in nats.
        jensen_shannon: the distance, which is the square root of the divergence: 0 to 0.833.
        wasserstein: in the column's own unit.
        wasserstein_normed: in standard deviations of the baseline; None if that is constant.
    """

    psi: float | None = None
    kl: float | None = None
    jensen_shannon: float | None = None
    wasserstein: float | None = None
    wasserstein_normed: float | None = None


@dataclass(frozen=True)
class Tests:
    """How often rows that are independent, and of one distribution, differ by as much; what cannot be tested is None."""

    chi_square_p: float | None = None
    ks_p: float | None = None


def measure(base: ColumnProfile, now: ColumnProfile) -> Distances:
    """All distances of two profiles of one column, counted over the same bins."""
    if base.rows == 0 or now.rows == 0:
        return Distances()
    before, after = used(binned(base), binned(now))
    p, q = smoothed(before), smoothed(after)
    moved, spread = wasserstein(base, now), base.moments.deviation
    return Distances(
        psi=float(psi(p, q)),
        kl=kl(p, q),
        jensen_shannon=jensen_shannon(before / before.sum(), after / after.sum()),
        wasserstein=moved,
        wasserstein_normed=moved / spread if moved is not None and spread else None,
    )


def examine(base: ColumnProfile, now: ColumnProfile) -> Tests:
    """Both tests of two profiles of one column, counted over the same bins. They take ten times as long as the distances."""
    if base.rows == 0 or now.rows == 0:
        return Tests()
    ks = kolmogorov_smirnov(base, now)
    return Tests(chi_square(*used(binned(base), binned(now))).p_value, ks.p_value if ks else None)


def binned(column: ColumnProfile) -> np.ndarray:
    """Rows by coarse bin, missing values last; shape (bins + 1,)."""
    return np.asarray((*column.counts, column.nulls), dtype=float)


def used(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the bins that neither has used, which smoothing would count as agreement."""
    kept = (before > 0) | (after > 0)
    return before[kept], after[kept]


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Shares by bin with half an observation more in each; the last axis is bins.

    >>> smoothed(np.array([0, 9])).tolist()
    [0.05, 0.95]
    """
    counts = counts + PSEUDO_COUNT
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def psi(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Population stability index of shares by bin, all above 0; the last axis is bins: sum of (q - p) ln(q / p).

    Source: Siddiqi, *Credit Risk Scorecards*, 2006. From 50:50 to 90:10 it is 0.4 ln(0.9/0.5) - 0.4 ln(0.1/0.5) = 0.879:

    >>> round(float(psi(np.array([0.5, 0.5]), np.array([0.9, 0.1]))), 3)
    0.879
    """
    return np.sum((q - p) * np.log(q / p), axis=-1)  # type: ignore[no-any-return]


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence of the baseline's shares ``p`` from the present ``q``, shape (bins,): sum of p ln(p / q).

    Shares that do not sum up to 1 are scaled to it, as scipy does.

    Source: Kullback and Leibler, *Annals of Mathematical Statistics* 22, 1951. 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1) = 0.511:

    >>> round(kl(np.array([0.5, 0.5]), np.array([0.9, 0.1])), 3)
    0.511
    """
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon distance of shares by bin, shape (bins,); an empty bin is no trouble.

    Source: Endres and Schindelin, *IEEE Transactions on Information Theory* 49, 2003. What has nothing in common is sqrt(ln 2) apart:

    >>> round(jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])), 4)
    0.8326
    """
    middle = (p + q) / 2
    parts = [np.sum(side[side > 0] * np.log(side[side > 0] / middle[side > 0])) for side in (p, q)]
    return float(max(sum(parts) / 2, 0.0) ** 0.5)


@dataclass(frozen=True)
class TestResult:
    """The statistic of a test and how often chance alone gives as much, if rows are independent."""

    statistic: float
    p_value: float


def chi_square(before: np.ndarray, after: np.ndarray) -> TestResult:
    """Pearson's test that two sets of counts by bin, shape (bins,), come from one distribution; no bin is empty on both sides.

    Source: Pearson, *Biometrika* 8, 1911. 50:50 against 60:40 expects 55:45 of both: 2 * 25/55 + 2 * 25/45 = 2.02:

    >>> round(chi_square(np.array([50, 50]), np.array([60, 40])).statistic, 2)
    2.02
    """
    from scipy.special import chdtrc

    table = np.stack([before, after]).astype(float)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = float(np.sum((table - expected) ** 2 / expected))
    return TestResult(statistic, float(chdtrc(len(before) - 1, statistic)) if len(before) > 1 else 1.0)


def wasserstein(base: ColumnProfile, now: ColumnProfile) -> float | None:
    """The 1-Wasserstein distance: the least mean distance over which values must be moved to make one distribution of the other.

    Each value counts where its cell lies, which is off by at most 1/512 of its distance from the baseline's median (and by nothing for
    the whole numbers of a category), so the figure is off by at most 1/512 of the sum of both mean distances from it. None without finite
    values. Source: Vallender, *Theory of Probability and Its Applications* 18, 1974.
    """
    steps = _cumulative(base, now)
    if steps is None:
        return None
    gaps = np.diff(grid.places(steps.cells, base.categorical))
    return float(np.sum(np.abs(steps.before - steps.after)[:-1] * gaps))


def kolmogorov_smirnov(base: ColumnProfile, now: ColumnProfile) -> TestResult | None:
    """The largest difference of the two cumulative distributions, and its asymptotic two-sided p-value; None without finite values.

    Source: Hodges, *Arkiv för Matematik* 3, 1958. Values in one cell count as ties.
    """
    from scipy.stats import kstwo

    steps = _cumulative(base, now)
    if steps is None:
        return None
    statistic = float(np.max(np.abs(steps.before - steps.after)))
    n, m = base.moments.count, now.moments.count
    return TestResult(statistic, float(np.clip(kstwo.sf(statistic, max(round(n * m / (n + m)), 1)), 0, 1)))


@dataclass(frozen=True)
class _Steps:
    cells: np.ndarray
    before: np.ndarray
    after: np.ndarray


def _cumulative(base: ColumnProfile, now: ColumnProfile) -> _Steps | None:
    """Both cumulative distributions of the finite values, at every cell that one of them uses."""
    (before, before_counts), (after, after_counts) = (_finite(side.cells, side.cell_counts) for side in (base, now))
    if before_counts.sum() == 0 or after_counts.sum() == 0:
        return None
    cells = np.union1d(before, after)
    return _Steps(cells, _shares_up_to(cells, before, before_counts), _shares_up_to(cells, after, after_counts))


def _shares_up_to(cells: np.ndarray, where: np.ndarray, counts: np.ndarray) -> np.ndarray:
    spread = np.zeros(len(cells))
    spread[np.searchsorted(cells, where)] = counts
    return np.asarray(np.cumsum(spread) / spread.sum())


def _finite(cells: Sequence[int], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    where, many = np.asarray(cells, dtype=np.int64), np.asarray(counts, dtype=np.int64)
    kept = np.abs(where) < grid.INFINITE
    return where[kept], many[kept]
