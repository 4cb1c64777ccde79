"""The requests of simulated rollouts: counts of both releases, batch by batch, for many rollouts at once."""

from dataclasses import dataclass, replace

import numpy as np

from mlops_assets.core.canary_spec import Step
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS

BUSY, QUIET = 60_000, 1_000
"""Requests of a batch, all releases together: an hour at 17 requests a second, and at 17 a minute."""

SCORE_BINS = 10
UNIT_CORRELATION = 0.1
"""Of the errors of one unit's requests, where units send many."""

_MEDIAN_MS, _SIGMA = 25.0, 0.5
_EDGES = np.array([0.0, *LATENCY_BOUNDS_MS, np.inf])


@dataclass(frozen=True)
class Scenario:
    """What is wrong with the challenger, and what the day is like.

    Args:
        errors: the challenger's error rate; the champion's is ``base_errors``.
        slower: the challenger's latencies as a multiple of the champion's.
        scores: by how much the mean of the challenger's scores is moved, in standard deviations.
        share: the part of its weight that the challenger really gets.
        burst: how often a batch is an outage in which errors of both are 30 times as many.
        diurnal: traffic, errors and latency follow the hour.
        unit_requests: how many requests each unit sends, all in one batch and to one release; more than one, and each unit has an error
            rate of its own too, with a correlation of ``UNIT_CORRELATION``.
        aware: our rule knows of the units, as the sketch of the prediction log tells it.
        requests: of a batch; each level of traffic has limits of its own.
    """

    name: str
    harmful: bool = True
    base_errors: float = 0.001
    errors: float = 0.001
    slower: float = 1.0
    scores: float = 0.0
    share: float = 1.0
    burst: float = 0.0
    diurnal: bool = False
    unit_requests: int = 1
    aware: bool = True
    requests: int = BUSY


_GOOD = Scenario("no harm", harmful=False)
SCENARIOS = (
    _GOOD,
    replace(_GOOD, name="no harm, scores retrained", scores=0.2),
    replace(_GOOD, name="no harm, bursts", burst=0.05),
    replace(_GOOD, name="no harm, diurnal", diurnal=True),
    replace(_GOOD, name="no harm, clustered", unit_requests=20),
    replace(_GOOD, name="no harm, clustered", unit_requests=20, aware=False),
    Scenario("errors 0.1 -> 0.2 %", errors=0.002),
    Scenario("errors 0.1 -> 1 %", errors=0.01),
    Scenario("errors 0.1 -> 5 %", errors=0.05),
    Scenario("p99 +10 %", slower=1.1),
    Scenario("p99 +50 %", slower=1.5),
    Scenario("p99 +200 %", slower=3.0),
    Scenario("scores shifted", scores=1.2),
    Scenario("share 45 instead of 50 %", share=0.9),
    Scenario("errors 1 %, bursts", errors=0.01, burst=0.05),
    Scenario("errors 1 %, diurnal", errors=0.01, diurnal=True),
    Scenario("errors 1 %, clustered", errors=0.01, unit_requests=20),
    replace(_GOOD, name="quiet: no harm", requests=QUIET),
    replace(_GOOD, name="quiet: no harm, bursts", requests=QUIET, burst=0.05),
    Scenario("quiet: errors 0.1 -> 1 %", errors=0.01, requests=QUIET),
    Scenario("quiet: errors 0.1 -> 5 %", errors=0.05, requests=QUIET),
    Scenario("quiet: p99 +50 %", slower=1.5, requests=QUIET),
    Scenario("quiet: p99 +200 %", slower=3.0, requests=QUIET),
    Scenario("quiet: scores shifted", scores=1.2, requests=QUIET),
)


@dataclass(frozen=True)
class Counts:
    """One batch of many rollouts: requests, errors, latencies by bucket and scores by bin, of challenger and champion."""

    theirs: np.ndarray
    ours: np.ndarray
    their_errors: np.ndarray
    our_errors: np.ndarray
    their_latency: np.ndarray
    our_latency: np.ndarray
    their_scores: np.ndarray
    our_scores: np.ndarray

    def of(self, chosen: np.ndarray) -> "Counts":
        return Counts(*(value[chosen] for value in vars(self).values()))


class Simulated:
    """The traffic of ``rollouts`` independent rollouts of one scenario."""

    def __init__(self, scenario: Scenario, rollouts: int, rng: np.random.Generator) -> None:
        self.scenario, self.rng = scenario, rng
        self.phase = rng.uniform(0, 2 * np.pi, rollouts)

    def batch(self, step: Step, rows: np.ndarray, batch: int, number: int) -> Counts:
        """The next batch of these rollouts."""
        scenario, rng = self.scenario, self.rng
        wave = np.sin(self.phase[rows] + (batch + 16 * number) * 2 * np.pi / 24) if scenario.diurnal else np.zeros(rows.size)
        total = scenario.requests * (1 + 0.7 * wave)
        weight = scenario.share * step.weight / 100 if step.weight else 1.0
        theirs = self._arrived(total * weight)
        # A shadow's requests are copies of the champion's own.
        ours = theirs if step.mirror else self._arrived(total * (1 - weight))
        common = np.where(rng.random(rows.size) < scenario.burst, 30.0, 1.0) * (1 + 0.5 * wave)
        slow = 1 + 0.3 * wave
        return Counts(
            theirs,
            ours,
            self._errors(theirs, scenario.errors * common),
            self._errors(ours, scenario.base_errors * common),
            self._binned(theirs, _latency_shares(slow * scenario.slower)),
            self._binned(ours, _latency_shares(slow)),
            self._binned(theirs, _score_shares(scenario.scores, rows.size)),
            self._binned(ours, _score_shares(0.0, rows.size)),
        )

    def _arrived(self, mean: np.ndarray) -> np.ndarray:
        each = self.scenario.unit_requests
        return each * self.rng.poisson(mean / each)

    def _errors(self, requests: np.ndarray, rate: np.ndarray) -> np.ndarray:
        rate, effect = np.minimum(rate, 0.9), 1 + (self.scenario.unit_requests - 1) * UNIT_CORRELATION
        if effect == 1:
            return self.rng.binomial(requests, rate)
        # As many errors as units with rates of their own have, and as scattered.
        return np.minimum(self.rng.negative_binomial(requests * rate / (effect - 1), 1 / effect), requests)

    def _binned(self, requests: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return self.rng.multinomial(requests, shares)


def _latency_shares(scale: np.ndarray) -> np.ndarray:
    """The shares of the latency buckets of a log-normal latency; shape (rollouts, buckets)."""
    from scipy.special import ndtr

    with np.errstate(divide="ignore"):
        edges = np.log(_EDGES)
    return np.diff(ndtr((edges - np.log(_MEDIAN_MS * scale)[:, None]) / _SIGMA), axis=1)


def _score_shares(moved: float, rollouts: int) -> np.ndarray:
    """The shares of the score bins: deciles of the champion's normal scores, of which the challenger's are moved."""
    from scipy.special import ndtr, ndtri

    edges = ndtri(np.linspace(0, 1, SCORE_BINS + 1))
    return np.broadcast_to(np.diff(ndtr(edges - moved)), (rollouts, SCORE_BINS))
