"""E-processes against exact enumeration, closed forms, statsmodels, and simulation with its error bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import confint_proportions_2indep

from mlops_assets.core import sequential
from mlops_assets.core.sequential import against_at_least, against_at_most, against_no_more_than_share, against_share, bounds, design_effect


def expected(log_e, rate: float, requests: int, base_rate: float, base: int) -> float:
    """The mean of an e-value over every outcome of both arms."""
    x2, x1 = np.meshgrid(np.arange(requests + 1), np.arange(base + 1), indexing="ij")
    chance = binom.pmf(x2, requests, rate) * binom.pmf(x1, base, base_rate)
    return float(np.sum(chance * np.exp(log_e(x2, x1))))


RATES = [0.0, 0.001, 0.02, 0.2, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("base_rate", RATES)
@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize(("requests", "base"), [(30, 30), (10, 90), (40, 3), (25, 0)])
def test_under_its_hypothesis_the_evidence_is_worth_one_at_most(base_rate, margin, requests, base):
    for over in (0.0, 0.05, 0.4):
        if (rate := base_rate + margin + over) <= 1 and rate >= 0 and base:
            at_least = expected(
                lambda x2, x1: against_at_least(x2, requests, x1, base, margin, requests / base), rate, requests, base_rate, base
            )
            assert at_least <= 1 + 1e-9
        if 0 <= (rate := base_rate + margin - over) <= 1 and base:
            at_most = expected(
                lambda x2, x1: against_at_most(x2, requests, x1, base, margin, requests / base), rate, requests, base_rate, base
            )
            assert at_most <= 1 + 1e-9
        if 0 < margin <= (rate := margin + over) <= 1 and not base:
            assert expected(lambda x2, x1: against_at_least(x2, requests, x1, 0, margin, 1.0), rate, requests, 0, 0) <= 1 + 1e-9


@pytest.mark.parametrize(("weight", "rate"), [(0.05, 0.3), (0.25, 0.02), (0.5, 0.5), (0.5, 1.0)])
def test_a_share_of_the_events_by_chance_is_worth_one_at_most(weight, rate):
    total = 60
    x, events = np.meshgrid(np.arange(total + 1), np.arange(total + 1), indexing="ij")
    chance = np.where(x <= events, binom.pmf(x, events, weight), 0) * binom.pmf(events, total, rate)
    assert np.sum(chance * np.exp(against_no_more_than_share(x, events, events * weight))) <= 1 + 1e-9
    n = np.arange(total + 1)
    assert np.sum(binom.pmf(n, total, weight) * np.exp(against_share(n, total, weight))) == pytest.approx(1, abs=1e-9)


def ever(log_e: np.ndarray, alpha: float) -> float:
    return float((log_e >= np.log(1 / alpha)).any(axis=1).mean())


def at_most(alpha: float, runs: int) -> float:
    """The share of runs that a chance of ``alpha`` exceeds once in 10,000 times."""
    return float(binom.ppf(0.9999, runs, alpha)) / runs


def test_however_often_one_looks_the_hypothesis_is_given_up_in_vain_at_most_alpha_of_the_time():
    rng, runs, looks, alpha = np.random.default_rng(5), 2000, 150, 0.05
    n2, n1 = 20 * np.arange(1, looks + 1), 180 * np.arange(1, looks + 1)
    x2, x1 = rng.binomial(20, 0.05, (runs, looks)).cumsum(1), rng.binomial(180, 0.03, (runs, looks)).cumsum(1)
    assert ever(against_at_least(x2, n2, x1, n1, 0.02, 1 / 9), alpha) <= at_most(alpha, runs)
    assert ever(against_at_most(x2, n2, x1, n1, 0.02, 1 / 9), alpha) <= at_most(alpha, runs)


def test_bursts_that_hit_both_arms_are_no_evidence_even_where_their_shares_vary():
    rng, runs, looks, alpha = np.random.default_rng(8), 2000, 100, 0.05
    n2, n1 = rng.integers(5, 60, (runs, looks)), rng.integers(100, 300, (runs, looks))
    rate = np.where(rng.random((runs, looks)) < 0.1, 0.5, 0.01)
    x2, x1 = rng.binomial(n2, rate), rng.binomial(n1, rate)
    mean = ((x1 + x2) * n2 / (n1 + n2)).cumsum(1)
    found = against_no_more_than_share(x2.cumsum(1), (x1 + x2).cumsum(1), mean)
    assert ever(found, alpha) <= at_most(alpha, runs)
    worse = rng.binomial(n2, np.minimum(4 * rate, 1))
    mean = ((x1 + worse) * n2 / (n1 + n2)).cumsum(1)
    assert ever(against_no_more_than_share(worse.cumsum(1), (x1 + worse).cumsum(1), mean), alpha) > 0.99


def test_units_that_send_many_alike_requests_are_no_mismatch_once_their_number_counts():
    rng, runs, looks, each = np.random.default_rng(3), 2000, 80, 10
    of_both = np.full(looks, 20).cumsum()
    units = rng.binomial(20, 0.3, (runs, looks)).cumsum(1)
    assert ever(against_share(each * units, each * of_both, 0.3), 0.05) > 0.3
    assert ever(against_share(units, of_both, 0.3), 0.05) <= at_most(0.05, runs)


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.3])
def test_without_any_event_the_evidence_is_known_in_closed_form(margin):
    shares = np.array([1, 0.9, 0.6, 0.35, 0.2, 0.1, 0.05, 0.025])
    wins = np.array([1 / 3, *[2 / 21] * 7]) @ (1 - shares * margin) ** -200.0
    assert float(against_at_least(0, 200, 0, 0, margin, 1.0)) == pytest.approx(np.log(wins))


@pytest.mark.parametrize(
    ("x2", "n2", "x1", "n1"), [(3, 500, 20, 9500), (2, 100, 30, 1900), (40, 100, 60, 100), (97, 100, 10, 100), (5, 2000, 5, 2000)]
)
def test_bounds_that_hold_at_every_look_are_wider_than_those_of_one_look_and_not_by_much(x2, n2, x1, n1):
    low, high = bounds(x2, n2, x1, n1, n2 / n1, 0.025, 0.025)
    once_low, once_high = confint_proportions_2indep(x2, n2, x1, n1, method="newcomb")
    assert low <= once_low <= once_high <= high
    assert high - low <= 3.5 * (once_high - once_low)


def test_the_bounds_of_one_arm_are_those_of_its_rate():
    low, high = bounds(30, 1000, 0, 0, 1.0, 0.025, 0.025)
    assert 0 < low < 0.03 < high < 0.06


COUNTS = st.integers(0, 100_000)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.floats(-1, 1), st.sampled_from([1 / 99, 1 / 19, 1.0, 99.0]))
def test_no_counts_give_anything_but_a_number(a, b, c, d, margin, odds):
    x2, n2, x1, n1 = min(a, b), max(a, b), min(c, d), max(c, d)
    for log_e in (against_at_least, against_at_most):
        assert not np.isnan(log_e(x2, n2, x1, n1, margin, odds))
    assert np.isfinite(against_no_more_than_share(x2, x1 + x2, (x1 + x2) * 0.3))
    assert np.isfinite(against_share(n2, n1 + n2, 0.3))


@given(st.integers(1, 2000), st.integers(0, 2000), st.floats(0.001, 0.5))
def test_one_more_event_never_speaks_against_more_events(requests, events, margin):
    events = min(events, requests - 1)
    fewer, more = against_at_least([events, events + 1], requests, 50, 1000, margin, requests / 1000)
    assert more <= fewer


def test_no_requests_are_no_evidence():
    assert float(against_at_least(0, 0, 0, 0, 0.1, 1.0)) == pytest.approx(0)
    assert float(against_no_more_than_share(0, 0, 0)) == pytest.approx(0)
    assert float(against_share(0, 0, 0.5)) == pytest.approx(0)
    assert bounds(0, 0, 0, 0, 1.0, 0.05, 0.05) == (0.0, 1.0)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_the_sketch_tells_the_variance_that_units_cause(correlation):
    rng, runs = np.random.default_rng(2), 4000
    sizes = rng.integers(1, 30, 300)
    shared = rng.random((runs, 300)) < 0.4
    # Each request is its unit's own outcome with a chance whose square is the correlation of two requests.
    parts = rng.binomial(sizes, np.sqrt(correlation), (runs, 300))
    totals = (parts * shared + rng.binomial(sizes - parts, 0.4)).sum(axis=1)
    signs = rng.choice([-1, 1], (300, 64))
    effect = totals.var() / (sizes.sum() * 0.4 * 0.6)
    assert design_effect(sizes @ signs, int(sizes.sum()), correlation) == pytest.approx(effect, rel=0.4)


def test_no_requests_have_no_design_effect():
    assert design_effect((0,) * 64, 0, 1.0) == 1.0


def test_the_stake_is_whole():
    assert sequential._PRIOR.sum() == pytest.approx(1)
    assert sequential._PRIOR.shape == sequential._BETS.shape == sequential._GUESSES.shape
