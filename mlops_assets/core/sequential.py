"""Evidence that may be looked at as often as one likes: e-processes from running counts of two arms.

Each function returns the natural logarithm of an *e-process*: a figure that begins at 0 and, as long as the hypothesis in its name is
true, ever reaches ``log(1 / alpha)`` with probability ``alpha`` at most, however often and whenever one looks (Ville's inequality). It
is computed from running counts alone, so that a small document is all the evidence. All take arrays of any equal shape.

Counts need not be whole: sums of any values in ``[0, 1]`` do (by convexity), and counts divided by a design effect too.

Source: Howard, Ramdas, McAuliffe, Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence sequences*, Annals of Statistics
49(2), 2021; Waudby-Smith and Ramdas, *Estimating means of bounded random variables by betting*, JRSS B 86(1), 2024; Turner and
Grünwald, *Exact anytime-valid confidence intervals for contingency tables and beyond*, Statistics and Probability Letters 198, 2023.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_BETS = np.array([1, *[0.9, 0.6, 0.35, 0.2, 0.1, 0.05, 0.025] * 3])
"""What share of the stake one event costs. The first bets on no event at all; the last is for millions of requests."""

_GUESSES = np.array([0, *[0] * 7, *[0.5] * 7, *[1] * 7])
"""At which base rate a bet is balanced: that of rare events, of even ones, of nearly sure ones."""

_PRIOR = np.array([1 / 3, *[2 / 63] * 21])
"""How the stake is spread over the bets: most often nothing happens at all."""

_TINY = 1e-300
"""Instead of 0 where a logarithm is taken."""

_RISKS = np.array([1.05, 1.1, 1.2, 1.4, 1.7, 2, 3, 5, 10, 30, 100])
"""How many times as often as its share an arm may have events, in the alternatives that are mixed."""

_SKEWS = np.concatenate([1 / np.array([1.02, 1.05, 1.1, 1.25, 2, 10]), [1.02, 1.05, 1.1, 1.25, 2, 10]])
"""Odds of a share over the promised ones, in the alternatives that are mixed."""


def against_at_least(
    events: ArrayLike, requests: ArrayLike, base_events: ArrayLike, base: ArrayLike, margin: ArrayLike, odds: float
) -> Floats:
    """Evidence against "the rate is at least the base's plus ``margin``".

    For each pair of rates on the hypothesis' edge one bets on fewer events here and more there, so that a common rise of both wins
    nothing; the unknown base rate is the one for which the bets have won least, which is found in closed form. Rates may vary with
    time: then it is about their averages.

    Args:
        events: how many of ``requests`` had the event.
        requests: of this arm.
        base_events: how many of ``base`` had it.
        base: requests of the arm that this one is compared with; 0, and the hypothesis is "the rate is at least ``margin``".
        margin: a difference of rates, -1 to 1.
        odds: how many requests this arm is meant to have for one of the base's; it steers the bets and not their validity.

    No event in 100 requests, bet on by one third of the stake, multiplies that third by 0.95**-100:

    >>> round(float(against_at_least(0, 100, 0, 0, 0.05, 1.0)), 1)
    4.2
    >>> round(float(np.log(0.95**-100 / 3)), 1)
    4.0
    """
    x2, n2, x1, n1, m = (np.asarray(value, dtype=float)[..., None] for value in (events, requests, base_events, base, margin))
    m = np.where(n1 > 0, m, np.clip(m, 0.0, 1.0))
    low, high = np.maximum(0.0, -m), 1.0 - np.maximum(0.0, m)
    # Without a base all guesses of its rate are the same bet.
    few = np.s_[:8] if not n1.any() else np.s_[:]
    prior = np.append(_PRIOR[:1], 3 * _PRIOR[1:8]) if not n1.any() else _PRIOR
    bet2, bet1 = -_BETS[few], _base_bets(low + _GUESSES * (high - low), m, odds)[..., few]
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where the logarithm of what is expected is steepest no more: linear, because each arm adds one concave term.
        worst = -(n2 * bet2 + n1 * bet1 * (1 + m * bet2)) / (bet1 * bet2 * (n1 + n2))
    worst = np.clip(np.where(np.isfinite(worst), worst, low), low, high)
    expected = n2 * np.log(np.maximum(1 + (worst + m) * bet2, _TINY)) + n1 * np.log1p(worst * bet1)
    won = x2 * np.log(np.maximum(1 + bet2, _TINY)) + x1 * np.log1p(bet1)
    return _mixed(won - expected, np.log(prior))


def _base_bets(guess: Floats, margin: Floats, odds: float) -> Floats:
    """What one event of the base wins, so that at the guessed rate the bets on both arms balance; 0 where none can."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = odds * _BETS / (1 - (guess + margin) * _BETS)
        bets = slope / (1 - guess * slope)
    bets[..., 0] = 0.0
    balanced: Floats = np.where(np.isfinite(bets) & (bets > 0), bets, 0.0)
    return balanced


def against_at_most(
    events: ArrayLike, requests: ArrayLike, base_events: ArrayLike, base: ArrayLike, margin: ArrayLike, odds: float
) -> Floats:
    """Evidence against "the rate is at most the base's plus ``margin``"; arguments as in :func:`against_at_least`.

    10 of 10 requests failed where 5 % may: 20 ** 10 by the third of the stake that bets on nothing but failures.

    >>> bool(against_at_most(10, 10, 0, 0, 0.05, 1.0) > np.log(20.0**10 / 3))
    True
    """
    x2, n2, x1, n1, m = (np.asarray(value, dtype=float) for value in (events, requests, base_events, base, margin))
    # Without a base the hypothesis on what did not happen is "at least 1 - margin"; with one the ones cancel.
    return against_at_least(n2 - x2, n2, n1 - x1, n1, np.where(n1 > 0, -m, 1 - m), odds)


