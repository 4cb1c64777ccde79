"""Group-sequential boundaries, beside other programs, their tables, the multivariate normal and a simulation."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from mlops_assets.core.errors import SpecError
from mlops_assets.core.experiment_groups import boundaries, crossing, group_factor, spent


def equal(looks: int) -> tuple[float, ...]:
    return tuple((look + 1) / looks for look in range(looks))


@pytest.mark.parametrize(
    ("alpha", "fractions", "fleming", "pocock"),
    [
        # alpha-spending boundaries, common information fractions: mbannick/RCTCovarAdjust, R/constants.R
        (0.05, (0.3, 1.0), (3.929, 1.960), (2.312, 2.124)),
        (0.05, (0.5, 1.0), (2.963, 1.969), (2.157, 2.201)),
        (0.05, (0.9, 1.0), (2.094, 2.053), (1.989, 2.241)),
        (0.05, (0.3, 0.9, 1.0), (3.929, 2.094, 2.053), (2.312, 2.162, 2.342)),
        (0.05, equal(3), (3.710, 2.511, 1.993), (2.279, 2.295, 2.296)),
        (0.05, (0.8, 0.9, 1.0), (2.250, 2.177, 2.072), (2.021, 2.271, 2.332)),
        (0.05, (0.2, 0.4, 0.9, 1.0), (4.877, 3.357, 2.097, 2.054), (2.438, 2.427, 2.224, 2.376)),
        (0.05, equal(4), (4.333, 2.963, 2.359, 2.014), (2.368, 2.368, 2.358, 2.350)),
        (0.05, (0.3, 0.6, 0.9, 1.0), (3.929, 2.670, 2.121, 2.063), (2.312, 2.321, 2.318, 2.412)),
        # RTSA's five looks: tarak-dhaouadi/tsahr, tests/testthat/test-rtsa-engine-parity.R
        (0.05, equal(5), (4.877, 3.357, 2.680, 2.290, 2.031), None),
        # the README of PharmCat/SeqBounds.jl, 0.05 on one side
        (0.10, equal(4), (3.74955, 2.53993, 2.01604, 1.72014), None),
        # rpact-com/rpact, tests/testthat/test-f_design_group_sequential.R, 'asP' with an information rate below 1 at the end
        (0.05, (0.4, 0.7), None, (2.223875, 2.3050796)),
    ],
)
def test_the_boundaries_are_those_of_other_programs(alpha, fractions, fleming, pocock):
    for spending, published in (("obrien-fleming", fleming), ("pocock", pocock)):
        if published:
            assert boundaries(spending, alpha, fractions) == pytest.approx(published, abs=5.1e-4)


@pytest.mark.parametrize(
    ("spending", "one_sided", "fraction", "published"),
    [
        # rpact, as above: alphaSpent of 'asP' and 'asOF'
        ("pocock", 0.025, 0.4, 0.013078429),
        ("pocock", 0.025, 0.7, 0.0197432),
        ("pocock", 0.13, 0.35, 0.061214062),
        ("pocock", 0.13, 0.7, 0.10266465),
        ("obrien-fleming", 0.13, 0.4, 0.016665509),
        ("obrien-fleming", 0.13, 0.75, 0.080406163),
        ("obrien-fleming", 0.13, 0.85, 0.10053322),
    ],
)
def test_as_much_is_spent_as_by_rpact(spending, one_sided, fraction, published):
    assert spent(spending, 2 * one_sided, fraction) == pytest.approx(2 * published, rel=1e-7)


@pytest.mark.parametrize(
    ("sides", "fractions", "bounds", "published"),
    [
        # rpact, as above: alphaSpent of O'Brien and Fleming, Haybittle and Peto, and three designs of Wang and Tsiatis
        (1, equal(3), (3.4710914, 2.4544323, 2.0040356), (0.00025917372, 0.0071600594, 0.02499999)),
        (1, equal(4), (3, 3, 3, 1.9827514), (0.001349898, 0.0024617416, 0.0033695882, 0.025)),
        (2, (0.3, 0.8, 1.0), (3.2029374, 2.4819703, 2.3420706), (0.0013603353, 0.013978861, 0.02499999)),
        (2, (0.3, 0.6, 0.8, 1.0), (2.6416137, 2.6052458, 2.5902992, 2.5787648), (0.0082512101, 0.015455479, 0.020598238, 0.025)),
        (2, (0.3, 0.6, 0.8, 1.0), (3.4563925, 2.7688119, 2.5253005, 2.3512665), (0.00054745752, 0.0059439465, 0.014151805, 0.02499999)),
    ],
)
def test_boundaries_of_rpact_are_crossed_as_often_as_it_says(sides, fractions, bounds, published):
    # who crosses both sides is counted once here, so half of it is a little below one side
    assert np.cumsum(crossing(bounds, fractions)) * sides / 2 == pytest.approx(published, abs=5e-8)


@pytest.mark.parametrize(
    ("bounds", "published"),
    [
        # rpact, as above: the last two designs, power 0.9
        ((2.6416137, 2.6052458, 2.5902992, 2.5787648), (0.27985915, 0.63939135, 0.80444921, 0.9)),
        ((3.4563925, 2.7688119, 2.5253005, 2.3512665), (0.067932398, 0.50628745, 0.76237915, 0.9)),
    ],
)
def test_an_effect_is_found_at_the_looks_at_which_rpact_finds_it(bounds, published):
    fractions = (0.3, 0.6, 0.8, 1.0)
    drift = brentq(lambda drift: sum(crossing(bounds, fractions, drift)) - 0.9, 1, 8)
    assert np.cumsum(crossing(bounds, fractions, drift)) == pytest.approx(published, abs=2e-6)


POCOCK, FLEMING = 0.0, 0.5


def falling(shape: float, constant: float, looks: int) -> np.ndarray:
    """Pocock's boundary, the same at each of so many equal looks, or O'Brien and Fleming's, which falls with the root of the fraction."""
    return constant * np.array(equal(looks)) ** -shape


