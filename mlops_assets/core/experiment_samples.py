"""What an experiment has measured: a metric of one variant as units, mean and variance of one unit, whatever kind of metric it is.

With these three, means, shares, ratios of two sums and adjusted means are compared alike.
"""

import math
from dataclasses import dataclass

from mlops_assets.core.errors import BadData


@dataclass(frozen=True)
class Sample:
    """A metric of one variant.

    Args:
        units: how many independent units, e.g. customers, stand behind it.
        mean: of a unit.
        variance: of a unit; that of the mean is ``variance / units``.
    """

    units: int
    mean: float
    variance: float

    def __post_init__(self) -> None:
        if self.units < 0:
            raise BadData(f"units: got {self.units}, expected a number from 0 up")
        if not (math.isfinite(self.mean) and math.isfinite(self.variance) and self.variance >= 0):
            raise BadData(f"got a mean of {self.mean} and a variance of {self.variance}, expected finite numbers: leave out missing values")

    @property
    def error(self) -> float:
        """The variance of the mean."""
        return self.variance / self.units if self.units else math.inf


@dataclass(frozen=True)
class Pair:
    """Two quantities measured of the same units: numerator and denominator of a ratio, or a metric and its value before the start.

    Args:
        means, variances: of a unit, of the first and the second.
        covariance: between the two, of a unit.
    """

    units: int
    means: tuple[float, float]
    variances: tuple[float, float]
    covariance: float

    def __post_init__(self) -> None:
        if self.units < 0:
            raise BadData(f"units: got {self.units}, expected a number from 0 up")
        if not all(math.isfinite(value) for value in (*self.means, *self.variances, self.covariance)):
            raise BadData(f"got {self.means}, {self.variances} and {self.covariance}, expected finite numbers: leave out missing values")
        most = math.sqrt(max(self.variances[0], 0.0) * max(self.variances[1], 0.0))
        if min(self.variances) < 0 or abs(self.covariance) > most * (1 + 1e-9):
            raise BadData(
                f"variances {self.variances} and covariance {self.covariance} cannot be of two quantities: variances are 0 or more, "
                f"and a correlation lies within -1 and 1"
            )


def proportion(units: int, successes: int) -> Sample:
    """A share of units.

    Raises:
        BadData: if there are more successes than units.

    >>> proportion(100, 50)
    Sample(units=100, mean=0.5, variance=0.25)
    """
    if not 0 <= successes <= units:
        raise BadData(f"successes: got {successes} of {units} units, expected from none to all of them; count each unit once")
    share = successes / units if units else 0.0
    return Sample(units, share, share * (1 - share))


def ratio(pair: Pair) -> Sample:
    """A ratio of two sums over the units, such as clicks over views where the customer is the unit, by the delta method.

    The variance of a unit is ``(var(y) - 2 r cov(x, y) + r**2 var(x)) / mean(x)**2`` with ``r = mean(y) / mean(x)``.

    Args:
        pair: numerator and denominator.

    Raises:
        BadData: if the denominator's mean is not above 0.

    Source: Deng, Knoblich and Lu, KDD 2018, equation 4. Where everybody has two views, it is the clicks' variance over 4:

    >>> ratio(Pair(50, (1.0, 2.0), (0.8, 0.0), 0.0))
    Sample(units=50, mean=0.5, variance=0.2)
    """
    (y, x), (var_y, var_x) = pair.means, pair.variances
    if pair.units and x <= 0:
        raise BadData(
            f"the denominator of a ratio has a mean of {x}, expected one above 0: take a metric whose denominator counts something"
        )
    if not pair.units:
        return Sample(0, 0.0, 0.0)
    r = y / x
    return Sample(pair.units, r, max(var_y - 2 * r * pair.covariance + r * r * var_x, 0.0) / x**2)


def adjusted(control: Pair, treatment: Pair) -> tuple[Sample, Sample]:
    """Both variants' means freed of what the units did before the start (CUPED).

    ``theta``, the slope of the metric on its value before, is pooled within the variants, so the difference of the adjusted means is
    that of an ordinary regression of the metric on variant and covariate. The variance falls by the square of their correlation.

    Args:
        control, treatment: the metric, and its value before the start, which the variant cannot have changed.

    Source: Deng, Xu, Kohavi and Walker, *Improving the Sensitivity of Online Controlled Experiments by Utilizing Pre-Experiment Data*,
    WSDM 2013. A correlation of 0.6 leaves 64 % of the variance, and a head start of 1 in the treatment is taken off by theta, 0.6:

    >>> _, treated = adjusted(Pair(100, (5.0, 4.5), (1.0, 1.0), 0.6), Pair(100, (6.0, 5.5), (1.0, 1.0), 0.6))
    >>> round(treated.mean, 6), round(treated.variance, 6)
    (5.7, 0.64)
    """
    weights = [max(pair.units - 1, 0) for pair in (control, treatment)]
    shared = weights[0] * control.covariance + weights[1] * treatment.covariance
    spread = weights[0] * control.variances[1] + weights[1] * treatment.variances[1]
    theta = shared / spread if spread > 0 else 0.0
    units = control.units + treatment.units
    before = (control.units * control.means[1] + treatment.units * treatment.means[1]) / units if units else 0.0
    return _freed(control, theta, before), _freed(treatment, theta, before)


def _freed(pair: Pair, theta: float, before: float) -> Sample:
    mean = pair.means[0] - theta * (pair.means[1] - before)
    variance = pair.variances[0] - 2 * theta * pair.covariance + theta**2 * pair.variances[1]
    return Sample(pair.units, mean, max(variance, 0.0))
