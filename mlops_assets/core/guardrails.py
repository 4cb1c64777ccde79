"""What the counts of a challenger and its champion say of one kind of harm: a figure, and the evidence for and against harm.

All take arrays whose last axis, where there is one, is the bins, and any equal shape before it; so a thousand simulated rollouts are
judged at once by the very code that judges one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_assets.core import sequential
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS

Floats = NDArray[np.float64]

_FLOOR_SHARE = 0.2
"""What part of ``beta`` is spent on the champion's own quantile when a latency is to pass."""

_BOUNDS = np.array(LATENCY_BOUNDS_MS, dtype=float)


@dataclass(frozen=True)
class Finding:
    """One kind of harm, so far.

    Args:
        value: the harm as measured, in the unit of its limit; NaN before there is anything.
        harm: logarithm of the evidence that the challenger is worse.
        safe: logarithm of the evidence that it is not worse by the limit or more.
    """

    value: Floats
    harm: Floats
    safe: Floats

    def is_harm(self, limit: float, alpha: float) -> NDArray[np.bool_]:
        """Worse for certain, and beyond the limit as best measured."""
        shown: NDArray[np.bool_] = (self.harm >= np.log(1 / alpha)) & (self.value > limit)
        return shown

    def is_safe(self, beta: float) -> NDArray[np.bool_]:
        excluded: NDArray[np.bool_] = np.asarray(self.safe >= np.log(1 / beta))
        return excluded


@dataclass(frozen=True)
class Arms:
    """How many requests of each arm had an event.

    Args:
        events, requests: the challenger's.
        base_events, base: the champion's.
        odds: requests that the challenger is meant to have for one of the champion's.
        expected: events that would be the challenger's by its share of the requests, look by look; ``None`` takes its overall share.
    """

    events: ArrayLike
    requests: ArrayLike
    base_events: ArrayLike
    base: ArrayLike
    odds: float
    expected: ArrayLike | None = None


def above(events: ArrayLike, requests: ArrayLike, limit: float) -> Finding:
    """A share of its own against a limit.

    60 errors of 1,000 requests neither show that the rate is above 5 % nor that it is below; 10 exclude it:

    >>> some, few = above(60, 1000, 0.05), above(10, 1000, 0.05)
    >>> bool(some.is_harm(0.05, 0.05)), bool(some.is_safe(0.05)), bool(few.is_safe(0.05))
    (False, False, True)
    """
    against = (events, requests, 0.0, 0.0, limit, 1.0)
    return Finding(_rate(events, requests), sequential.against_at_most(*against), sequential.against_at_least(*against))


def increase(arms: Arms, limit: float) -> Finding:
    """How much more often something happens to the challenger's requests than to the champion's at the same time.

    8 errors of 50 requests beside none of 950 are harm:

    >>> bool(increase(Arms(8, 50, 0, 950, 50 / 950), 0.01).is_harm(0.01, 0.002))
    True
    """
    x2, n2, x1, n1 = (np.asarray(value, dtype=float) for value in (arms.events, arms.requests, arms.base_events, arms.base))
    expected = (x1 + x2) * _rate(n2, n1 + n2, 0.0) if arms.expected is None else arms.expected
    value = _rate(x2, n2) - _rate(x1, n1)
    harm = sequential.against_no_more_than_share(x2, x1 + x2, expected)
    return Finding(value, harm, sequential.against_at_least(x2, n2, x1, n1, limit, arms.odds))


def mean_increase(arms: Arms, limit: float) -> Finding:
    """As :func:`increase`, for sums of values in ``[0, 1]`` such as squared errors, which are no events that could be shared out."""
    counts = (arms.events, arms.requests, arms.base_events, arms.base)
    harm, safe = sequential.against_at_most(*counts, 0.0, arms.odds), sequential.against_at_least(*counts, limit, arms.odds)
    return Finding(_rate(arms.events, arms.requests) - _rate(arms.base_events, arms.base), harm, safe)


def latency(
    theirs: ArrayLike, ours: ArrayLike, expected: ArrayLike | None, q: float, limit: float, floor_ms: float, beta: float
) -> Finding:
    """The ratio of the ``q`` quantiles, from counts by latency bucket.

    Harm is evidence that the challenger has more than its share of what is slower than some bucket's bound, averaged over the bounds.
    Safe is evidence that no more than ``1 - q`` of its requests are slower than the largest bound within ``limit`` times the
    champion's quantile, of which a lower bound is taken at a fifth of ``beta``.

    Args:
        theirs, ours: counts by bucket of challenger and champion, shape (..., ``len(LATENCY_BOUNDS_MS) + 1``).
        expected: the challenger's counts by its share of the requests; ``None`` takes its overall share.
        floor_ms: below this a latency is as good as any.

    1,000 requests each at 20 to 30 ms and at 75 to 100 ms:

    >>> buckets = np.zeros((2, 22)); buckets[0, 8] = buckets[1, 11] = 1000
    >>> found = latency(buckets[1], buckets[0], None, 0.95, 2.0, 20.0, 0.05)
    >>> round(float(found.value), 2), round(98.75 / 29.5, 2), bool(found.is_harm(2.0, 0.002))
    (3.35, 3.35, True)

    Source: the quantile by its distribution function as in Howard and Ramdas, *Sequential estimation of quantiles with applications to A/B
    testing and best-arm identification*, Bernoulli 28(3), 2022, with a mixture over the bounds.
    """
    x2, x1 = np.asarray(theirs, dtype=float), np.asarray(ours, dtype=float)
    n2, n1 = x2.sum(-1), x1.sum(-1)
    both = x1 + x2
    shared = both * _rate(n2, n1 + n2, 0.0)[..., None] if expected is None else np.asarray(expected, dtype=float)
    harm = _mean(sequential.against_no_more_than_share(_slower(x2), _slower(both), _slower(shared)))
    value = np.maximum(quantile(x2, q), floor_ms) / np.maximum(quantile(x1, q), floor_ms)
    too_fast = sequential.against_at_least(np.cumsum(x1, -1)[..., :-1], n1[..., None], 0.0, 0.0, q, 1.0)
    below = (too_fast >= np.log(1 / (beta * _FLOOR_SHARE))).sum(-1)
    allowed = limit * np.maximum(np.where(below > 0, _BOUNDS[np.maximum(below - 1, 0)], 0.0), floor_ms)
    bucket = np.searchsorted(_BOUNDS, allowed, side="right")
    slow = np.take_along_axis(_slower(x2), np.maximum(bucket - 1, 0)[..., None], -1)[..., 0]
    safe = sequential.against_at_least(slow, n2, 0.0, 0.0, 1 - q, 1.0) + np.log(1 - _FLOOR_SHARE)
    return Finding(value, harm, np.where(bucket > 0, safe, 0.0))


