import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, ks_2samp

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, Traffic
from mlops_assets.core.guardrails import Arms, above, increase, latency, mean_increase, mismatch, quantile, shift

BUCKETS = len(LATENCY_BOUNDS_MS) + 1
ALPHA, BETA = 0.002, 0.05


def buckets(milliseconds: np.ndarray) -> np.ndarray:
    """Counts by bucket of each row."""
    return np.stack([np.bincount(np.searchsorted(LATENCY_BOUNDS_MS, row), minlength=BUCKETS) for row in milliseconds])


@given(st.lists(st.integers(0, 50), min_size=BUCKETS, max_size=BUCKETS), st.floats(0.01, 0.99))
def test_the_quantile_of_many_is_the_quantile_of_each(counts, q):
    single = Traffic(sum(counts), 0, tuple(counts)).latency_quantile(q)
    found = float(quantile(counts, q))
    assert np.isnan(found) if single is None else found == pytest.approx(single)


def test_the_distance_of_scores_is_the_one_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(1)
    theirs, ours = rng.integers(0, 20, 300), rng.integers(3, 20, 700)
    found = shift(np.bincount(theirs, minlength=20), np.bincount(ours, minlength=20), 3 / 7, 0.2)
    assert float(found.value) == pytest.approx(ks_2samp(theirs, ours).statistic)


@pytest.mark.parametrize(("slower", "harmful"), [(1.0, 0), (1.5, 0), (3.0, 1)])
def test_a_latency_is_harm_beyond_the_limit_only(slower, harmful):
    rng = np.random.default_rng(4)
    theirs, ours = buckets(slower * rng.lognormal(3.5, 0.5, (200, 1500))), buckets(rng.lognormal(3.5, 0.5, (200, 1500)))
    found = latency(theirs, ours, None, 0.95, 2.0, 1.0, BETA)
    assert found.is_harm(2.0, ALPHA).mean() == pytest.approx(harmful, abs=0.05)
    if slower > 2:
        assert found.is_safe(BETA).mean() <= binom.ppf(0.9999, 200, BETA) / 200


def test_an_equal_latency_passes_and_a_slower_one_never_at_any_look():
    rng, looks = np.random.default_rng(9), 40
    for slower, passes in ((1.0, True), (2.2, False)):
        theirs = np.stack([buckets(slower * rng.lognormal(3.5, 0.3, (100, 50))) for _ in range(looks)]).cumsum(0)
        ours = np.stack([buckets(rng.lognormal(3.5, 0.3, (100, 50))) for _ in range(looks)]).cumsum(0)
        passed = latency(theirs, ours, None, 0.95, 2.0, 1.0, BETA).is_safe(BETA).any(axis=0)
        assert passed.all() if passes else passed.mean() <= binom.ppf(0.9999, 100, BETA) / 100


def test_a_shift_at_its_limit_is_shown_in_vain_and_passed_in_vain_seldom():
    rng, looks = np.random.default_rng(7), 40
    base, moved = np.full(10, 0.1), np.array([0.02] * 5 + [0.18] * 5)  # the lower half holds 0.4 less
    theirs, ours = rng.multinomial(50, moved, (looks, 400)).cumsum(0), rng.multinomial(50, base, (looks, 400)).cumsum(0)
    found = shift(theirs, ours, 1.0, 0.4)
    assert found.is_harm(0.4, 0.05).any(axis=0).mean() <= binom.ppf(0.9999, 400, 0.05) / 400
    assert found.is_safe(0.05).any(axis=0).mean() <= binom.ppf(0.9999, 400, 0.05) / 400
    assert shift(theirs, ours, 1.0, 0.3).is_harm(0.3, 0.05)[-1].mean() > 0.95
    assert shift(theirs, ours, 1.0, 0.5).is_safe(0.05)[-1].mean() > 0.95


def test_squared_errors_that_rose_are_harm_and_equal_ones_pass():
    rng = np.random.default_rng(6)
    ours, same, worse = (float(np.square(rng.beta(1, k, 4000)).sum()) for k in (4, 4, 1))
    assert mean_increase(Arms(worse, 4000, ours, 4000, 1.0), 0.05).is_harm(0.05, ALPHA)
    assert mean_increase(Arms(same, 4000, ours, 4000, 1.0), 0.05).is_safe(BETA)


def test_a_real_increase_within_the_limit_passes():
    found = increase(Arms(200, 10_000, 1000, 100_000, 0.1), 0.02)
    assert float(found.harm) > np.log(1 / ALPHA)
    assert not found.is_harm(0.02, ALPHA)
    assert found.is_safe(BETA)


def test_expected_events_of_each_look_take_the_blame_off_an_outage():
    # All 500 errors came in one hour in which, for once, most requests were the challenger's.
    assert increase(Arms(400, 1000, 100, 9000, 1 / 9), 0.01).is_harm(0.01, ALPHA)
    assert not increase(Arms(400, 1000, 100, 9000, 1 / 9, expected=400.0), 0.01).is_harm(0.01, ALPHA)


def test_a_small_mismatch_of_the_shares_is_not_harm_however_certain():
    assert mismatch(52_000, 100_000, 0.5).harm > 50
    assert not mismatch(52_000, 100_000, 0.5).is_harm(0.2, ALPHA)
    assert mismatch(30_000, 100_000, 0.5).is_harm(0.2, ALPHA)


@pytest.mark.parametrize("nothing", [0, 1])
def test_next_to_nothing_is_neither_harm_nor_safe(nothing):
    lone = np.eye(1, BUCKETS)[0] * nothing
    for found in (
        above(0, nothing, 0.05),
        increase(Arms(0, nothing, 0, nothing, 1.0), 0.05),
        latency(lone, lone, None, 0.95, 2.0, 20.0, BETA),
        shift(lone, lone, 1.0, 0.2),
    ):
        assert not found.is_harm(0.0, 0.05)
        assert not found.is_safe(0.05)
        assert not np.isnan(found.harm)
        assert not np.isnan(found.safe)
