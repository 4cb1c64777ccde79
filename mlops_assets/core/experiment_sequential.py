"""Inference that holds at every look: a confidence sequence of a difference, and a test of the split between variants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.experiment_samples import Sample

SRM_CONCENTRATION = 10_000.0
"""How tightly the alternative of :func:`sequential_srm` lies around the declared split: to within about one percentage point."""


@dataclass(frozen=True)
class Difference:
    """Treatment minus control with its interval."""

    effect: float
    lower: float
    upper: float


def confidence_sequence(control: Sample, treatment: Sample, alpha: float, planned: Sequence[int]) -> Difference:
    """The difference of two means with an interval that contains the true one at all looks together with probability ``1 - alpha``.

    It is the normal mixture martingale of Robbins, as in the mixture SPRT, with the variances estimated: its coverage is that of the
    limit of many units, like a t test's without normal data. One may look after every unit and stop at any time. Where that limit is far it
    errs more often: with a log-normal metric (sigma 1.5), split 1:9 and looked at from 100 units on, in up to 7 % instead of 5 %.

    Args:
        alpha: how often the true difference may ever lie outside.
        planned: units of control and treatment at which the interval is to be narrowest. It must not depend on the data.

    Raises:
        BadData: if a variant has no units.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, *Time-uniform central limit theory and asymptotic confidence sequences*,
    Annals of Statistics 52, 2024, equation 5; Johari, Koomen, Pekelis and Walsh, *Always Valid Inference*, Operations Research 70, 2022;
    the tuning: Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49, 2021, section 3.5.

    At the planned number of units it is 1.55 times as wide as the interval of a single look, which is 0.0277 here:

    >>> seen = confidence_sequence(Sample(10_000, 0.5, 1.0), Sample(10_000, 0.6, 1.0), 0.05, (10_000, 10_000))
    >>> round(seen.effect, 3), round(seen.upper - seen.effect, 4)
    (0.1, 0.0429)
    """
    if min(control.units, treatment.units, *planned) < 1:
        raise BadData(f"got {control.units} and {treatment.units} units of {tuple(planned)}, expected some in each variant: wait for them")
    effect, error = treatment.mean - control.mean, control.error + treatment.error
    share = information_share((control.units, treatment.units), planned)
    half = float(half_width(np.array(error), np.array(share), alpha))
    return Difference(effect, effect - half, effect + half)


def half_width(error: np.ndarray, share: np.ndarray, alpha: float) -> np.ndarray:
    """Half the width of the interval of :func:`confidence_sequence`, at many looks in one call.

    Args:
        error: variances of the estimated difference, any shape.
        share: of the planned information, same shape; it must be proportional to ``1 / error`` but for the estimation of variances.

    At all of the planned information, it is the root of 1 + 8.2, in standard errors:

    >>> round(float(half_width(np.array(1.0), np.array(1.0), 0.05)), 3)
    3.035
    """
    _check_alpha(alpha)
    mixing = _best_mixing(alpha) * share
    width: np.ndarray = np.sqrt(error * (1 + 1 / mixing) * (np.log1p(mixing) - 2 * math.log(alpha)))
    return width


def chi_square_srm(units: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value that units split like this by the declared shares, for a single look.

    Args:
        units: of each variant, shape (variants,).
        shares: declared, of each variant; they add up to 1.

    Raises:
        BadData: if there are no units.

    Source: Pearson 1900; Fabijan et al., *Diagnosing Sample Ratio Mismatch in Online Controlled Experiments*, KDD 2019, whose example
    of 821,588 against 815,482 users of an even split is not chance:

    >>> chi_square_srm((821_588, 815_482), (0.5, 0.5)) < 0.00001
    True
    """
    from scipy.special import chdtrc

    _check_split(units, shares)
    total = sum(units)
    statistic = sum((seen - total * share) ** 2 / (total * share) for seen, share in zip(units, shares, strict=True))
    return float(chdtrc(len(units) - 1, statistic))


def sequential_srm(units: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of the split that may be looked at after every unit.

    Under the declared shares it is ever below alpha in at most alpha of all experiments. It is the inverse Bayes factor of a
    Dirichlet-multinomial around the declared shares against these shares themselves.

    Args:
        units: of each variant so far, shape (variants,).
        shares: declared, of each variant; they add up to 1.

    Raises:
        BadData: if there are no units.

    Source: Lindon and Malek, *Anytime-Valid Inference for Multinomial Count Data*, NeurIPS 2022.

    >>> sequential_srm((5_000, 5_000), (0.5, 0.5))
    1.0
    >>> sequential_srm((821_588, 815_482), (0.5, 0.5)) < 0.001
    True
    """
    from scipy.special import gammaln

    _check_split(units, shares)
    total = sum(units)
    evidence = float(gammaln(SRM_CONCENTRATION) - gammaln(SRM_CONCENTRATION + total))
    for seen, share in zip(units, shares, strict=True):
        prior = SRM_CONCENTRATION * share
        evidence += float(gammaln(prior + seen) - gammaln(prior)) - seen * math.log(share)
    return min(1.0, math.exp(min(-evidence, 0.0)))


def information_share(units: Sequence[int], planned: Sequence[int]) -> float:
    """Which fraction of the planned information on a difference these units of two variants are; may exceed 1.

    >>> information_share((100, 100), (200, 200)), information_share((0, 100), (200, 200))
    (0.5, 0.0)
    """
    return 0.0 if min(units) == 0 else (1 / planned[0] + 1 / planned[1]) / (1 / units[0] + 1 / units[1])


def always_valid_factor(alpha: float, power: float) -> float:
    """How many times the units of a single look are enough for :func:`confidence_sequence` to have the same power by its planned end.

    Less are enough in fact, since it may exclude 0 at any look before.

    >>> round(always_valid_factor(0.05, 0.8), 2)
    1.91
    """
    from scipy.special import ndtri

    _check_alpha(alpha)
    single, tail = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    # At the planned end the half-width is the root of 1 + mixing, in standard errors.
    return ((math.sqrt(1 + _best_mixing(alpha)) + tail) / (single + tail)) ** 2


def _best_mixing(alpha: float) -> float:
    """The mixing variance r, in multiples of the difference's variance, with which the interval is narrowest.

    It solves log(1 + r) - 2 log(alpha) = r.
    """
    from scipy.special import lambertw

    return float(-lambertw(-(alpha**2) / math.e, -1).real - 1)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise SpecError(f"alpha: got {alpha}, expected between 0 and 1, e.g. 0.05")


def _check_split(units: Sequence[int], shares: Sequence[float]) -> None:
    if len(units) != len(shares) or len(units) < 2:
        raise BadData(f"got units of {len(units)} variants and {len(shares)} shares, expected one of each for two variants or more")
    if min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-9):
        raise SpecError(f"shares: got {tuple(shares)}, expected positive ones that add up to 1, e.g. (0.5, 0.5)")
    if min(units) < 0 or sum(units) == 0:
        raise BadData(f"units: got {tuple(units)}, expected some: wait for the first")
