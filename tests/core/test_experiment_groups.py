"""Group-sequential boundaries, beside published tables, the multivariate normal and a simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from mlops_assets.core.errors import SpecError
from mlops_assets.core.experiment_groups import boundaries, crossing, group_factor, spent


def equal(looks: int) -> tuple[float, ...]:
    return tuple((look + 1) / looks for look in range(looks))


@pytest.mark.parametrize(
    ("spending", "looks", "published"),
    [
        # R ldbounds and gsDesign (sfLDOF, sfLDPocock; alpha 0.025 a side); Reboussin et al., Controlled Clinical Trials 21, 2000
        #
        # From memory.
        ("obrien-fleming", 2, (2.963, 1.969)),
        ("obrien-fleming", 3, (3.710, 2.511, 1.993)),
        ("obrien-fleming", 4, (4.333, 2.963, 2.359, 2.014)),
        ("obrien-fleming", 5, (4.877, 3.357, 2.680, 2.290, 2.031)),
        ("pocock", 2, (2.157, 2.201)),
        ("pocock", 5, (2.438, 2.427, 2.410, 2.397, 2.386)),
    ],
)
def test_the_boundaries_are_those_of_the_published_tables(spending, looks, published):
    assert boundaries(spending, 0.05, equal(looks)) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("looks", "pocock", "fleming"), [(2, 2.178, 1.977), (3, 2.289, 2.004), (4, 2.361, 2.024), (5, 2.413, 2.040), (10, 2.555, 2.087)]
)
def test_the_classic_constants_of_pocock_and_of_obrien_and_fleming_use_up_alpha(looks, pocock, fleming):
    # Jennison and Turnbull 2000, tables 2.1 and 2.3, alpha = 0.05; three digits of the constant are four of alpha. From memory.
    fractions = equal(looks)
    assert sum(crossing([pocock] * looks, fractions)) == pytest.approx(0.05, abs=1.5e-4)
    assert sum(crossing([fleming / np.sqrt(fraction) for fraction in fractions], fractions)) == pytest.approx(0.05, abs=1.5e-4)


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


@pytest.mark.parametrize(("spending", "published"), [("obrien-fleming", 1.028), ("pocock", 1.229)])
def test_the_price_of_five_looks_is_about_that_of_the_classic_designs_and_buys_the_power(spending, published):
    # Jennison and Turnbull 2000, tables 2.2 and 2.4, alpha 0.05 and power 0.8; spending functions come near their boundaries. From memory.
    factor = group_factor(spending, 0.05, 0.8, equal(5))
    assert factor == pytest.approx(published, abs=0.025)
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
