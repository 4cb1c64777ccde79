"""Whether a distribution has moved from its baseline by more than it may: two policies, and all columns in one sentence.

*fixed*: a PSI above a limit that somebody has chosen. *calibrated*: a PSI that windows of the baseline itself seldom have.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import NormalDist

import numpy as np

from mlops_assets.core import calibration, distances
from mlops_assets.core.baseline import Baseline
from mlops_assets.core.calibration import Blocks, Null
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.core.profile import ColumnProfile, Profile, require_same_bins
from mlops_assets.core.verdict import Outcome, Verdict, combine

UNSEEN_ROWS, UNSEEN_SHARE = 20, 0.5
"""Of so many rows of an hour, and by so large a share of them, :func:`unseen` concludes."""

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


def shift(expected: Sequence[int], actual: Sequence[int]) -> Shift:
    """The PSI between two histograms over the same bins, and what chance alone can give.

    Args:
        expected: counts by bin of the baseline, shape (bins,).
        actual: counts by bin of what is compared, shape (bins,).

    Raises:
        ValueError: if the shapes differ, or one side is empty.

    With nothing moved, PSI / (1/n + 1/m) follows a chi-square distribution with one degree of freedom less than there are bins;
    n and m are the two counts. So 5 bins of 100 and 100 rows exceed 18.5 * 0.02 = 0.37 once in a thousand times. Rows that come in
    clusters, as weather does by the hour, vary more than this. Source: Yurdakul, *Statistical Properties of Population
    Stability Index*, 2018.

    >>> round(shift([20] * 5, [20] * 5).chance, 2)
    0.37
    """
    base, now = np.asarray(expected, dtype=float), np.asarray(actual, dtype=float)
    if base.shape != now.shape:
        raise ValueError(f"psi: histograms of {base.shape} and {now.shape} bins cannot be compared; count both over the same bins")
    if base.sum() <= 0 or now.sum() <= 0:
        raise ValueError("psi: one histogram is empty; there is nothing to compare")
    base, now = distances.used(base, now)
    value = float(distances.psi(distances.smoothed(base), distances.smoothed(now)))
    return Shift(value, _chi_square(1 - CHANCE, len(base) - 1) * float(1 / base.sum() + 1 / now.sum()))


def judge(baseline: Baseline, current: Profile, spec: Drift, span: timedelta, columns: Sequence[str]) -> tuple[Verdict, ...]:
    """One verdict for each of ``columns``, under the policy of ``spec``.

    Args:
        current: what was served, counted over the bins of ``baseline``.
        span: how much event time it covers.
        columns: judged as one family: the more there are, the more it takes for one of them to be called drifted.

    Raises:
        BadData: if the two were counted over different bins.
    """
    ignore = [name for name in baseline.profile.names if name not in columns]
    if spec.policy == "fixed":
        return drift(baseline.profile, current, spec.max_psi, spec.min_rows, ignore)
    return calibrated(baseline.profile, baseline.blocks, current, span, spec.alpha, spec.min_rows, ignore)


def drift(base: Profile, current: Profile, max_psi: float, min_rows: int, ignore: Sequence[str] = ()) -> tuple[Verdict, ...]:
    """One verdict a column that is not ignored: whether it moved from its baseline by more than ``max_psi``.

    Missing values are one more bin. Fewer than ``min_rows`` rows are inconclusive, and so is a PSI above ``max_psi`` that chance alone
    can give.

    Raises:
        BadData: if the two were counted over different bins.
    """
    return tuple(_few(before, now, min_rows, max_psi) or _moved(before, now, max_psi) for before, now, _ in _pairs(base, current, ignore))


def calibrated(
    base: Profile, blocks: Blocks, current: Profile, span: timedelta, alpha: float, min_rows: int, ignore: Sequence[str] = ()
) -> tuple[Verdict, ...]:
    """One verdict a column that is not ignored: whether its PSI is more than windows of the baseline have by themselves.

    P-values come from :func:`mlops_assets.core.calibration.null` and are corrected for the number of columns, so that without drift
    the chance of any failure is at most ``alpha``. A verdict's threshold is the PSI that this column alone exceeds that seldom.

    Args:
        blocks: the baseline by time.
        span: how much event time ``current`` covers; windows of the baseline are cut as long.

    Raises:
        BadData: if the two were counted over different bins.
    """
    found = [_placed(before, now, blocks, place, span, min_rows) for before, now, place in _pairs(base, current, ignore)]
    known = [entry for entry in found if isinstance(entry, _Placed)]
    adjusted = iter(calibration.false_discovery([entry.p_value for entry in known]))
    return tuple(entry if isinstance(entry, Verdict) else entry.verdict(float(next(adjusted)), alpha, len(known)) for entry in found)


def unseen(base: Profile, hour: Profile, columns: Sequence[str]) -> tuple[Verdict, ...]:
    """One verdict for each of ``columns``: whether most of an hour's values lie beyond all that the baseline has.

    A column whose unit has changed, whose categories have other names, or that has gone missing shows so in its first hour, while a
    window of days still hides it. A missing value is beyond the baseline if that has none. Fewer than 20 rows are inconclusive.

    Raises:
        BadData: if the two were counted over different bins.
    """
    return tuple(_unseen(before, now) for before, now, _ in _pairs(base, hour, ()) if before.name in columns)


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


@dataclass(frozen=True)
class _Placed:
    """A PSI and where it lies in its null distribution."""

    name: str
    psi: float
    null: Null
    rows: int

    @property
    def p_value(self) -> float:
        return self.null.p_value(self.psi)

    def verdict(self, adjusted: float, alpha: float, columns: int) -> Verdict:
        outcome = Outcome.FAIL if adjusted <= alpha else Outcome.PASS
        told = f"PSI of {self.name} is {self.psi:.3f}; of {self.null.windows} windows of its baseline it says p = {self.p_value:.2g}"
        relation = "at most" if outcome is Outcome.FAIL else "above"
        reason = f"{told}, corrected for {columns} columns {adjusted:.2g}, {relation} {alpha:g}"
        return Verdict(self.name, outcome, self.psi, self.null.limit(alpha), reason, self.rows)


def _pairs(base: Profile, current: Profile, ignore: Sequence[str]) -> list[tuple[ColumnProfile, ColumnProfile, int]]:
    require_same_bins(base, current)
    pairs = enumerate(zip(base.columns, current.columns, strict=True))
    return [(before, now, place) for place, (before, now) in pairs if before.name not in ignore]


def _unseen(before: ColumnProfile, now: ColumnProfile) -> Verdict:
    few = _few(before, now, UNSEEN_ROWS, UNSEEN_SHARE)
    if few is not None:
        return few
    low, high = (before.cells[0], before.cells[-1]) if before.cells else (0, -1)
    beyond = sum(count for cell, count in zip(now.cells, now.cell_counts, strict=True) if not low <= cell <= high)
    share = (beyond + (0 if before.nulls else now.nulls)) / now.rows
    outcome = Outcome.FAIL if share > UNSEEN_SHARE else Outcome.PASS
    span = f"{before.moments.minimum:.6g} to {before.moments.maximum:.6g}" if before.moments.count else "nothing but missing values"
    reason = f"{share:.0%} of the newest hour's {now.name} lie beyond the {span} that the model was trained on"
    return Verdict(now.name, outcome, share, UNSEEN_SHARE, reason, now.rows)


def _few(before: ColumnProfile, now: ColumnProfile, min_rows: int, limit: float | None) -> Verdict | None:
    """The verdict on a column that cannot be measured, if it is one."""
    if before.rows == 0:
        return Verdict(now.name, Outcome.INCONCLUSIVE, None, limit, f"{now.name}: the baseline has no rows, train again", now.rows)
    if now.rows < max(min_rows, 1):
        reason = f"{now.name}: {now.rows} rows, {max(min_rows, 1)} are needed"
        return Verdict(now.name, Outcome.INCONCLUSIVE, None, limit, reason, now.rows)
    return None


def _moved(before: ColumnProfile, now: ColumnProfile, max_psi: float) -> Verdict:
    seen = _shift(before, now)
    outcome = seen.outcome(max_psi)
    relation = "within" if outcome is Outcome.PASS else "above"
    reason = f"PSI of {now.name} is {seen.psi:.3f}, {relation} {max_psi:g}"
    if outcome is Outcome.INCONCLUSIVE:
        reason += f", but {now.rows} rows give up to {seen.chance:.3f} by chance"
    return Verdict(now.name, outcome, seen.psi, max_psi, reason, now.rows)


def _shift(before: ColumnProfile, now: ColumnProfile) -> Shift:
    return shift((*before.counts, before.nulls), (*now.counts, now.nulls))


def _placed(before: ColumnProfile, now: ColumnProfile, blocks: Blocks, place: int, span: timedelta, min_rows: int) -> "_Placed | Verdict":
    few = _few(before, now, min_rows, None)
    if few is not None:
        return few
    value, counts = _shift(before, now).psi, blocks.counts[place]
    fewest, there = calibration.FEWEST_WINDOWS, len(counts) * blocks.length
    reason = None
    if span < blocks.length / 2:
        reason = f"{now.name}: rows of {span} cannot be held against a baseline that was cut by {blocks.length}: wait for more"
    elif len(counts) < fewest:
        reason = f"{now.name}: the baseline has {len(counts)} blocks of {blocks.length}, {fewest} are needed: train on more days"
    elif span > there + blocks.length / 2:
        reason = f"{now.name}: rows of {span} are more than the {there} of the baseline: train on as much, or shorten drift.window"
    if reason is not None:
        return Verdict(now.name, Outcome.INCONCLUSIVE, value, None, reason, now.rows)
    return _Placed(now.name, value, calibration.null_of(counts, blocks.length, span, now.rows), now.rows)


def _chi_square(probability: float, degrees: int) -> float:
    """The quantile of a chi-square distribution, to 3 %, without the seconds that importing scipy.stats takes.

    Source: Wilson and Hilferty, *PNAS* 17, 1931.
    """
    if degrees < 1:
        return 0.0
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + NormalDist().inv_cdf(probability) * spread**0.5) ** 3)
