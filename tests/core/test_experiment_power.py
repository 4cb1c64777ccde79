"""Power and sample size, beside their formulas, published tables, R and a simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, norm, t
from statsmodels.stats.power import TTestIndPower

from mlops_assets.core.errors import SpecError
from mlops_assets.core.experiment_power import (
    Criteria,
    power_of_means,
    power_of_proportions,
    power_of_ratios,
    size_for_means,
    size_for_proportions,
    size_for_ratios,
)

SIDES = pytest.mark.parametrize(("alternative", "sign"), [("two-sided", 1), ("two-sided", -1), ("larger", 1), ("smaller", -1)])
RATIOS = pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])


def beyond(critical: float, above, below, alternative: str) -> float:
    """The probability of both tails that count; ``above`` and ``below`` are those of the statistic."""
    return (0 if alternative == "smaller" else above(critical)) + (0 if alternative == "larger" else below(-critical))


@SIDES
@RATIOS
@pytest.mark.parametrize(("baseline", "effect", "units"), [(0.1, 0.02, 1500), (0.5, 0.05, 400), (0.02, 0.004, 9000)])
def test_power_of_proportions_is_that_of_the_pooled_z_test(alternative, sign, ratio, baseline, effect, units):
    treated, m = baseline + sign * effect, units * ratio
    pooled = (units * baseline + m * treated) / (units + m)
    if_none = np.sqrt(pooled * (1 - pooled) * (1 / units + 1 / m))
    found = norm(sign * effect, np.sqrt(baseline * (1 - baseline) / units + treated * (1 - treated) / m))
    critical = norm.isf(0.025 if alternative == "two-sided" else 0.05) * if_none
    ours = power_of_proportions(baseline, sign * effect, units, Criteria(ratio=ratio, alternative=alternative))
    assert ours == pytest.approx(beyond(critical, found.sf, found.cdf, alternative), abs=1e-12)


@SIDES
@RATIOS
@pytest.mark.parametrize(("effect", "units"), [(0.1, 300), (0.5, 64), (1.0, 8)])
def test_power_of_means_and_ratios_is_that_of_the_t_and_the_z_test(alternative, sign, ratio, effect, units):
    criteria = Criteria(ratio=ratio, alternative=alternative)
    freedom, shift = units * (1 + ratio) - 2, sign * effect / np.sqrt(1 / units + 1 / (units * ratio))
    tail = 0.025 if alternative == "two-sided" else 0.05
    by_t = beyond(t.isf(tail, freedom), lambda x: nct.sf(x, freedom, shift), lambda x: nct.sf(-x, freedom, -shift), alternative)
    by_z = beyond(norm.isf(tail), norm(shift).sf, norm(shift).cdf, alternative)
    assert power_of_means(sign * effect * 7, 7.0, units, criteria) == pytest.approx(by_t, abs=1e-9)
    assert power_of_ratios(sign * effect * 7, 49.0, units, criteria) == pytest.approx(by_z, abs=1e-12)


@pytest.mark.parametrize(("effect", "units"), [(0.1, 300), (0.5, 64), (1.0, 8), (0.2, 1000), (1.0, 50)])
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_power_of_means_is_that_of_statsmodels(effect, units, alpha):
    assert power_of_means(effect, 1.0, units, Criteria(alpha)) == pytest.approx(TTestIndPower().power(effect, units, alpha), abs=1e-9)


def test_power_of_means_is_a_number_where_statsmodels_has_none():
    assert 0.9575 < power_of_means(1.0, 1.0, 54, Criteria(0.001)) < 0.9651  # between 53 units, and the z test's power


@pytest.mark.parametrize(
    ("effect", "units", "criteria", "power"),
    [
        # R's pwr.t.test and pwr.t2n.test, as statsmodels keeps them: statsmodels/stats/tests/test_power.py, TestTTPowerTwoS1 to S5
        (1.0, 30, Criteria(), 0.967708258242517),
        (0.1, 20, Criteria(), 0.06095912465411235),
        (1.0, 30, Criteria(alternative="larger"), 0.985459690251624),
        (0.01, 30, Criteria(alternative="larger"), 0.0540740302835667),
        (0.1, 20, Criteria(ratio=1.5), 0.0633081832564667),
    ],
)
def test_power_of_means_is_that_of_r(effect, units, criteria, power):
    assert power_of_means(effect, 1.0, units, criteria) == pytest.approx(power, abs=1e-9)


def test_proportions_have_the_power_and_size_of_rs_documentation():
    # R, stats::power.prop.test, examples: power = 0.740, and n = 76.7 for power 0.9
    assert power_of_proportions(0.5, 0.25, 50, Criteria()) == pytest.approx(0.740, abs=5.1e-4)
    assert size_for_proportions(0.5, 0.25, Criteria(power=0.9)).control == 77


@pytest.mark.parametrize(
    ("effect", "units"),
    [(0.2, 393), (0.3, 175), (0.4, 100), (0.5, 64), (0.6, 45), (0.7, 33), (0.8, 26), (1.0, 17), (1.2, 12), (1.4, 9)],
)
def test_sizes_for_means_are_those_of_cohens_table(effect, units):
    # Cohen 1988, as tabulated by medicalalgorithms.com ('Use of Cohen's Effect Size Index for Two Samples with Independent Means'): alpha
    # 0.05 two-tailed, power 0.8. Some are a unit below what has the power: at d = 0.20 that takes 394.
    assert abs(size_for_means(effect, 1.0, Criteria()).control - units) <= 1


@pytest.mark.parametrize(("p1", "p2", "units"), [(0.10, 0.12, 3841), (0.05, 0.10, 435), (0.50, 0.60, 388), (0.20, 0.30, 294)])
def test_sizes_for_proportions_are_those_of_fleiss_without_his_correction(p1, p2, units):
    # the formula (z_a sqrt(2 p q) + z_b sqrt(p1 q1 + p2 q2))**2 / (p1 - p2)**2, computed by hand
    z_a, z_b, mean = 1.959963985, 0.8416212336, (p1 + p2) / 2
    by_hand = (z_a * np.sqrt(2 * mean * (1 - mean)) + z_b * np.sqrt(p1 * (1 - p1) + p2 * (1 - p2))) ** 2 / (p1 - p2) ** 2
    assert size_for_proportions(p1, p2 - p1, Criteria()).control == int(np.ceil(by_hand)) == units


@settings(max_examples=100, deadline=None)
@given(st.floats(0.02, 3), st.floats(0.1, 0.99), st.floats(0.001, 0.09), st.floats(0.2, 5))
def test_a_size_is_the_least_that_has_the_power(effect, power, alpha, ratio):
    criteria = Criteria(alpha, power, ratio)
    for sized, of in ((size_for_means(effect, 1.0, criteria), power_of_means), (size_for_ratios(effect, 1.0, criteria), power_of_ratios)):
        assert sized.power >= power
        assert sized.treatment >= sized.control * ratio > sized.treatment - 1
        assert sized.control <= max(2, np.ceil(2 / ratio)) or of(effect, 1.0, sized.control - 1, criteria) < power


def test_a_simulated_experiment_of_that_size_finds_the_effect_as_often_as_asked():
    sized = size_for_proportions(0.1, 0.02, Criteria())
    rng, runs = np.random.default_rng(1), 20_000
    control, treatment = (rng.binomial(sized.control, share, runs) / sized.control for share in (0.10, 0.12))
    pooled = (control + treatment) / 2
    found = np.abs(treatment - control) > 1.959964 * np.sqrt(2 * pooled * (1 - pooled) / sized.control)
    assert found.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / runs))


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: size_for_proportions(0.0, 0.1, Criteria()), "baseline: got 0.0, expected a share between 0 and 1"),
        (lambda: size_for_proportions(0.95, 0.1, Criteria()), "baseline \\+ effect"),
        (lambda: size_for_proportions(0.1, 0.0, Criteria()), "effect: got 0.0"),
        (lambda: size_for_means(float("nan"), 1.0, Criteria()), "effect: got nan"),
        (lambda: size_for_means(1.0, 0.0, Criteria()), "deviation: got 0.0"),
        (lambda: size_for_means(1.0, float("inf"), Criteria()), "deviation: got inf"),
        (lambda: power_of_means(1.0, 1.0, 1, Criteria()), "expected 2 or more"),
        (lambda: size_for_ratios(1.0, float("nan"), Criteria()), "variance: got nan"),
        (lambda: size_for_ratios(-1.0, 1.0, Criteria(alternative="larger")), "never finds it"),
        (lambda: size_for_ratios(1e-9, 1.0, Criteria()), "look for a larger one"),
        (lambda: Criteria(alpha=0.0), "alpha: got 0.0"),
        (lambda: Criteria(power=0.01), "power: got 0.01"),
        (lambda: Criteria(ratio=float("inf")), "ratio: got inf"),
        (lambda: Criteria(alternative="greater"), "alternative: got 'greater'"),
    ],
)
def test_what_cannot_be_sized_is_told_how_to_mend_it(ask, told):
    with pytest.raises(SpecError, match=told):
        ask()
