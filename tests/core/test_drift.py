import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from mlops_assets.core.drift import UNSEEN_ROWS, drift, shift, summarize, unseen
from mlops_assets.core.errors import BadData
from mlops_assets.core.profile import baseline, profile
from mlops_assets.core.verdict import Outcome

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
NAMES = ["temperature", "carrier"]
COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=50).filter(
    lambda pairs: all(sum(side) > 0 for side in zip(*pairs, strict=True))
)


def psi(expected, actual) -> float:
    return shift(expected, actual).psi


def weather(rows: int, seed: int, mean: float = 15, carriers: int = 5) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.column_stack([generator.normal(mean, 8, rows), generator.integers(0, carriers, rows)]).astype(np.float32)


def outcomes(current: np.ndarray, min_rows: int = 200, max_psi: float = 0.2, ignore=()) -> dict[str, Outcome]:
    base = baseline(NAMES, weather(5000, 0))
    return {verdict.name: verdict.outcome for verdict in drift(base, profile(base, current), max_psi, min_rows, ignore)}


@given(COUNTS)
def test_psi_is_never_negative_and_nothing_between_equal_histograms(pairs):
    expected, actual = zip(*pairs, strict=True)
    assert psi(expected, actual) >= 0
    assert psi(expected, expected) == 0


def test_bins_that_nobody_ever_used_change_nothing():
    assert shift([50, 0, 50, 0], [20, 0, 80, 0]) == shift([50, 50], [20, 80])


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ([1, 99], [50, 50]),
        ([99, 1], [50, 50]),
        ([0, 100], [50, 50]),
        ([100, 0], [50, 50]),
        ([5, 95, 0], [0, 50, 50]),
        ([0] * 25 + [100] + [0] * 24, [100] + [0] * 49),
    ],
)
def test_what_leaves_a_heavy_bin_is_seen_wherever_it_goes(expected, actual):
    assert psi(expected, actual) > 0.4


def test_without_drift_psi_is_near_its_expectation():
    generator, n, m, groups = np.random.default_rng(4), 300, 500, 10
    values = [psi(*(generator.multinomial(size, [1 / groups] * groups) for size in (n, m))) for _ in range(2000)]
    assert np.mean(values) == pytest.approx((groups - 1) * (1 / n + 1 / m), rel=0.1)


@pytest.mark.parametrize("groups", [2, 5, 10, 24])
def test_chance_is_the_quantile_of_the_chi_square_distribution(groups):
    counts = [100] * groups
    exact = chi2.ppf(0.999, groups - 1) * 2 / sum(counts)
    assert shift(counts, counts).chance == pytest.approx(exact, rel=0.035)


def test_chance_alone_seldom_exceeds_what_it_is_said_to_give():
    generator, runs = np.random.default_rng(9), 3000
    pairs = (generator.multinomial(100, [0.2] * 5, size=2) for _ in range(runs))
    above = sum(seen.psi > seen.chance for seen in (shift(a, b) for a, b in pairs))
    assert above <= binom.ppf(0.9999, runs, 0.002)


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [(([50, 50], [52, 48]), PASS), (([10, 10], [4, 16]), OPEN), (([500, 500], [200, 800]), FAIL)],
)
def test_a_psi_above_its_limit_fails_only_beyond_chance(counts, outcome):
    assert shift(*counts).outcome(0.2) is outcome


@pytest.mark.parametrize(("expected", "actual"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 1]), ([1, 1], [0, 0])])
def test_histograms_that_cannot_be_compared_are_refused(expected, actual):
    with pytest.raises(ValueError, match="psi: "):
        psi(expected, actual)


def test_the_same_world_has_not_drifted():
    assert outcomes(weather(1000, 1)) == {"temperature": PASS, "carrier": PASS}


def test_the_same_world_seldom_drifts_at_the_fewest_rows():
    base = baseline(NAMES, weather(5000, 0))
    seen = [v.outcome for seed in range(1, 151) for v in drift(base, profile(base, weather(200, seed)), 0.2, 200)]
    assert seen.count(FAIL) == 0
    assert seen.count(PASS) > 295


@pytest.mark.parametrize(
    ("current", "drifted"),
    [
        (weather(1000, 1, mean=25), "temperature"),
        (weather(1000, 1, carriers=2), "carrier"),
        (weather(1000, 1, carriers=7), "carrier"),
        (np.column_stack([np.full(1000, np.nan), weather(1000, 1)[:, 1]]), "temperature"),
        (np.column_stack([weather(1000, 1)[:, 0], np.where(np.arange(1000) % 5 < 2, -1, weather(1000, 1)[:, 1])]), "carrier"),
    ],
    ids=["warmer", "carriers gone", "carriers new", "sensor silent", "carriers unknown"],
)
def test_what_moved_is_named_and_the_rest_is_left_alone(current, drifted):
    seen = outcomes(current)
    assert seen[drifted] is FAIL
    assert set(seen.values()) == {PASS, FAIL}