def shift(theirs: ArrayLike, ours: ArrayLike, odds: float, limit: float) -> Finding:
    """The most by which the shares of scores below any bin's edge differ: the distance of Kolmogorov and Smirnov, on the bins.

    Every release moves its scores a little, so harm is evidence for a distance beyond ``limit``, averaged over edges and directions;
    safe is the least evidence, of any edge and direction, that it is within: for a wrong pass the one edge where it is not must err.

    Args:
        theirs, ours: counts by score bin of challenger and champion, shape (..., bins).

    >>> moved, same = shift([0, 0, 500, 500], [500, 500, 0, 0], 1.0, 0.4), shift([250] * 4, [250] * 4, 1.0, 0.4)
    >>> bool(moved.is_harm(0.4, 0.002)), bool(same.is_safe(0.05))
    (True, True)
    """
    x2, x1 = np.cumsum(np.asarray(theirs, dtype=float), -1), np.cumsum(np.asarray(ours, dtype=float), -1)
    n2, n1, x2, x1 = x2[..., -1:], x1[..., -1:], x2[..., :-1], x1[..., :-1]
    up, down = (x2, n2, x1, n1), (n2 - x2, n2, n1 - x1, n1)
    beyond = [sequential.against_at_most(a, b, c, d, limit, odds) for a, b, c, d in (up, down)]
    within = [sequential.against_at_least(a, b, c, d, limit, odds) for a, b, c, d in (up, down)]
    value = np.max(np.abs(_rate(x2, n2) - _rate(x1, n1)), axis=-1)
    return Finding(value, _mean(np.concatenate(beyond, axis=-1)), np.min(np.concatenate(within, axis=-1), axis=-1))


def mismatch(requests: ArrayLike, of_both: ArrayLike, weight: float) -> Finding:
    """How far the challenger's share of the requests is off its ``weight`` (a share), as a part of it.

    Nothing shows a share to be exactly right, so without harm it is as safe as it can be.
    """
    value = np.abs(_rate(requests, of_both) / weight - 1)
    harm = sequential.against_share(requests, of_both, weight)
    return Finding(value, harm, np.full_like(harm, np.inf))


def quantile(counts: ArrayLike, q: float) -> Floats:
    """The latency below which a share ``q`` of the requests lies, in ms, linear within its bucket; NaN without requests.

    As :meth:`mlops_assets.core.evidence.Traffic.latency_quantile`, for many at once:

    >>> float(quantile((0, 10, *(0,) * 20), 0.5))
    1.5
    """
    found = np.asarray(counts, dtype=float)
    seen = np.cumsum(found, -1)
    rank = q * seen[..., -1:]
    bucket = np.argmax((seen >= rank) & (found > 0), axis=-1)[..., None]
    inside = np.take_along_axis(found, bucket, -1)
    before = np.take_along_axis(seen, bucket, -1) - inside
    edges = np.concatenate([[0.0], _BOUNDS, [_BOUNDS[-1]]])
    with np.errstate(invalid="ignore", divide="ignore"):
        value: Floats = (edges[bucket] + (edges[bucket + 1] - edges[bucket]) * (rank - before) / inside)[..., 0]
    return value


def _slower(counts: Floats) -> Floats:
    """How many are slower than each bound."""
    slower: Floats = np.cumsum(counts[..., ::-1], -1)[..., ::-1][..., 1:]
    return slower


def _mean(logs: Floats) -> Floats:
    """The logarithm of the mean of several e-processes, which is one too."""
    top = np.max(logs, axis=-1, keepdims=True)
    mean: Floats = np.log(np.mean(np.exp(logs - top), axis=-1)) + top[..., 0]
    return mean


def _rate(events: ArrayLike, requests: ArrayLike, empty: float = np.nan) -> Floats:
    x, n = np.asarray(events, dtype=float), np.asarray(requests, dtype=float)
    rate: Floats = np.divide(x, n, out=np.full(np.broadcast(x, n).shape, empty), where=n > 0)
    return rate
