"""Bayesian comparison: closed form beside Monte Carlo, numerical integration and its own calibration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, norm

from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.experiment_bayes import Beta, compare_means, compare_shares
from mlops_assets.core.experiment_samples import Sample

PAIRS = pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (Beta(31, 971), Beta(41, 961)),
        (Beta(3, 5), Beta(2, 7)),
        (Beta(901, 101), Beta(880, 120)),
        (Beta(1, 1), Beta(12, 4)),
        (Beta(20_001, 180_001), Beta(20_101, 179_901)),
    ],
)


@PAIRS
def test_the_closed_form_is_what_a_million_draws_give(control, treatment):
    rng, draws = np.random.default_rng(8), 1_000_000
    difference = rng.beta(treatment.a, treatment.b, draws) - rng.beta(control.a, control.b, draws)
    seen, sure = compare_shares(control, treatment), 4 / np.sqrt(draws)
    assert seen.beats == pytest.approx((difference > 0).mean(), abs=sure / 2)
    assert seen.loss_if_shipped == pytest.approx(np.maximum(-difference, 0).mean(), abs=sure * difference.std())
    assert seen.loss_if_kept == pytest.approx(np.maximum(difference, 0).mean(), abs=sure * difference.std())
    assert seen.effect == pytest.approx(difference.mean(), abs=sure * difference.std())
    assert (seen.lower, seen.upper) == pytest.approx(tuple(np.quantile(difference, [0.025, 0.975])), abs=4 * sure * difference.std())


@PAIRS
def test_the_closed_form_is_the_integral(control, treatment):
    x, y = beta(control.a, control.b), beta(treatment.a, treatment.b)
    low, high = max(x.ppf(1e-15), 1e-12), x.isf(1e-15)

    def average(of):
        return quad(lambda p: x.pdf(p) * of(p), low, high, points=[x.mean()], limit=500, epsabs=1e-13)[0]

    def below(p):  # E[max(p - y, 0)]
        return p * y.cdf(p) - y.mean() * beta.cdf(p, treatment.a + 1, treatment.b)

    seen = compare_shares(control, treatment)
    assert seen.beats == pytest.approx(average(y.sf), abs=1e-8)
    assert seen.loss_if_shipped == pytest.approx(average(below), abs=1e-9)


def test_the_two_losses_differ_by_the_effect_and_the_two_sides_mirror_each_other():
    there, back = compare_shares(Beta(31, 971), Beta(41, 961)), compare_shares(Beta(41, 961), Beta(31, 971))
    assert there.loss_if_kept - there.loss_if_shipped == pytest.approx(there.effect)
    assert (there.beats, there.loss_if_shipped, there.lower) == pytest.approx((1 - back.beats, back.loss_if_kept, -back.upper), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_whatever_was_counted_gives_a_probability_and_losses_that_are_no_less_than_nothing(a, b, c, d):
    seen = compare_shares(Beta(a, b), Beta(c, d))
    assert 0 <= seen.beats <= 1
    assert seen.loss_if_shipped >= 0
    assert seen.loss_if_kept >= -1e-12
    assert -1 <= seen.lower <= seen.upper <= 1


def test_an_interval_holds_as_many_truths_as_it_says_when_they_come_from_the_prior():
    rng, runs, held = np.random.default_rng(6), 250, 0
    for control, treatment in rng.random((runs, 2)):
        seen = compare_shares(
            *(Beta(1, 1).after(units, int(rng.binomial(units, truth))) for units, truth in ((50, control), (80, treatment))), 0.9
        )
        held += seen.lower <= treatment - control <= seen.upper
    assert held / runs == pytest.approx(0.9, abs=3.3 * np.sqrt(0.09 / runs))


@pytest.mark.parametrize("prior", [float("inf"), 0.5])
def test_means_are_compared_as_normal_integrals_say(prior):
    control, treatment = Sample(100, 10.0, 4.0), Sample(80, 10.4, 5.0)
    error = 4 / 100 + 5 / 80
    precision = 1 / error + (0 if prior == float("inf") else 1 / prior**2)
    belief = norm((0.4 / error) / precision, precision**-0.5)
    seen = compare_means(control, treatment, prior_deviation=prior)
    assert seen.beats == pytest.approx(belief.sf(0))
    assert seen.loss_if_shipped == pytest.approx(quad(lambda d: -d * belief.pdf(d), -10, 0)[0])
    assert seen.loss_if_kept == pytest.approx(quad(lambda d: d * belief.pdf(d), 0, 10)[0])
    assert (seen.lower, seen.upper) == pytest.approx(belief.interval(0.95))


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda: Beta(0, 1), SpecError, "whole numbers from 1 up"),
        (lambda: Beta(0.5, 0.5), SpecError, "whole numbers from 1 up"),
        (lambda: Beta(1, 1).after(3, 4), BadData, "got 4 of 3 units"),
        (lambda: compare_shares(Beta(1, 1), Beta(1, 1), 1.0), SpecError, "credibility: got 1.0"),
        (lambda: compare_means(Sample(1, 0.0, 1.0), Sample(9, 0.0, 1.0)), BadData, "two units or more"),
        (lambda: compare_means(Sample(9, 0.0, 0.0), Sample(9, 0.0, 0.0)), BadData, "some variance"),
        (lambda: compare_means(Sample(9, 0.0, 1.0), Sample(9, 0.0, 1.0), prior_deviation=0.0), SpecError, "prior_deviation: got 0.0"),
    ],
)
def test_what_cannot_be_believed_is_refused(ask, error, told):
    with pytest.raises(error, match=told):
        ask()