@pytest.mark.parametrize("rows", [0, 1, 199])
def test_few_rows_say_nothing(rows):
    assert outcomes(weather(rows, 1, mean=40)) == {"temperature": OPEN, "carrier": OPEN}


def test_a_minimum_of_no_rows_still_needs_one():
    assert set(outcomes(weather(0, 1), min_rows=0).values()) == {OPEN}


def test_an_empty_baseline_says_nothing():
    base = baseline(NAMES, weather(0, 0))
    assert {verdict.outcome for verdict in drift(base, profile(base, weather(500, 1)), 0.2, 200)} == {OPEN}


def test_an_ignored_column_has_no_verdict():
    assert outcomes(weather(1000, 1, mean=40), ignore=("temperature",)) == {"carrier": PASS}


def test_profiles_over_different_bins_are_not_compared():
    with pytest.raises(BadData, match="different bins"):
        drift(baseline(NAMES, weather(500, 0)), baseline(NAMES, weather(500, 1)), 0.2, 200)


def test_a_summary_names_the_worst_and_all_that_drifted():
    base = baseline(NAMES, weather(5000, 0))
    told = summarize(drift(base, profile(base, weather(1000, 1, mean=40, carriers=3)), 0.2, 200))
    assert (told.outcome, told.drifted, told.worst.name) == (FAIL, ("temperature", "carrier"), "temperature")
    assert told.reason.startswith("2 of 2 columns have drifted, temperature moved most with a PSI of ")


def test_a_summary_without_figures_says_why():
    base = baseline(NAMES, weather(5000, 0))
    told = summarize(drift(base, profile(base, weather(5, 1)), 0.2, 200))
    assert (told.outcome, told.drifted, told.worst) == (OPEN, (), None)
    assert told.reason == "none of 2 columns could be judged; temperature: 5 rows, 200 are needed"


@settings(max_examples=30)
@given(st.floats(-20, 20), st.floats(0.1, 10))
def test_a_change_of_units_of_baseline_and_present_alike_changes_nothing(offset, scale):
    before, now = weather(500, 0)[:, :1], weather(300, 1, mean=20)[:, :1]

    def measured(factor, plus):
        base = baseline(["t"], before.astype(float) * factor + plus)
        return drift(base, profile(base, now.astype(float) * factor + plus), 0.2, 10)[0].value

    assert measured(scale, offset) == pytest.approx(measured(1, 0), abs=0.02)


SEEN = weather(5000, 0)
HALF = np.where(np.arange(40) < 20, 900.0, 15.0)


@pytest.mark.parametrize(
    ("temperature", "carrier", "expected"),
    [
        (weather(40, 9)[:, 0], 2, {"temperature": PASS, "carrier": PASS}),
        (weather(40, 9)[:, 0] * 1.8 + 1000, 2, {"temperature": FAIL, "carrier": PASS}),
        (weather(40, 9)[:, 0] - 500, 2, {"temperature": FAIL, "carrier": PASS}),
        (HALF, 2, {"temperature": PASS, "carrier": PASS}),  # not more than half
        (np.full(40, np.nan), 2, {"temperature": FAIL, "carrier": PASS}),
        (np.full(40, np.inf), 2, {"temperature": FAIL, "carrier": PASS}),
        (weather(40, 9)[:, 0], -1, {"temperature": PASS, "carrier": FAIL}),  # a category that the model does not know
        (weather(UNSEEN_ROWS - 1, 9)[:, 0] + 900, 2, {"temperature": OPEN, "carrier": OPEN}),
    ],
    ids=["as ever", "a larger unit", "far below", "half of it", "gone missing", "infinite", "unknown carriers", "too few"],
)
def test_an_hour_beyond_all_that_was_trained_on_is_seen_at_once(temperature, carrier, expected):
    base = baseline(NAMES, SEEN)
    hour = profile(base, np.column_stack([temperature, np.full(len(temperature), carrier)]).astype(np.float32))
    assert {verdict.name: verdict.outcome for verdict in unseen(base, hour, NAMES)} == expected
    assert unseen(base, hour, []) == ()


def test_a_value_that_was_missing_in_training_may_be_missing():
    base = baseline(["pressure"], np.array([[1000.0], [1020.0], [np.nan]] * 50))
    assert unseen(base, profile(base, np.full((40, 1), np.nan)), ["pressure"])[0].outcome is PASS
    only = baseline(["pressure"], np.full((50, 1), np.nan))
    (verdict,) = unseen(only, profile(only, np.full((40, 1), 1000.0)), ["pressure"])
    assert (verdict.outcome, "nothing but missing values" in verdict.reason) == (FAIL, True)
