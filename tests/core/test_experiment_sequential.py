"""Inference at every look: simulated peeking, and independent formulas."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import beta, binom, chisquare

from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.experiment_samples import Sample
from mlops_assets.core.experiment_sequential import (
    always_valid_factor,
    chi_square_srm,
    confidence_sequence,
    half_width,
    information_share,
    sequential_srm,
)

RUNS, FIRST, LAST = 4000, 100, 2000


def upper_bound(rate: float, runs: int = RUNS) -> float:
    """Clopper and Pearson's, 99 %."""
    found = round(rate * runs)
    return float(beta.ppf(0.99, found + 1, runs - found))


def peeked(kind: str, effect: float, planned: int, alpha: float, seed: int) -> np.ndarray:
    """Of each run, at which looks the interval does not hold the truth: a look after every unit of each variant, from 100 on."""
    rng = np.random.default_rng(seed)
    outside = []
    for _ in range(RUNS // 500):
        if kind == "proportion":
            control, treatment = ((rng.random((500, LAST)) < share).astype(np.float32) for share in (0.2, 0.2 + effect))
        else:  # skewed, as revenue is
            control, treatment = (rng.exponential(1.0, (500, LAST)).astype(np.float32) + shift for shift in (0.0, effect))
        n = np.arange(FIRST, LAST + 1)
        means, errors = [], []
        for values in (control, treatment):
            mean = np.cumsum(values, axis=1, dtype=float)[:, FIRST - 1 :] / n
            square = np.cumsum(values.astype(float) ** 2, axis=1)[:, FIRST - 1 :] / n
            means.append(mean)
            errors.append((square - mean**2) / n)
        half = half_width(errors[0] + errors[1], np.broadcast_to(n / planned, errors[0].shape), alpha)
        outside.append(np.abs(means[1] - means[0] - effect) > half)
    return np.concatenate(outside)


@pytest.mark.parametrize(("kind", "effect"), [("proportion", 0.0), ("proportion", 0.05), ("skewed mean", 0.0), ("skewed mean", 0.3)])
@pytest.mark.parametrize("planned", [1000, 4000])
def test_whoever_peeks_after_every_unit_is_wrong_at_most_alpha_of_the_time(kind, effect, planned):
    ever_wrong = peeked(kind, effect, planned, 0.05, seed=17).any(axis=1).mean()
    assert upper_bound(ever_wrong) <= 0.05
    # and the interval is no wider than it must be: nearly all that was planned was seen
    assert planned > LAST or ever_wrong > 0.01


def test_whoever_peeks_at_a_single_looks_interval_is_wrong_far_more_often():
    rng = np.random.default_rng(1)
    n = np.arange(1, LAST + 1)
    z = np.cumsum(rng.standard_normal((RUNS, LAST)), axis=1) / np.sqrt(n)
    assert (np.abs(z[:, FIRST:]) > 1.96).any(axis=1).mean() > 0.2


def test_the_interval_is_that_of_waudby_smith_and_others():
    # equation 5 of the paper, for one mean:
    # s sqrt(2 (n rho^2 + 1) / (n rho)^2 log(sqrt(n rho^2 + 1) / alpha)), here with rho^2 = r / planned
    alpha, planned, n, variance = 0.05, 5000, 1700, 2.3
    best = minimize_scalar(
        lambda r: (1 + 1 / r) * (math.log1p(r) - 2 * math.log(alpha)), bounds=(0.1, 100), method="bounded", options={"xatol": 1e-9}
    )
    rho2 = best.x / planned
    theirs = math.sqrt(variance) * math.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))
    assert float(half_width(np.array(variance / n), np.array(n / planned), alpha)) == pytest.approx(theirs, rel=1e-7)


def test_the_interval_excludes_what_the_mixture_sprt_rejects():
    # Johari et al. 2022: the likelihood ratio, mixed over a normal prior with variance tau^2, by numerical integration
    alpha, error, share = 0.05, 0.01, 0.4
    r = minimize_scalar(lambda r: (1 + 1 / r) * (math.log1p(r) - 2 * math.log(alpha)), bounds=(0.1, 100), method="bounded").x
    tau = math.sqrt(r * share * error)
    edge = float(half_width(np.array(error), np.array(share), alpha))
    mixed, _ = quad(
        lambda theta: math.exp((edge**2 - (edge - theta) ** 2) / (2 * error) - theta**2 / (2 * tau**2)) / (tau * math.sqrt(2 * math.pi)),
        -5,
        5,
        points=[0, edge],
    )
    assert mixed == pytest.approx(1 / alpha, rel=1e-4)


def test_a_sample_gives_the_same_interval_as_many_looks_at_once():
    seen = confidence_sequence(Sample(300, 0.2, 0.16), Sample(600, 0.3, 0.21), 0.05, (1000, 2000))
    half = float(half_width(np.array(0.16 / 300 + 0.21 / 600), np.array(0.3), 0.05))
    assert (seen.lower, seen.effect, seen.upper) == pytest.approx((0.1 - half, 0.1, 0.1 + half))


