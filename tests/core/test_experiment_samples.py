"""Means, shares, ratios and adjusted means, beside simulations and an ordinary regression."""

import numpy as np
import pytest
import statsmodels.api as sm

from mlops_assets.core.errors import BadData
from mlops_assets.core.experiment_samples import Pair, Sample, adjusted, proportion, ratio


def pair(first: np.ndarray, second: np.ndarray) -> Pair:
    covariance = np.cov(first, second)
    return Pair(
        len(first),
        (float(first.mean()), float(second.mean())),
        (float(covariance[0, 0]), float(covariance[1, 1])),
        float(covariance[0, 1]),
    )


def units(rng: np.random.Generator, n: int, effect: float, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    before = rng.gamma(2.0, 3.0, n)
    noise = np.sqrt(1 - correlation**2) * np.sqrt(18) * rng.standard_normal(n)
    return correlation * before + noise + effect, before


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("n", "m"), [(500, 500), (900, 130)])
def test_the_adjusted_difference_is_that_of_an_ordinary_regression(correlation, n, m):
    rng = np.random.default_rng(7)
    (y0, x0), (y1, x1) = units(rng, n, 0.0, correlation), units(rng, m, 1.0, correlation)
    control, treatment = adjusted(pair(y0, x0), pair(y1, x1))
    y, x, treated = np.concatenate([y0, y1]), np.concatenate([x0, x1]), np.repeat([0, 1], [n, m])
    fitted = sm.OLS(y, sm.add_constant(np.column_stack([treated, x]))).fit(cov_type="HC1")
    assert treatment.mean - control.mean == pytest.approx(fitted.params[1], abs=1e-9)
    assert np.sqrt(control.error + treatment.error) == pytest.approx(fitted.bse[1], rel=0.02)


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_adjusting_leaves_one_minus_the_squared_correlation_of_the_variance_and_the_coverage(correlation):
    rng, runs, n = np.random.default_rng(3), 2000, 400
    covered, spread, plain = [], [], []
    for _ in range(runs):
        (y0, x0), (y1, x1) = units(rng, n, 0.0, correlation), units(rng, n, 0.5, correlation)
        control, treatment = adjusted(pair(y0, x0), pair(y1, x1))
        difference = treatment.mean - control.mean
        covered.append(abs(difference - 0.5) <= 1.959964 * np.sqrt(control.error + treatment.error))
        spread.append(difference)
        plain.append(y1.mean() - y0.mean())
    assert np.var(spread) / np.var(plain) == pytest.approx(1 - correlation**2, rel=0.15)
    assert np.mean(covered) == pytest.approx(0.95, abs=3.3 * np.sqrt(0.05 * 0.95 / runs))


def test_a_ratio_by_the_delta_method_covers_as_often_as_it_says():
    rng, runs, n = np.random.default_rng(5), 4000, 500
    views = 1 + rng.poisson(8, (runs, n)).astype(float)
    taste = rng.beta(2, 18, (runs, n))
    clicks = rng.binomial(views.astype(int), taste).astype(float)
    truth = 0.1  # of all views, one in ten, whoever has many of them
    seen = [ratio(pair(clicks[run], views[run])) for run in range(runs)]
    covered = [abs(one.mean - truth) <= 1.959964 * np.sqrt(one.error) for one in seen]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01 + 3.3 * np.sqrt(0.05 * 0.95 / runs))


def test_a_ratio_is_the_linearized_mean_of_its_residuals():
    rng = np.random.default_rng(2)
    x, y = rng.poisson(5, 300) + 1.0, rng.normal(10, 2, 300)
    r = y.sum() / x.sum()
    assert ratio(pair(y, x)).variance == pytest.approx(np.var((y - r * x) / x.mean(), ddof=1), rel=1e-12)


def test_a_covariate_that_never_varies_changes_nothing():
    control, treatment = adjusted(Pair(10, (1.0, 4.0), (2.0, 0.0), 0.0), Pair(10, (3.0, 4.0), (2.0, 0.0), 0.0))
    assert (control, treatment) == (Sample(10, 1.0, 2.0), Sample(10, 3.0, 2.0))


def test_no_units_are_no_numbers_that_are_none():
    nothing = Pair(0, (0.0, 0.0), (0.0, 0.0), 0.0)
    assert adjusted(nothing, nothing) == (Sample(0, 0.0, 0.0),) * 2
    assert ratio(nothing) == proportion(0, 0) == Sample(0, 0.0, 0.0)
    assert Sample(0, 0.0, 0.0).error == float("inf")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: proportion(10, 11), "successes: got 11 of 10 units"),
        (lambda: proportion(10, -1), "successes: got -1"),
        (lambda: Sample(10, float("nan"), 1.0), "leave out missing values"),
        (lambda: Sample(10, 1.0, float("inf")), "leave out missing values"),
        (lambda: Sample(-1, 1.0, 1.0), "units: got -1"),
        (lambda: Pair(-1, (1.0, 1.0), (1.0, 1.0), 0.0), "units: got -1"),
        (lambda: Pair(10, (1.0, 1.0), (1.0, 1.0), 2.0), "cannot be of two quantities"),
        (lambda: Pair(10, (1.0, 1.0), (-1.0, 1.0), 0.0), "cannot be of two quantities"),
        (lambda: Pair(10, (1.0, float("inf")), (1.0, 1.0), 0.0), "leave out missing values"),
        (lambda: ratio(Pair(10, (1.0, 0.0), (1.0, 0.0), 0.0)), "the denominator of a ratio has a mean of 0.0"),
    ],
)
def test_impossible_figures_are_refused(ask, told):
    with pytest.raises(BadData, match=told):
        ask()
