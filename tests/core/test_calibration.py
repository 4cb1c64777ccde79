"""The calibrated policy alarms as seldom as it says. ``bench/drift.py`` shows the same with more simulations and more cases."""

from datetime import timedelta

import numpy as np
import pytest
from scipy.stats import binom, false_discovery_control
from scipy.stats import f as f_distribution

from mlops_assets.core.baseline import Baseline
from mlops_assets.core.calibration import FEWEST_WINDOWS, MOST_BLOCKS, Blocks, Null, cut, false_discovery, null, null_of, windows_in
from mlops_assets.core.distances import measure
from mlops_assets.core.drift import calibrated, judge
from mlops_assets.core.errors import BadData
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.core.profile import baseline, profile
from mlops_assets.core.verdict import Outcome

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = np.datetime64("2026-01-01T00:00", "us")


def hours(count: int) -> np.ndarray:
    """The time of each of 20 rows an hour."""
    return START + np.repeat(np.arange(count), 20) * np.timedelta64(1, "h")


def weather(count: int, seed: int) -> np.ndarray:
    """A stationary AR(0.95) hourly series, shared by 20 rows an hour."""
    generator = np.random.default_rng(seed)
    noise, value = generator.normal(0, np.sqrt(1 - 0.95**2), count).tolist(), float(generator.normal())
    series = []
    for step in noise:
        value = 0.95 * value + step
        series.append(value)
    return np.repeat(np.asarray(series, dtype=np.float32), 20)


def independent(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count * 20).astype(np.float32)


def alarms(draw, days: int, span: timedelta, runs: int, alpha: float = 0.05) -> tuple[int, int]:
    """How often the calibrated and the fixed policy alarm in a window that lies a month after its baseline, and nothing has moved."""
    counted, length = [0, 0], int(span / HOUR)
    for seed in range(runs):
        values = draw(days * 24 + 720 + length, seed)[:, None]
        before, now = values[: days * 24 * 20], values[-length * 20 :]
        base = baseline(["x"], before)
        blocks = cut(base, before, hours(days * 24), span)
        for place, policy in enumerate(("calibrated", "fixed")):
            spec = Drift(window=span, policy=policy, alpha=alpha, min_rows=50)
            (verdict,) = judge(Baseline(base, blocks, {}, None), profile(base, now), spec, span, ["x"])
            assert verdict.value is not None
            assert verdict.threshold is not None
            counted[place] += verdict.outcome is Outcome.FAIL
    return counted[0], counted[1]


@pytest.mark.parametrize(
    ("days", "span"),
    [(60, 3 * HOUR), (60, 10 * HOUR), (60, 7 * DAY), (180, 21 * DAY)],
    ids=["60 rows", "200 rows", "a week", "10,000 rows"],
)
@pytest.mark.parametrize("draw", [weather, independent])
@pytest.mark.long
def test_without_drift_it_alarms_at_most_as_often_as_it_says(draw, days, span):
    runs = 200
    assert alarms(draw, days, span, runs)[0] <= binom.ppf(0.999, runs, 0.05)


def test_the_fixed_rule_alarms_in_most_weeks_of_weather_that_has_not_changed():
    calibrated_alarms, fixed = alarms(weather, 60, 7 * DAY, 100)
    assert fixed > 60
    assert calibrated_alarms <= binom.ppf(0.999, 100, 0.05)


@pytest.mark.parametrize(("rows", "moved"), [(240, 0.6), (2400, 0.2), (9600, 0.1)])
def test_what_has_moved_is_found_where_the_fixed_rule_sees_nothing_yet(rows, moved):
    generator = np.random.default_rng(1)
    before = generator.normal(size=(60 * rows, 1))
    base = baseline(["x"], before)
    blocks = cut(base, before, START + np.repeat(np.arange(60), rows) * np.timedelta64(1, "D"), DAY)
    found = [calibrated(base, blocks, profile(base, generator.normal(moved, 1, (rows, 1))), DAY, 0.05, 50)[0] for _ in range(20)]
    assert sum(verdict.outcome is Outcome.FAIL for verdict in found) >= 19
    assert rows == 240 or max(verdict.value for verdict in found) < 0.2


