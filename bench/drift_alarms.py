"""How often each drift policy alarms when nothing has drifted: independent rows, and weather that 20 rows an hour share."""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from scipy.signal import lfilter

from mlops_assets.core.baseline import Baseline
from mlops_assets.core.calibration import cut
from mlops_assets.core.drift import judge
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.core.profile import baseline, profile
from mlops_assets.core.verdict import Outcome

ALPHA = 0.05
ROWS_AN_HOUR, PERSISTENCE = 20, 0.95
MONTH = timedelta(days=30)
"""How far the judged window lies behind its baseline."""


@dataclass(frozen=True)
class Case:
    """So many rows are judged, which cover ``rows / 20`` hours, against so many days of baseline."""

    name: str
    rows: int
    days: int
    shared: bool


CASES = [
    Case(f"{rows:,} rows, {'AR(0.95)' if shared else 'independent'}", rows, days, shared)
    for shared in (False, True)
    for rows, days in ((50, 60), (200, 60), (3360, 60), (10_000, 180))
]
"""3,360 rows are a week."""


def draw(rows: int, shared: bool, generator: np.random.Generator) -> np.ndarray:
    """Rows of no drift, standard normal, in the order of time."""
    if not shared:
        return generator.normal(size=(rows, 1)).astype(np.float32)
    hours = -(-rows // ROWS_AN_HOUR)
    noise = generator.normal(0, np.sqrt(1 - PERSISTENCE**2), hours)
    noise[0] = generator.normal()
    series = lfilter([1], [1, -PERSISTENCE], noise).astype(np.float32)
    return np.repeat(series, ROWS_AN_HOUR)[:rows, None]


def alarms(case: Case, runs: int, shift: float = 0.0) -> dict[str, float]:
    """The share of ``runs`` in which each policy says that the column has drifted, when its mean has moved by ``shift``."""
    generator, counted = np.random.default_rng(case.rows + case.shared), {"fixed": 0, "calibrated": 0}
    minute = np.timedelta64(60 // ROWS_AN_HOUR, "m")
    before_rows = case.days * 24 * ROWS_AN_HOUR
    times = np.datetime64("2026-01-01T00:00", "us") + np.arange(before_rows) * minute
    span = timedelta(hours=case.rows / ROWS_AN_HOUR)
    gap = int(MONTH / timedelta(hours=1)) * ROWS_AN_HOUR
    for _ in range(runs):
        drawn = draw(before_rows + gap + case.rows, case.shared, generator)
        before, now = drawn[:before_rows], drawn[-case.rows :] + np.float32(shift)
        base = baseline(["x"], before)
        known, current = Baseline(base, cut(base, before, times, span), {}, None), profile(base, now)
        for policy in ("fixed", "calibrated"):
            spec = Drift(window=span, policy=policy, alpha=ALPHA, min_rows=50)
            (verdict,) = judge(known, current, spec, span, ["x"])
            counted[policy] += verdict.outcome is Outcome.FAIL
    return {policy: count / runs for policy, count in counted.items()}