@cache
def classic(shape: float, looks: int) -> np.ndarray:
    """The one of these that uses up 0.05."""
    at = equal(looks)
    return falling(shape, brentq(lambda constant: sum(crossing(falling(shape, constant, looks), at)) - 0.05, 1.9, 2.6, xtol=1e-8), looks)


def finds(shape: float, looks: int, power: float, factor: float) -> float:
    """The power of the classic design with so many times the units with which a single look has ``power``."""
    drift = (norm.isf(0.025) + norm.ppf(power)) * np.sqrt(factor)
    return sum(crossing(classic(shape, looks), equal(looks), drift))


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        # scikit-design (ahmedazab888/scikit-design), skdesign/group_sequential/pocock.py
        (0.01, {2: 2.772, 3: 2.873, 4: 2.939, 5: 2.986}),
        (0.05, {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}),
        (0.1, {2: 1.875, 3: 1.992, 4: 2.067, 5: 2.122}),
    ],
)
def test_pococks_constants_use_up_alpha(alpha, published):
    for looks, constant in published.items():
        more, less = (sum(crossing(falling(POCOCK, constant + digit, looks), equal(looks))) for digit in (-5.1e-4, 5.1e-4))
        assert less < alpha < more


@pytest.mark.parametrize(
    ("looks", "published", "digits"),
    [
        (3, (3.4710914, 2.4544323, 2.0040356), 1e-6),  # rpact, as above, its default design
        (5, (4.562, 3.226, 2.634, 2.281), 5.1e-4),  # mbannick/RCTCovarAdjust, the first four of the five looks of an example
    ],
)
def test_the_boundary_of_obrien_and_fleming_uses_up_alpha(looks, published, digits):
    assert classic(FLEMING, looks)[: len(published)] == pytest.approx(published, abs=digits)


@pytest.mark.parametrize(
    ("shape", "power", "published"),
    [
        # scikit-design, pocock.py and obrien_fleming.py, 2 to 5 looks, alpha 0.05
        (POCOCK, 0.8, (1.110, 1.166, 1.202, 1.229)),
        (POCOCK, 0.9, (1.100, 1.151, 1.183, 1.207)),
        (FLEMING, 0.8, (1.008, 1.017, 1.024, 1.028)),
        (FLEMING, 0.9, (1.007, 1.016, 1.022, 1.026)),
    ],
)
def test_the_classic_designs_take_as_many_units_more_as_is_tabulated(shape, power, published):
    for looks, factor in enumerate(published, start=2):  # to a unit of the last digit: to cross on the wrong side counts as found here
        assert finds(shape, looks, power, factor - 1.1e-3) < power < finds(shape, looks, power, factor + 1.1e-3)