def test_a_flag_that_is_rarely_set_does_not_alarm_whenever_it_is():
    runs, alarmed = 400, 0
    generator = np.random.default_rng(6)
    for _ in range(runs):
        before, now = ((generator.random((rows, 1)) < 1e-4).astype(float) for rows in (30 * 480, 480))
        base = baseline(["x"], before)
        alarmed += calibrated(base, cut(base, before, hours(720), DAY), profile(base, now), DAY, 0.05, 50)[0].outcome is Outcome.FAIL
    assert alarmed <= binom.ppf(0.999, runs, 0.05)


@pytest.mark.long
def test_many_columns_without_drift_seldom_name_any():
    runs, columns, alarmed = 100, 10, 0
    generator = np.random.default_rng(2)
    for _ in range(runs):
        before, now = generator.normal(size=(30 * 480, columns)), generator.normal(size=(480, columns))
        base = baseline([f"x{n}" for n in range(columns)], before)
        verdicts = calibrated(base, cut(base, before, hours(720), DAY), profile(base, now), DAY, 0.05, 50)
        alarmed += any(verdict.outcome is Outcome.FAIL for verdict in verdicts)
    assert alarmed <= binom.ppf(0.999, runs, 0.05)


def test_p_values_are_corrected_as_scipy_does():
    generator = np.random.default_rng(3)
    for columns in (1, 2, 30):
        values = generator.random(columns) ** 3
        assert false_discovery(values) == pytest.approx(false_discovery_control(values, method="bh"), abs=1e-12)
    assert false_discovery([]).tolist() == []


def test_the_tail_is_that_of_an_f_distribution():
    known = Null(scale=0.2, degrees=2.5, windows=9)
    exact = f_distribution(2.5, 20)
    assert known.p_value(0.7) == pytest.approx(exact.sf(3.5), rel=1e-9)
    assert known.limit(0.01) == pytest.approx(0.2 * exact.isf(0.01), rel=1e-9)
    assert known.p_value(known.limit(0.01)) == pytest.approx(0.01, rel=1e-9)


def test_independent_rows_stray_as_far_as_theory_says():
    generator = np.random.default_rng(4)
    windows = generator.multinomial(500, [0.1] * 10, size=60)
    for rows in (50, 500):
        expected = 9 * (1 / rows + 1 / windows.sum())
        assert null(windows, windows.sum(axis=0), rows).scale == pytest.approx(expected, rel=0.15)


def test_blocks_hold_every_row_of_their_baseline_once():
    values = np.concatenate([weather(240, 1)[:, None], np.full((20, 1), np.nan, dtype=np.float32)])
    base = baseline(["x"], values)
    blocks = cut(base, values, hours(241), DAY)
    (counts,) = blocks.counts
    assert len(counts) == 11
    assert tuple(counts.sum(axis=0)) == (*base.columns[0].counts, base.columns[0].nulls)
    assert counts[-1].tolist() == [0] * 10 + [20]


def test_windows_shorter_than_a_day_cut_blocks_as_short_spread_over_the_whole_time():
    values = weather(24 * 60, 1)[:, None]
    blocks = cut(baseline(["x"], values), values, hours(24 * 60), HOUR)
    assert (blocks.length, len(blocks.counts[0])) == (HOUR, MOST_BLOCKS)
    assert set(blocks.counts[0].sum(axis=1)) == {20}


def test_blocks_survive_their_document():
    values = weather(240, 1)[:, None]
    made = cut(baseline(["x"], values), values, hours(240), DAY)
    read = Blocks.from_document(made.to_document())
    assert read.length == made.length
    assert all(np.array_equal(a, b) for a, b in zip(read.counts, made.counts, strict=True))


