"""How many units an experiment needs, and what it would find with those it has."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mlops_assets.core.errors import SpecError

Alternative = Literal["two-sided", "larger", "smaller"]
MOST_UNITS = 10**12
"""Above this an experiment is called undecidable rather than sized."""


@dataclass(frozen=True)
class SampleSize:
    """Units a variant, and the power that they give."""

    control: int
    treatment: int
    power: float

    @property
    def total(self) -> int:
        return self.control + self.treatment


@dataclass(frozen=True)
class Criteria:
    """What a test asks for.

    Args:
        alpha: how often it may find a difference where there is none.
        power: how often it must find one of the size that is looked for.
        ratio: units of the treatment for each of the control.
        alternative: which differences count, treatment minus control.
    """

    alpha: float = 0.05
    power: float = 0.8
    ratio: float = 1.0
    alternative: Alternative = "two-sided"

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise SpecError(f"alpha: got {self.alpha}, expected between 0 and 1, e.g. 0.05")
        if not self.alpha < self.power < 1:
            raise SpecError(f"power: got {self.power}, expected between alpha ({self.alpha}) and 1, e.g. 0.8")
        if not (self.ratio > 0 and math.isfinite(self.ratio)):
            raise SpecError(f"ratio: got {self.ratio}, expected a positive number of treated units for each of the control, e.g. 1")
        if self.alternative not in ("two-sided", "larger", "smaller"):
            raise SpecError(f"alternative: got {self.alternative!r}, expected two-sided, larger or smaller")


def power_of_proportions(baseline: float, effect: float, control: float, criteria: Criteria) -> float:
    """The probability that the two-sample z test of proportions (pooled variance) finds ``effect``.

    Args:
        baseline: the control's share, between 0 and 1.
        effect: treatment minus control, e.g. 0.01 for one percentage point.
        control: units of the control.

    Raises:
        SpecError: if a share lies outside of 0 to 1.

    Source: Fleiss, Levin and Paik, *Statistical Methods for Rates and Proportions*, 3rd ed., 2003, section 4.1; by statsmodels.

    >>> round(power_of_proportions(0.10, 0.02, 3841, Criteria()), 3)
    0.8
    """
    from statsmodels.stats.proportion import power_proportions_2indep

    for name, share in (("baseline", baseline), ("baseline + effect", baseline + effect)):
        if not 0 < share < 1:
            raise SpecError(f"{name}: got {share}, expected a share between 0 and 1, e.g. 0.1")
    # Its first group is the one that differs, so it counts from the treatment.
    treated, ratio = control * criteria.ratio, 1 / criteria.ratio
    return float(
        power_proportions_2indep(effect, baseline, treated, ratio, criteria.alpha, alternative=criteria.alternative, return_results=False)
    )


def power_of_means(effect: float, deviation: float, control: float, criteria: Criteria) -> float:
    """The probability that Student's two-sample t test finds ``effect``.

    Args:
        effect: treatment minus control, in the metric's unit.
        deviation: standard deviation of one unit, the same in both variants.
        control: units of the control, 2 at least.

    Raises:
        SpecError: if ``deviation`` is not positive, or there are too few units to estimate it.

    Source: Cohen, *Statistical Power Analysis for the Behavioral Sciences*, 1988, table 2.3: d = 0.5 with 64 a group has power 0.80. Not
    by statsmodels, whose lower tail is NaN for some sizes (alpha 0.001, d = 1, 54 a group).

    >>> round(power_of_means(0.5, 1.0, 64, Criteria()), 2)
    0.8
    """
    from scipy.special import nctdtr, stdtrit

    _positive("deviation", deviation)
    if control < 2 or control * criteria.ratio < 2:
        raise SpecError(f"control: got {control} units, expected 2 or more of each variant: a deviation cannot be estimated from one")
    freedom = control * (1 + criteria.ratio) - 2
    shift = effect / deviation * math.sqrt(control * criteria.ratio / (1 + criteria.ratio))
    critical = stdtrit(freedom, 1 - (criteria.alpha / 2 if criteria.alternative == "two-sided" else criteria.alpha))
    above = 0.0 if criteria.alternative == "smaller" else 1 - float(nctdtr(freedom, shift, critical))
    # The lower tail is the upper one of the mirrored distribution, which scipy computes where it fails to compute the other.
    below = 0.0 if criteria.alternative == "larger" else 1 - float(nctdtr(freedom, -shift, critical))
    return above + below


def power_of_ratios(effect: float, variance: float, control: float, criteria: Criteria) -> float:
    """The probability that a z test finds ``effect`` in a metric with this variance a unit.

    Args:
        effect: treatment minus control.
        variance: of one unit; of a ratio metric by the delta method, see :func:`mlops_assets.core.experiment_samples.ratio`.
        control: units of the control.

    Raises:
        SpecError: if ``variance`` is not positive.

    Source: Deng, Knoblich and Lu, *Applying the Delta Method in Metric Analytics*, KDD 2018; the z test by statsmodels.

    2.8 standard errors of the difference are what a power of 0.8 needs (1.96 + 0.84):

    >>> round(power_of_ratios(2.8, 50.0, 100, Criteria()), 2)
    0.8
    """
    from statsmodels.stats.power import NormalIndPower

    _positive("variance", variance)
    standard = effect / math.sqrt(variance)
    return float(NormalIndPower().power(standard, control, criteria.alpha, criteria.ratio, alternative=criteria.alternative))


def size_for_proportions(baseline: float, effect: float, criteria: Criteria) -> SampleSize:
    """The least units with which :func:`power_of_proportions` is at least ``criteria.power``.

    The textbook's 10 % against 12 %, two-sided 0.05, power 0.8, takes 3,841 a variant:

    >>> size_for_proportions(0.10, 0.02, Criteria()).control
    3841
    """
    return _size(lambda n: power_of_proportions(baseline, effect, n, criteria), effect, criteria)


def size_for_means(effect: float, deviation: float, criteria: Criteria) -> SampleSize:
    """The least units with which :func:`power_of_means` is at least ``criteria.power``.

    >>> size_for_means(0.5, 1.0, Criteria()).control
    64
    """
    return _size(lambda n: power_of_means(effect, deviation, n, criteria), effect, criteria)


def size_for_ratios(effect: float, variance: float, criteria: Criteria) -> SampleSize:
    """The least units with which :func:`power_of_ratios` is at least ``criteria.power``.

    >>> size_for_ratios(0.5, 1.0, Criteria()).control
    63
    """
    return _size(lambda n: power_of_ratios(effect, variance, n, criteria), effect, criteria)


def _size(power: Callable[[int], float], effect: float, criteria: Criteria) -> SampleSize:
    """Doubling, then halving: power rises with the units."""
    if not math.isfinite(effect) or effect == 0:
        raise SpecError(f"effect: got {effect}, expected a difference worth finding: none can be told from nothing")
    if (effect > 0 and criteria.alternative == "smaller") or (effect < 0 and criteria.alternative == "larger"):
        raise SpecError(f"effect: got {effect} with alternative {criteria.alternative!r}: such a test never finds it; change its sign")
    low, high = 1, 2
    while power(_enough(high, criteria)) < criteria.power:
        low, high = high, high * 2
        if high > MOST_UNITS:
            raise SpecError(f"effect: {effect} needs more than {MOST_UNITS:.0e} units a variant to be found: look for a larger one")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(_enough(middle, criteria)) >= criteria.power else (middle, high)
    control = _enough(high, criteria)
    return SampleSize(control, math.ceil(control * criteria.ratio), power(control))


def _enough(control: int, criteria: Criteria) -> int:
    """At least two units a variant."""
    return max(control, 2, math.ceil(2 / criteria.ratio))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise SpecError(f"{name}: got {value}, expected a positive number: a metric that never varies needs no experiment")