def test_pococks_four_looks_take_as_many_units_more_as_in_sas():
    # SAS/STAT User's Guide, the SEQDESIGN procedure, example 'Creating Two-Sided Pocock and O'Brien-Fleming Designs': 118.3143 %
    assert finds(POCOCK, 4, 0.9, 1.183143) == pytest.approx(0.9, abs=2e-5)


@pytest.mark.parametrize("fractions", [(0.3, 1.0), (0.1, 0.55, 0.9)])
@pytest.mark.parametrize("drift", [0.0, 2.8])
def test_the_recursion_is_the_multivariate_normal_distribution(fractions, drift):
    bounds = np.array([2.5, 2.2, 2.1][: len(fractions)])
    times = np.array(fractions)
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    inside = multivariate_normal(drift * np.sqrt(times), correlation, abseps=1e-9, maxpts=2_000_000).cdf(bounds, lower_limit=-bounds)
    assert 1 - sum(crossing(bounds, fractions, drift)) == pytest.approx(inside, abs=1e-6)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=6, unique=True), st.sampled_from(["obrien-fleming", "pocock"]), st.floats(0.001, 0.2)
)
def test_whenever_the_looks_are_they_spend_what_may_be_spent_by_then(percents, spending, alpha):
    fractions = [percent / 100 for percent in sorted(percents)]
    found = np.cumsum(crossing(boundaries(spending, alpha, fractions), fractions))
    assert found == pytest.approx([spent(spending, alpha, fraction) for fraction in fractions], abs=1e-6)


def test_peeking_at_five_looks_errs_and_covers_as_often_as_it_says():
    rng, runs, fractions = np.random.default_rng(11), 40_000, np.array(equal(5))
    walk = np.cumsum(rng.standard_normal((runs, 5)) * np.sqrt(0.2), axis=1) / np.sqrt(fractions)
    for spending in ("obrien-fleming", "pocock"):
        outside = (np.abs(walk) > np.array(boundaries(spending, 0.05, equal(5)))).any(axis=1)
        assert outside.mean() == pytest.approx(0.05, abs=3.3 * np.sqrt(0.05 * 0.95 / runs))


@pytest.mark.parametrize(("spending", "shape"), [("obrien-fleming", FLEMING), ("pocock", POCOCK)])
def test_the_price_of_five_looks_is_about_that_of_the_classic_designs_and_buys_the_power(spending, shape):
    factor = group_factor(spending, 0.05, 0.8, equal(5))
    assert finds(shape, 5, 0.8, factor) == pytest.approx(0.8, abs=0.006)  # spending functions come near their boundaries
    rng, runs = np.random.default_rng(12), 40_000
    drift = (1.959964 + 0.841621) * np.sqrt(factor)
    walk = np.cumsum(rng.standard_normal((runs, 5)) * np.sqrt(0.2) + drift * 0.2, axis=1) / np.sqrt(equal(5))
    found = (np.abs(walk) > np.array(boundaries(spending, 0.05, equal(5)))).any(axis=1).mean()
    assert found == pytest.approx(0.8, abs=3.3 * np.sqrt(0.16 / runs))


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: boundaries("pocock", 0.05, ()), "looks: got \\(\\)"),
        (lambda: boundaries("pocock", 0.05, (0.5, 0.5)), "fractions of the planned units that rise"),
        (lambda: boundaries("pocock", 0.05, (0.0, 0.5)), "rise"),
        (lambda: boundaries("pocock", 0.05, (0.5, 1.1)), "rise"),
        (lambda: boundaries("pocock", 0.05, (0.5, float("nan"))), "rise"),
        (lambda: boundaries("pocock", 0.0, (1.0,)), "alpha: got 0.0"),
        (lambda: crossing([2.0], (0.5, 1.0)), "bounds: got"),
        (lambda: crossing([0.0], (1.0,)), "bounds: got"),
    ],
)
def test_looks_that_cannot_be_are_refused(ask, told):
    with pytest.raises(SpecError, match=told):
        ask()