def test_units_that_were_called_enough_find_the_effect_at_least_as_often_as_asked():
    rng, units = np.random.default_rng(9), 2000
    z_needed = (1.959964 + 0.841621) * math.sqrt(always_valid_factor(0.05, 0.8))
    effect = z_needed / math.sqrt(units)  # of a mean with variance 1: found by this many units, says the factor
    n = np.arange(1, units + 1)
    means = np.cumsum(rng.standard_normal((2000, units)) + effect, axis=1) / n
    found = means > half_width(1 / n, n / units, 0.05)
    assert found[:, -1].mean() == pytest.approx(0.8, abs=0.03)
    assert found.any(axis=1).mean() > 0.8


@pytest.mark.parametrize(("units", "shares"), [((500, 480), (0.5, 0.5)), ((900, 120), (0.9, 0.1)), ((300, 340, 360), (0.3, 0.3, 0.4))])
def test_the_chi_square_test_is_that_of_scipy(units, shares):
    expected = [sum(units) * share for share in shares]
    assert chi_square_srm(units, shares) == pytest.approx(chisquare(units, expected).pvalue, rel=1e-12)


def test_a_published_mismatch_has_its_published_p_value():
    # Kohavi, Tang and Xu, Trustworthy Online Controlled Experiments, 2020, chapter 21, scenario 1, as public notes on the book quote it:
    # 1.8E-6. Fabijan et al., KDD 2019, as quoted in others, say of the same users that it is rarer than 1 in 500,000.
    assert chi_square_srm((821_588, 815_482), (0.5, 0.5)) == pytest.approx(1.8e-6, abs=0.051e-6)


@pytest.mark.parametrize(("units", "share"), [((5200, 4800), 0.5), ((95_300, 4700), 0.95), ((10, 30), 0.5)])
def test_the_sequential_test_is_the_bayes_factor_by_numerical_integration(units, share):
    n, centre = sum(units), units[0] / sum(units)
    prior = beta(10_000 * share, 10_000 * (1 - share))
    spread = 40 * math.sqrt(share * (1 - share) / 10_000)
    top = binom.logpmf(units[0], n, share)
    low, high = max(share - spread, 1e-9), min(share + spread, 1 - 1e-9)
    factor, _ = quad(
        lambda p: math.exp(binom.logpmf(units[0], n, p) - top) * prior.pdf(p),
        low,
        high,
        points=[share, min(max(centre, low), high)],
        limit=500,
    )
    assert sequential_srm(units, (share, 1 - share)) == pytest.approx(min(1.0, 1 / factor), rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_sound_split_that_is_watched_all_the_time_is_called_broken_at_most_alpha_of_the_time(share):
    rng, runs, alpha = np.random.default_rng(4), 1500, 0.05
    treated = np.cumsum(rng.binomial(50, 1 - share, (runs, 400)), axis=1)
    total = 50 * np.arange(1, 401)
    ever = sum(
        any(sequential_srm((int(n - t), int(t)), (share, 1 - share)) < alpha for n, t in zip(total[::8], row[::8], strict=True))
        for row in treated
    )
    assert upper_bound(ever / runs, runs) <= alpha


def test_a_broken_split_is_found():
    rng = np.random.default_rng(4)
    broken = [int(rng.binomial(200_000, 0.49)) for _ in range(50)]
    assert all(sequential_srm((200_000 - treated, treated), (0.5, 0.5)) < 0.001 for treated in broken)


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda: confidence_sequence(Sample(0, 0.0, 0.0), Sample(9, 1.0, 1.0), 0.05, (10, 10)), BadData, "got 0 and 9 units"),
        (lambda: confidence_sequence(Sample(9, 0.0, 0.0), Sample(9, 1.0, 1.0), 1.0, (10, 10)), SpecError, "alpha: got 1.0"),
        (lambda: sequential_srm((0, 0), (0.5, 0.5)), BadData, "expected some"),
        (lambda: sequential_srm((-1, 5), (0.5, 0.5)), BadData, "units: got"),
        (lambda: chi_square_srm((5, 5), (0.5, 0.4)), SpecError, "add up to 1"),
        (lambda: chi_square_srm((5, 5), (0.0, 1.0)), SpecError, "expected positive ones"),
        (lambda: chi_square_srm((5,), (1.0,)), BadData, "two variants or more"),
        (lambda: chi_square_srm((5, 5, 5), (0.5, 0.5)), BadData, "expected one of each"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask, error, told):
    with pytest.raises(error, match=told):
        ask()


def test_one_unit_and_no_variance_give_numbers():
    one = confidence_sequence(Sample(1, 0.0, 0.0), Sample(1, 1.0, 0.0), 0.05, (10, 10))
    assert (one.effect, one.lower, one.upper) == (1.0, 1.0, 1.0)
    assert information_share((0, 5), (10, 10)) == 0.0
