"""The rules of three peers, rebuilt from their documentation and source, on what they would have measured of the same traffic.

Each is tuned on rollouts without harm: the limits on its two metrics, error rate and p99, each at the same quantile of what that metric
shows, are set so that both together roll back as often as our rule does, or, where ranks are discrete, no more often. None looks at
scores or shares. All look at every batch of the bake. Beside each is the file of its repository that says so.

- **Argo Rollouts** (argoproj/argo-rollouts): a measurement an interval, ``successCondition`` on one figure of the challenger, aborted
  when more than ``failureLimit`` measurements of a metric have failed: "the maximum number of times the measurement is allowed to fail
  (default: 0)", pkg/apis/rollouts/v1alpha1/analysis_types.go. Here 0, and 3 as in the example of docs/features/analysis.md, whose text
  has it fail at the third.
- **Flagger** (fluxcd/flagger): a fixed ``thresholdRange`` on request-success-rate and request-duration (p99) each interval,
  docs/gitbook/usage/metrics.md. An interval in which any metric is out of its range is one failed check, and with ``threshold`` of them
  it rolls back, pkg/controller/scheduler.go; at the next interval, which is not counted here. Examples have 5 or 10; here 5.
- **Kayenta** (spinnaker/kayenta, kayenta-judge, NetflixACAJudge.scala and MannWhitneyClassifier.scala): the challenger's measurements of
  the last while against the champion's by Mann-Whitney. A metric is High when the lower confidence bound of the shift is above 0.25
  times its Hodges-Lehmann estimate; the judge's confidence is 0.98, which here is tuned. It first removes outliers beyond three
  interquartile ranges, which is not rebuilt.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from bench.canary_rules import BAKE
from bench.canary_traffic import Counts
from mlops_assets.core.guardrails import quantile

WINDOW, EVERY = 12, 2
"""Kayenta: how many batches it compares, and at how many it looks anew (sorting all pairs is what the bench spends its time on)."""


class Series:
    """Per look and rollout: error rate and p99 of both, and the challenger's requests so far."""

    def __init__(self, rollouts: int, looks: int) -> None:
        self.rate, self.p99 = np.zeros((2, 2, rollouts, looks), np.float32)
        self._requests = np.zeros((rollouts, looks), np.int32)

    def add(self, look: int, counts: Counts) -> None:
        self._requests[:, look] = counts.theirs
        self.rate[0, :, look] = counts.their_errors / np.maximum(counts.theirs, 1)
        self.rate[1, :, look] = counts.our_errors / np.maximum(counts.ours, 1)
        self.p99[0, :, look], self.p99[1, :, look] = quantile(counts.their_latency, 0.99), quantile(counts.our_latency, 0.99)

    def served(self) -> np.ndarray:
        return np.cumsum(self._requests, axis=1)


class Peer(Protocol):
    name: str

    def tune(self, series: Series, rate: float) -> np.ndarray:
        """The limits with which ``rate`` of these rollouts are rolled back."""
        ...

    def first(self, series: Series, limits: np.ndarray) -> np.ndarray:
        """The look at which each rollout is rolled back, from 1; 0 if it never is."""
        ...


class Argo:
    """More than ``failure_limit`` measurements of one metric are beyond its threshold."""

    def __init__(self, failure_limit: int) -> None:
        self.name, self.failure_limit = f"argo, {failure_limit}", failure_limit

    def tune(self, series: Series, rate: float) -> np.ndarray:
        # With failure limit 3, a rollout fails at thresholds below its fourth largest measurement.
        worst = [np.sort(metric[0], axis=1)[:, -1 - self.failure_limit] for metric in (series.rate, series.p99)]
        return _tuned(worst, rate, lambda limits: self.first(series, limits))

    def first(self, series: Series, limits: np.ndarray) -> np.ndarray:
        failed = [
            np.cumsum(metric[0] > limit, axis=1) > self.failure_limit
            for metric, limit in zip((series.rate, series.p99), limits, strict=True)
        ]
        return _first(failed[0] | failed[1])


class Flagger:
    """``threshold`` checks have failed: at so many looks a metric was beyond its limit, whichever it was."""

    name = "flagger"
    threshold = 5

    def tune(self, series: Series, rate: float) -> np.ndarray:
        # Of five failed checks one metric has failed three or more.
        worst = [np.sort(metric[0], axis=1)[:, -(self.threshold + 1) // 2] for metric in (series.rate, series.p99)]
        return _tuned(worst, rate, lambda limits: self.first(series, limits))

    def first(self, series: Series, limits: np.ndarray) -> np.ndarray:
        failed = (series.rate[0] > limits[0]) | (series.p99[0] > limits[1])
        return _first(np.cumsum(failed, axis=1) >= self.threshold)


class Kayenta:
    """A metric's measurements are higher than the champion's for certain, by more than a quarter of the estimate."""

    name = "kayenta"
    tolerance = 0.25

    def tune(self, series: Series, rate: float) -> np.ndarray:
        found = [self._certainty(metric) for metric in (series.rate, series.p99)]
        return _tuned([one.max(axis=1) for one in found], rate, lambda limits: _first((found[0] > limits[0]) | (found[1] > limits[1])))

    def first(self, series: Series, limits: np.ndarray) -> np.ndarray:
        return _first((self._certainty(series.rate) > limits[0]) | (self._certainty(series.p99) > limits[1]))

    def _certainty(self, metric: np.ndarray) -> np.ndarray:
        """By how many standard errors of the rank sum the bound could be moved before the metric is High no more; -inf if it is not."""
        found = np.full(metric.shape[1:], -np.inf, np.float32)
        for look in range(found.shape[1]):
            begin = max(look // BAKE * BAKE, look + 1 - WINDOW)
            n = look + 1 - begin
            if n >= 4 and (look + 1) % EVERY == 0:
                theirs, ours = metric[0, :, begin : look + 1], metric[1, :, begin : look + 1]
                pairs = (theirs[:, :, None] - ours[:, None, :]).reshape(found.shape[0], -1)
                estimate = np.median(pairs, axis=1)
                bound = self.tolerance * np.abs(estimate)
                above = (pairs > bound[:, None]).sum(1) + 0.5 * (pairs == bound[:, None]).sum(1)
                # The bound of confidence z is the pair of rank n n / 2 - z se: it is above if so many pairs are.
                found[:, look] = (above - n * n / 2) / np.sqrt(n * n * (2 * n + 1) / 12)
        return found


PEERS: tuple[Peer, ...] = (Kayenta(), Flagger(), Argo(0), Argo(3))


def _tuned(worst: Sequence[np.ndarray], rate: float, first: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The lowest limits, each at the same quantile of its metric's ``worst`` measurements, with which at most ``rate`` are rolled back."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        often = (first(_quantiles(worst, middle)) > 0).mean()
        low, high = (middle, high) if often > rate else (low, middle)
    return _quantiles(worst, high)


def _quantiles(worst: Sequence[np.ndarray], level: float) -> np.ndarray:
    return np.array([np.quantile(values, level, method="linear") for values in worst])


def _first(failed: np.ndarray) -> np.ndarray:
    first: np.ndarray = np.where(failed.any(axis=1), failed.argmax(axis=1) + 1, 0)
    return first
