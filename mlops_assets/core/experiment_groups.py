"""Group-sequential boundaries: a few looks, agreed before the start, that together err no more often than one."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

from mlops_assets.core.errors import SpecError

Spending = Literal["obrien-fleming", "pocock"]

NODES = 16
"""Of each panel of the quadrature over the region where an experiment goes on; the integrand is smooth, and the error below 1e-8."""

NEVER = 8.0
"""A boundary of so many standard errors is not crossed by chance: 1e-15."""


def spent(spending: Spending, alpha: float, fraction: float) -> float:
    """How much of ``alpha``, two-sided, may be used up when this fraction of the planned information is there.

    Source: Lan and DeMets, *Discrete sequential boundaries for clinical trials*, Biometrika 70, 1983: the spending functions whose
    boundaries are like O'Brien and Fleming's (hardly any at the beginning) and Pocock's (about the same at each look). Half of alpha is
    for each side.

    >>> round(spent("obrien-fleming", 0.05, 0.5), 5), round(spent("pocock", 0.05, 0.5), 5), spent("pocock", 0.05, 1)
    (0.00305, 0.03101, 0.05)
    """
    from scipy.special import ndtr, ndtri

    if fraction <= 0:
        return 0.0
    fraction = min(fraction, 1.0)
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * fraction)
    return 4 * float(ndtr(ndtri(alpha / 4) / math.sqrt(fraction)))


def boundaries(spending: Spending, alpha: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """The |z| to exceed at each look, so that all of them together exceed by chance with probability ``alpha``.

    Args:
        alpha: two-sided, of all looks.
        fractions: of the planned information, at each look that was or is taken; rising, above 0, 1 at most. They need not be as planned.

    Raises:
        SpecError: if fractions do not rise within 0 to 1, or alpha is no probability.

    Source: Armitage, McPherson and Rowe, JRSS A 132, 1969 (the recursion); Jennison and Turnbull, *Group Sequential Methods*, 2000,
    chapter 19.
    Five equal looks:

    >>> [round(z, 3) for z in boundaries("obrien-fleming", 0.05, (0.2, 0.4, 0.6, 0.8, 1.0))]
    [4.877, 3.357, 2.68, 2.29, 2.031]
    >>> [round(z, 3) for z in boundaries("pocock", 0.05, (0.2, 0.4, 0.6, 0.8, 1.0))]
    [2.438, 2.427, 2.41, 2.397, 2.386]
    """
    from scipy.optimize import brentq

    if not 0 < alpha < 1:
        raise SpecError(f"alpha: got {alpha}, expected between 0 and 1, e.g. 0.05")
    _check_fractions(fractions)
    found: list[float] = []
    walk = _Walk()
    for before, fraction in pairwise((0.0, *fractions)):
        allowed = spent(spending, alpha, fraction) - spent(spending, alpha, before)
        leaves = walk.leaving(fraction)
        z = NEVER if leaves(NEVER) >= allowed else float(brentq(lambda z, leaves=leaves, allowed=allowed: leaves(z) - allowed, 0.0, NEVER))
        found.append(z)
        walk.go_on(fraction, z)
    return tuple(found)


def crossing(bounds: Sequence[float], fractions: Sequence[float], drift: float = 0.0) -> tuple[float, ...]:
    """The probability that ``|z|`` first exceeds its boundary at each look.

    Args:
        bounds: by look, in standard errors.
        fractions: of the planned information, by look.
        drift: the mean of z at the end; 0 for no effect. Their sum is then the false positive rate, else the power.

    Raises:
        SpecError: if there is not one bound for each fraction, or fractions do not rise within 0 to 1.

    Source: as :func:`boundaries`. Pocock's constant for five looks is 2.413:

    >>> round(sum(crossing([2.413] * 5, [0.2, 0.4, 0.6, 0.8, 1.0])), 3)
    0.05
    """
    _check_fractions(fractions)
    if len(bounds) != len(fractions) or not all(bound > 0 for bound in bounds):
        raise SpecError(f"bounds: got {tuple(bounds)} for {len(fractions)} looks, expected a positive one for each")
    walk, probabilities = _Walk(drift), []
    for bound, fraction in zip(bounds, fractions, strict=True):
        probabilities.append(walk.leaving(fraction)(bound))
        walk.go_on(fraction, bound)
    return tuple(probabilities)


def group_factor(spending: Spending, alpha: float, power: float, fractions: Sequence[float]) -> float:
    """How many times the units of a single look these looks need for the same power, if they go on to the last.

    Source: as :func:`boundaries`. Of five equal looks O'Brien and Fleming's own boundary has 1.028, Pocock's 1.229, and these functions:

    >>> five = (0.2, 0.4, 0.6, 0.8, 1.0)
    >>> [round(group_factor(spending, 0.05, 0.8, five), 2) for spending in ("obrien-fleming", "pocock")]
    [1.02, 1.21]
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    bounds = boundaries(spending, alpha, fractions)
    single = float(ndtri(1 - alpha / 2) + ndtri(power))
    drift = brentq(lambda drift: sum(crossing(bounds, fractions, drift)) - power, single / 2, single * 3)
    return float(drift / single) ** 2


class _Walk:
    """The density of a Brownian motion that has stayed within its boundaries so far, on quadrature nodes."""

    def __init__(self, drift: float = 0.0) -> None:
        self._drift, self._time = drift, 0.0
        self._places, self._masses = np.zeros(1), np.ones(1)

    def leaving(self, time: float) -> Callable[[float], float]:
        """The probability to be outside of ``z`` standard errors at ``time``, as a function of z."""
        from scipy.special import ndtr

        means, deviation = self._places + self._drift * (time - self._time), math.sqrt(time - self._time)
        masses = self._masses

        def outside(z: float) -> float:
            edge = z * math.sqrt(time)
            return float(masses @ (ndtr((means - edge) / deviation) + ndtr((-means - edge) / deviation)))

        return outside

    def go_on(self, time: float, z: float) -> None:
        """Stay within ``z`` standard errors at ``time``."""
        edge, deviation = z * math.sqrt(time), math.sqrt(time - self._time)
        means = self._places + self._drift * (time - self._time)
        places, weights = _quadrature(edge, deviation)
        density = np.exp(-0.5 * ((places[:, None] - means[None, :]) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
        self._masses, self._places, self._time = weights * (density @ self._masses), places, time


def _quadrature(edge: float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights from ``-edge`` to ``edge``, in panels no wider than what is integrated is narrow."""
    panels = max(8, math.ceil(2 * edge / (1.5 * deviation)))
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = edge / panels
    middles = np.linspace(-edge + half, edge - half, panels)
    return (middles[:, None] + half * nodes[None, :]).ravel(), np.tile(half * weights, panels)


def _check_fractions(fractions: Sequence[float]) -> None:
    rising = all(before < after for before, after in pairwise((0.0, *fractions)))
    if not fractions or not rising or fractions[-1] > 1:
        raise SpecError(
            f"looks: got {tuple(fractions)}, expected fractions of the planned units that rise from above 0 to 1, e.g. (0.5, 1.0)"
        )
