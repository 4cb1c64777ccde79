"""How far a distribution has moved from its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mlops_assets.core.profile import ColumnProfile, Profile, require_same_bins
from mlops_assets.core.verdict import Outcome, Verdict, combine

PSEUDO_COUNT = 0.5
"""Added to every bin, so that an empty one costs much but not infinitely much (Jeffreys' prior)."""

CHANCE = 0.001
"""How seldom a PSI above :attr:`Shift.chance` comes from sampling alone."""


@dataclass(frozen=True)
class Shift:
    """A PSI, and the one that sampling alone exceeds with probability ``CHANCE`` when nothing has moved."""

    psi: float
    chance: float

    def outcome(self, limit: float) -> Outcome:
        """Pass up to ``limit``; above it fail, or inconclusive where the rows are so few that chance alone gives as much."""
        if self.psi <= limit:
            return Outcome.PASS
        return Outcome.FAIL if self.psi > self.chance else Outcome.INCONCLUSIVE


def psi(expected: Sequence[int], actual: Sequence[int], groups: int = 10) -> float:
    """Population stability index between two histograms over the same bins.

    Adjacent light bins are first merged into groups of about ``1 / groups`` of the expected counts, so that the figure does not
    depend on how finely the caller has counted. A bin that holds as much by itself stays alone: what moves into or out of it is seen.

    Args:
        expected: counts by bin of the baseline, shape (bins,).
        actual: counts by bin of what is compared, shape (bins,).
        groups: into how many groups counts that are spread evenly are merged; 10 is the convention behind the thresholds 0.1 and 0.2.

    Raises:
        ValueError: if the shapes differ, or one side is empty.

    Source: Siddiqi, *Credit Risk Scorecards*, 2006. Equal histograms differ by nothing:

    >>> psi([50, 50], [500, 500])
    0.0

    From 50:50 to 90:10 with n = 100,000 each it is (0.9-0.5) ln(0.9/0.5) + (0.1-0.5) ln(0.1/0.5) = 0.879:

    >>> round(psi([50_000, 50_000], [90_000, 10_000]), 3)
    0.879
    """
    return shift(expected, actual, groups).psi


def shift(expected: Sequence[int], actual: Sequence[int], groups: int | None = 10) -> Shift:
    """The PSI as :func:`psi` has it, and what chance alone can give. ``groups`` None merges no bins.

    With nothing moved, PSI / (1/n + 1/m) follows a chi-square distribution with one degree of freedom less than there are groups;
    n and m are the two counts. So 5 groups of 100 and 100 rows exceed 18.5 * 0.02 = 0.37 once in a thousand times. Rows that come in
    clusters, as weather does by the hour, vary more than this. Source: Yurdakul, *Statistical Properties of Population
    Stability Index*, 2018.

    >>> round(shift([20] * 5, [20] * 5, groups=5).chance, 2)
    0.37
    """
    base, now = np.asarray(expected, dtype=float), np.asarray(actual, dtype=float)
    if base.shape != now.shape:
        raise ValueError(f"psi: histograms of {base.shape} and {now.shape} bins cannot be compared; count both over the same bins")
    if base.sum() <= 0 or now.sum() <= 0:
        raise ValueError("psi: one histogram is empty; there is nothing to compare")
    if groups is not None:
        merged = _merge(base, groups)
        base, now = np.add.reduceat(base, merged), np.add.reduceat(now, merged)
    # A bin that neither side has ever used would only add its pseudo count.
    used = (base > 0) | (now > 0)
    p, q = base[used] + PSEUDO_COUNT, now[used] + PSEUDO_COUNT
    p, q = p / p.sum(), q / q.sum()
    value = float(np.sum((q - p) * np.log(q / p)))
    return Shift(value, _chi_square(1 - CHANCE, len(p) - 1) * float(1 / base.sum() + 1 / now.sum()))


def drift(base: Profile, current: Profile, max_psi: float, min_rows: int, ignore: Sequence[str] = ()) -> tuple[Verdict, ...]:
    """One verdict a column that is not ignored: whether it moved from its baseline by more than ``max_psi``.

    Missing values are one more bin. Fewer than ``min_rows`` rows are inconclusive, and so is a PSI above ``max_psi`` that chance alone
    can give.

    Raises:
        BadData: if the two were counted over different bins.
    """
    require_same_bins(base, current)
    pairs = zip(base.columns, current.columns, strict=True)
    return tuple(_moved(before, now, max_psi, min_rows) for before, now in pairs if before.name not in ignore)


@dataclass(frozen=True)
class DriftSummary:
    """All columns together: which have drifted, the one that moved most, and one sentence for a person."""

    outcome: Outcome
    drifted: tuple[str, ...]
    worst: Verdict | None
    reason: str


def summarize(verdicts: Sequence[Verdict]) -> DriftSummary:
    """The verdicts of :func:`drift` in one.

    >>> summarize(()).reason
    'no column was examined'
    """
    drifted = tuple(verdict.name for verdict in verdicts if verdict.outcome is Outcome.FAIL)
    worst = max((v for v in verdicts if v.value is not None), key=lambda v: v.value or 0.0, default=None)
    if not verdicts:
        reason = "no column was examined"
    elif worst is None:
        reason = f"none of {len(verdicts)} columns could be judged; {verdicts[0].reason}"
    else:
        reason = f"{len(drifted)} of {len(verdicts)} columns have drifted, {worst.name} moved most with a PSI of {worst.value:.3f}"
    return DriftSummary(combine(verdicts), drifted, worst, reason)


def _moved(before: ColumnProfile, now: ColumnProfile, max_psi: float, min_rows: int) -> Verdict:
    if before.rows == 0:
        return Verdict(now.name, Outcome.INCONCLUSIVE, None, max_psi, f"{now.name}: the baseline has no rows, train again", now.rows)
    if now.rows < max(min_rows, 1):
        reason = f"{now.name}: {now.rows} rows, {max(min_rows, 1)} are needed"
        return Verdict(now.name, Outcome.INCONCLUSIVE, None, max_psi, reason, now.rows)
    # Bins are not merged: they are few, and one that is empty in the baseline is where new categories show.
    seen = shift((*before.counts, before.nulls), (*now.counts, now.nulls), groups=None)
    outcome = seen.outcome(max_psi)
    relation = "within" if outcome is Outcome.PASS else "above"
    reason = f"PSI of {now.name} is {seen.psi:.3f}, {relation} {max_psi:g}"
    if outcome is Outcome.INCONCLUSIVE:
        reason += f", but {now.rows} rows give up to {seen.chance:.3f} by chance"
    return Verdict(now.name, outcome, seen.psi, max_psi, reason, now.rows)


def _merge(counts: np.ndarray, groups: int) -> np.ndarray:
    """The first bin of each group: a group closes as soon as it holds its share, and before a bin that holds one by itself."""
    starts, held, share = [0], 0.0, counts.sum() / groups
    for index, count in enumerate(counts):
        if index > starts[-1] and (held >= share or count >= share):
            starts.append(index)
            held = 0.0
        held += count
    return np.asarray(starts)


def _chi_square(probability: float, degrees: int) -> float:
    """The quantile of a chi-square distribution, to 3 %, without the seconds that importing scipy.stats takes.

    Source: Wilson and Hilferty, *PNAS* 17, 1931.
    """
    if degrees < 1:
        return 0.0
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(probability) * spread**0.5) ** 3)