def test_days_make_whole_windows_that_end_with_the_newest():
    counts = np.arange(10)[:, None]
    windows, each = windows_in(counts, DAY, 3 * DAY)
    assert (windows.ravel().tolist(), each) == ([1 + 2 + 3, 4 + 5 + 6, 7 + 8 + 9], 3)


def test_a_time_is_needed_for_each_row():
    values = weather(24, 1)[:, None]
    with pytest.raises(BadData, match="expected one a row"):
        cut(baseline(["x"], values), values, hours(23), DAY)


def judged(before: np.ndarray, now: np.ndarray, span: timedelta, times: np.ndarray | None = None):
    base = baseline(["x"], before[:, None])
    blocks = cut(base, before[:, None], hours(len(before) // 20) if times is None else times, DAY)
    return calibrated(base, blocks, profile(base, now[:, None]), span, 0.05, 50)[0]


@pytest.mark.parametrize(
    ("days", "span", "reason"),
    [
        (5, 2, f"the baseline has 5 blocks of 1 day, 0:00:00, {FEWEST_WINDOWS} are needed: train on more days"),
        (10, 14, "rows of 14 days, 0:00:00 are more than the 10 days, 0:00:00 of the baseline: train on as much, or shorten drift.window"),
    ],
)
def test_too_few_days_say_what_would_do(days, span, reason):
    verdict = judged(weather(24 * days, 1), weather(24 * span, 2), span * DAY)
    assert (verdict.outcome, verdict.threshold) == (Outcome.INCONCLUSIVE, None)
    assert reason in verdict.reason


def test_a_window_of_more_than_a_sixth_is_judged_by_sixths_and_strays_as_windows_do():
    """Of many stationary series, windows of a third of the baseline stray as far as the null distribution says, on average."""
    strayed, scales = [], []
    for seed in range(150):
        rows = weather(24 * 240, seed)
        before, now = rows[: 20 * 24 * 60], rows[-20 * 24 * 20 :]
        base = baseline(["x"], before[:, None])
        blocks = cut(base, before[:, None], hours(24 * 60), DAY)
        scales.append(null_of(blocks.counts[0], DAY, 20 * DAY, len(now)).scale)
        strayed.append(measure(base.columns[0], profile(base, now[:, None]).columns[0]).psi)
    assert np.mean(scales) == pytest.approx(np.mean(strayed), rel=0.25)


def test_a_window_far_shorter_than_the_blocks_is_waited_for():
    verdict = judged(weather(24 * 30, 1), weather(5, 2), 5 * HOUR)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "wait for more" in verdict.reason


CONSTANT = np.full(24 * 30 * 20, 7, dtype=np.float32)


@pytest.mark.parametrize(
    ("before", "now", "outcome"),
    [
        (CONSTANT, CONSTANT[:480], Outcome.PASS),
        (CONSTANT, CONSTANT[:480] + 1, Outcome.FAIL),
        (CONSTANT * np.nan, CONSTANT[:480] * np.nan, Outcome.PASS),
        (CONSTANT * np.nan, CONSTANT[:480], Outcome.FAIL),
        (CONSTANT, CONSTANT[:480] * np.inf, Outcome.FAIL),
        (CONSTANT, CONSTANT[:1], Outcome.INCONCLUSIVE),
        (CONSTANT, CONSTANT[:0], Outcome.INCONCLUSIVE),
        (CONSTANT[:0], CONSTANT[:480], Outcome.INCONCLUSIVE),
    ],
    ids=["constant", "another constant", "all missing", "no more missing", "infinite", "one row", "none", "no baseline"],
)
def test_degenerate_columns(before, now, outcome):
    assert judged(before, now, DAY).outcome is outcome


def test_traffic_that_comes_in_one_burst_is_no_window_of_a_day():
    assert judged(weather(24 * 30, 1), weather(24, 2), timedelta(0)).outcome is Outcome.INCONCLUSIVE
