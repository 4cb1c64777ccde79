"""Bayesian comparison of two variants: the probability to beat the control, what a wrong choice costs, and a credible interval.

Looking often does no harm to what these figures mean, but a rule that ships at 95 % has no stated rate of false positives.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.experiment_samples import Sample

QUADRATURE = 400
"""Nodes over the control's posterior."""


@dataclass(frozen=True)
class Posterior:
    """What is believed of treatment minus control.

    Args:
        beats: the probability that the treatment's true mean is the higher one.
        loss_if_shipped: how much lower than the control's it is expected to be, counting 0 where it is higher.
        loss_if_kept: the same if the control is kept.
        effect: the mean difference.
        lower, upper: the equal-tailed credible interval.
    """

    beats: float
    loss_if_shipped: float
    loss_if_kept: float
    effect: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Beta:
    """A belief about a share. Both are whole numbers, since then there is a closed form."""

    a: int
    b: int

    def __post_init__(self) -> None:
        if not (isinstance(self.a, int) and isinstance(self.b, int) and self.a >= 1 and self.b >= 1):
            raise SpecError(f"got Beta({self.a}, {self.b}), expected whole numbers from 1 up, such as Beta(1, 1), which knows nothing")

    @property
    def mean(self) -> float:
        return self.a / (self.a + self.b)

    def after(self, units: int, successes: int) -> "Beta":
        """The belief once these were seen."""
        if not 0 <= successes <= units:
            raise BadData(f"successes: got {successes} of {units} units, expected from none to all of them; count each unit once")
        return Beta(self.a + successes, self.b + units - successes)


def compare_shares(control: Beta, treatment: Beta, credibility: float = 0.95) -> Posterior:
    """Two shares by their posteriors, in closed form; the interval by quadrature.

    Args:
        control, treatment: posteriors, ``Beta(1, 1).after(units, successes)``.
        credibility: of the interval.

    Source: Miller, *Formulas for Bayesian A/B Testing*, 2014; Stucchio, *Bayesian A/B Testing at VWO*, 2015, for the expected loss.
    Knowing nothing of either, each is the better one with probability 1/2, and a wrong choice costs the mean of max(x - y, 0), 1/6:

    >>> nothing = compare_shares(Beta(1, 1), Beta(1, 1))
    >>> round(nothing.beats, 12), round(nothing.loss_if_shipped, 12)
    (0.5, 0.166666666667)
    """
    _check_credibility(credibility)
    up_control, up_treatment = Beta(control.a + 1, control.b), Beta(treatment.a + 1, treatment.b)
    beats, effect = _beats(control, treatment), treatment.mean - control.mean
    # E[max(x - y, 0)] = E[x; x > y] - E[y; x > y], and weighting Beta(a, b) with its own value makes it Beta(a + 1, b).
    shipped = control.mean * (1 - _beats(up_control, treatment)) - treatment.mean * (1 - _beats(control, up_treatment))
    shipped = max(shipped, -effect, 0.0)
    tail = (1 - credibility) / 2
    lower, upper = (_quantile(control, treatment, probability) for probability in (tail, 1 - tail))
    return Posterior(beats, shipped, shipped + effect, effect, lower, upper)


def compare_means(control: Sample, treatment: Sample, credibility: float = 0.95, prior_deviation: float = math.inf) -> Posterior:
    """Two means by a normal posterior of their difference.

    Args:
        credibility: of the interval.
        prior_deviation: of the difference, around 0, before anything was seen, in the metric's unit; infinite for knowing nothing.

    Raises:
        BadData: if a variant has fewer than two units, or neither varies.

    Source: Stucchio 2015, as above; Gelman et al., *Bayesian Data Analysis*, 3rd ed., section 2.5 (normal mean, known variance).
    A difference of 1.96 standard errors is one of 97.5 %:

    >>> round(compare_means(Sample(200, 0.0, 1.0), Sample(200, 0.196, 1.0)).beats, 3)
    0.975
    """
    from scipy.special import ndtr, ndtri

    _check_credibility(credibility)
    if not prior_deviation > 0:
        raise SpecError(f"prior_deviation: got {prior_deviation}, expected a positive one; infinite for knowing nothing")
    error = control.error + treatment.error
    if min(control.units, treatment.units) < 2 or error <= 0:
        raise BadData(
            f"got {control.units} and {treatment.units} units with variances of {control.variance} and {treatment.variance}, "
            f"expected two units or more and some variance: wait for more"
        )
    shrink = 1 / (1 + error / prior_deviation**2)
    effect, deviation = (treatment.mean - control.mean) * shrink, math.sqrt(error * shrink)
    standard = effect / deviation
    density = math.exp(-(standard**2) / 2) / math.sqrt(2 * math.pi)
    shipped = max(deviation * (density - standard * float(ndtr(-standard))), 0.0)
    half = float(ndtri(0.5 + credibility / 2)) * deviation
    return Posterior(float(ndtr(standard)), shipped, max(shipped + effect, 0.0), effect, effect - half, effect + half)


def _beats(control: Beta, treatment: Beta) -> float:
    """P(treatment > control): a sum of ``treatment.a`` terms, or of as few as any of the four numbers allows.

    >>> round(_beats(Beta(1, 1), Beta(2, 1)), 12)  # the larger of two uniform numbers beats a third
    0.666666666667
    """
    # P(y > x) is also 1 - P(x > y), and P(1 - x > 1 - y) with the shares of failures.
    ways = {
        treatment.a: lambda: _sum(control.a, control.b, treatment.a, treatment.b),
        control.a: lambda: 1 - _sum(treatment.a, treatment.b, control.a, control.b),
        control.b: lambda: _sum(treatment.b, treatment.a, control.b, control.a),
        treatment.b: lambda: 1 - _sum(control.b, control.a, treatment.b, treatment.a),
    }
    return min(max(ways[min(ways)](), 0.0), 1.0)


def _sum(a_x: int, b_x: int, a_y: int, b_y: int) -> float:
    """P(y > x) of x ~ Beta(a_x, b_x) and y ~ Beta(a_y, b_y), by Miller's sum over 0 to a_y - 1."""
    from scipy.special import betaln

    i = np.arange(a_y)
    return float(np.exp(betaln(a_x + i, b_x + b_y) - np.log(b_y + i) - betaln(1 + i, b_y) - betaln(a_x, b_x)).sum())


def _quantile(control: Beta, treatment: Beta, probability: float) -> float:
    """The quantile of treatment minus control: its distribution is the treatment's, averaged over the control's posterior."""
    from scipy.optimize import brentq
    from scipy.special import betainc, betaincinv

    nodes, weights = _nodes()
    places = betaincinv(control.a, control.b, (nodes + 1) / 2)

    def excess(difference: float) -> float:
        return float(weights / 2 @ betainc(treatment.a, treatment.b, np.clip(places + difference, 0, 1))) - probability

    return float(brentq(excess, -1.0, 1.0, xtol=1e-12))


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """To find so many takes longer than to use them."""
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    return nodes, weights


def _check_credibility(credibility: float) -> None:
    if not 0 < credibility < 1:
        raise SpecError(f"credibility: got {credibility}, expected between 0 and 1, e.g. 0.95")