def against_no_more_than_share(events: ArrayLike, of_both: ArrayLike, expected: ArrayLike) -> Floats:
    """Evidence against "this arm has no more of the events than its share of the requests".

    Of the events of one look, each is this arm's with the probability of its share of that look's requests, if neither arm has
    more of them; what else makes events come and go (a burst, a bad hour, an outage) hits both and cancels. The test of equality
    in which nothing need be known of the rates.

    Args:
        events: this arm's.
        of_both: events of all arms.
        expected: the sum over the looks of that look's events times this arm's share of its requests.

    With w the mean share, a relative risk r wins ``r**events / (1 + w (r - 1))**of_both``, by Jensen's inequality at most what betting
    look by look would. 8 of 8 errors at 5 % of the traffic, for r = 100, win (100 / 5.95)**8, by one part of eleven:

    >>> round(float(against_no_more_than_share(8, 8, 0.4)), 1)
    20.3
    >>> round(float(8 * np.log(100 / 5.95) - np.log(11)), 1)
    20.2
    """
    x, total, mean = (np.asarray(value, dtype=float)[..., None] for value in (events, of_both, expected))
    share = np.clip(mean / np.maximum(total, 1e-300), 0.0, 1.0)
    return _mixed(x * np.log(_RISKS) - total * np.log1p(share * (_RISKS - 1)), -np.log(_RISKS.size))


def against_share(requests: ArrayLike, of_both: ArrayLike, share: ArrayLike) -> Floats:
    """Evidence against "each request is this arm's with probability ``share``": a sample ratio mismatch.

    Source: Lindon and Malek, *Anytime-valid inference for multinomial count data*, NeurIPS 2022. A split of 50:50 that gave 700
    of 1,000 is not one:

    >>> bool(against_share(700, 1000, 0.5) > np.log(1e6)), bool(against_share(510, 1000, 0.5) > 0)
    (True, False)
    """
    x, total, w = (np.asarray(value, dtype=float)[..., None] for value in (requests, of_both, share))
    return _mixed(x * np.log(_SKEWS) - total * np.log1p(w * (_SKEWS - 1)), -np.log(_SKEWS.size))


def bounds(events: float, requests: float, base_events: float, base: float, odds: float, below: float, above: float) -> tuple[float, float]:
    """Between what the difference of the rates lies, at every look at once.

    Args:
        below: with what probability the lower bound may ever be too high.
        above: with what probability the upper bound may ever be too low.

    100 of 1,000 against 100 of 1,000 is a difference of nothing:

    >>> low, high = bounds(100, 1000, 100, 1000, 1.0, 0.05, 0.05)
    >>> -0.06 < low < 0 < high < 0.06
    True
    """
    arms = (events, requests, base_events, base)
    floor = 0.0 if base == 0 else -1.0
    high = _first(lambda margin: against_at_least(*arms, margin, odds) >= np.log(1 / above), floor, 1.0)
    low = -_first(lambda margin: against_at_most(*arms, -margin, odds) >= np.log(1 / below), -1.0, -floor)
    return low, high


def design_effect(sketch: ArrayLike, requests: float, correlation: float) -> float:
    """By how much fewer the requests count because each unit sends several: ``1 + (m - 1) correlation``.

    ``m`` is the number of requests that an average request shares its unit with, itself included. It is the sum over the units of
    the square of their requests, divided by the requests; the sum of squares is the mean square of the sketch.

    Args:
        sketch: for each of some random signs of the units, the sum over all requests of their unit's sign, shape (signs,). Adds up.
        requests: how many are in the sketch.
        correlation: of the outcomes of one unit's requests, 0 to 1.

    Source: Kish, *Survey Sampling*, 1965; Alon, Matias and Szegedy, *The space complexity of approximating the frequency moments*, STOC
    1996: 64 signs know the sum of squares to 18 %. Four units with 25 requests each, by all 16 signs that four units can have:

    >>> signs = np.array([[1 - 2 * (pattern >> unit & 1) for unit in range(4)] for pattern in range(16)])
    >>> design_effect(25 * signs.sum(axis=1), 100, 1.0)
    25.0
    """
    if requests <= 0:
        return 1.0
    squares = float(np.mean(np.square(np.asarray(sketch, dtype=float))))
    return max(1.0, 1.0 + (squares / requests - 1.0) * correlation)


def _mixed(logs: Floats, log_prior: Floats | float) -> Floats:
    """The logarithm of the mean over the last axis."""
    logs = logs + log_prior
    top = np.max(logs, axis=-1, keepdims=True)
    mixed: Floats = np.log(np.sum(np.exp(logs - top), axis=-1)) + top[..., 0]
    return mixed


def _first(holds, start: float, end: float) -> float:  # type: ignore[no-untyped-def]
    """The least value in ``[start, end]`` from which on ``holds`` does, to 1 / 32,768 of the range; ``end`` if it never does."""
    for _ in range(3):
        grid = np.linspace(start, end, 33)
        found = np.flatnonzero(holds(grid))
        if not found.size:
            return float(end)
        start, end = float(grid[max(found[0] - 1, 0)]), float(grid[found[0]])
    return end
