"""Our guardrails on the counts of many simulated rollouts at once: the functions that judge a real canary, without its words."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from bench.canary_traffic import BUSY, QUIET, SCORE_BINS, Counts
from mlops_assets.core import guardrails
from mlops_assets.core.canary_spec import Guardrails, Step
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS
from mlops_assets.core.guardrails import Arms
from mlops_assets.core.judgement import Judged

GUARDRAILS = Guardrails(
    max_error_rate=0.03,
    max_error_increase=0.0007,
    max_latency_ratio=1.4,
    latency_quantile=0.99,
    latency_budget_ms=75,
    max_slow_increase=0.004,
    max_score_shift=0.2,
    max_share_mismatch=0.05,
)
"""A busy service's: small margins, which its traffic can show."""

LIMITS = {
    BUSY: GUARDRAILS,
    QUIET: replace(GUARDRAILS, max_error_increase=0.005, latency_quantile=0.95, max_slow_increase=0.02, max_latency_ratio=2.0),
}
"""By requests of a batch."""

BAKE, DEADLINE = 16, 7 * 16
"""Looks, one a batch; a deadline of seven bakes, as in the plan of flight-delay."""

_HOUR = timedelta(hours=1)
STEPS = tuple(
    Step(name, BAKE * _HOUR, weight=weight, mirror=mirror)
    for name, weight, mirror in (("shadow", 0, 100), ("canary-5", 5, 0), ("canary-25", 25, 0), ("canary-50", 50, 0))
)
_SLOW = LATENCY_BOUNDS_MS.index(75) + 1


class Ours:
    """The running sums of one step for many rollouts, and what the guardrails say of them."""

    def __init__(self, step: Step, rollouts: int, limits: Guardrails, unit_requests: int) -> None:
        self.judged = Judged(limits, step, len(STEPS), "v1", "v2")
        self.effect, self.share_effect = 1 + (unit_requests - 1) * limits.unit_correlation, unit_requests
        buckets = len(LATENCY_BOUNDS_MS) + 1
        shapes = (rollouts, (rollouts, buckets), (rollouts, SCORE_BINS))
        self.requests, self.latency, self.scores = (np.zeros((2, *np.atleast_1d(shape))) for shape in shapes)
        self.errors, self.expected_errors, self.expected_latency = (
            np.zeros((2, rollouts)),
            np.zeros(rollouts),
            np.zeros((rollouts, buckets)),
        )

    def add(self, rows: np.ndarray, counts: Counts) -> None:
        """What :func:`mlops_assets.core.evidence.observe` adds at a look."""
        for arm, (n, x, ms, s) in enumerate(
            (
                (counts.theirs, counts.their_errors, counts.their_latency, counts.their_scores),
                (counts.ours, counts.our_errors, counts.our_latency, counts.our_scores),
            )
        ):
            self.requests[arm, rows] += n
            self.errors[arm, rows] += x
            self.latency[arm, rows] += ms
            self.scores[arm, rows] += s
        share = counts.theirs / np.maximum(counts.theirs + counts.ours, 1)
        self.expected_errors[rows] += share * (counts.their_errors + counts.our_errors)
        self.expected_latency[rows] += share[:, None] * (counts.their_latency + counts.our_latency)

    def judge(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each rollout has harm shown, and whether it has all harm beyond the limits excluded."""
        # In parts that stay in the processor's cache.
        judged = [self._judge(part) for part in np.array_split(rows, rows.size // 200 + 1)]
        return np.concatenate([harm for harm, _ in judged]), np.concatenate([safe for _, safe in judged])

    def _judge(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        limits, odds, d = self.judged.guardrails, self.judged.odds, self.effect
        (n2, n1), (x2, x1) = self.requests[:, rows] / d, self.errors[:, rows] / d
        ms2, ms1 = self.latency[:, rows] / d
        waited = self.expected_latency[rows] / d
        s2, s1 = self.scores[:, rows] / d
        slow = Arms(_slow(ms2), n2, _slow(ms1), n1, odds, _slow(waited))
        found = [
            (guardrails.above(x2, n2, limits.max_error_rate), limits.max_error_rate),
            (
                guardrails.increase(Arms(x2, n2, x1, n1, odds, self.expected_errors[rows] / d), limits.max_error_increase),
                limits.max_error_increase,
            ),
            (
                guardrails.latency(
                    ms2, ms1, waited, limits.latency_quantile, limits.max_latency_ratio, limits.latency_floor_ms, limits.beta
                ),
                limits.max_latency_ratio,
            ),
            (guardrails.increase(slow, limits.max_slow_increase), limits.max_slow_increase),
            (guardrails.shift(s2, s1, odds, limits.max_score_shift), limits.max_score_shift),
        ]
        if self.judged.step.weight:
            n2, n1 = self.requests[:, rows] / self.share_effect
            found.append((guardrails.mismatch(n2, n1 + n2, self.judged.step.weight / 100), limits.max_share_mismatch))
        assert len(found) == len(self.judged.names)
        harm = np.logical_or.reduce([one.is_harm(limit, self.judged.alpha) for one, limit in found])
        safe = np.logical_and.reduce([one.is_safe(limits.beta) for one, _ in found])
        return harm, safe


def _slow(latency: np.ndarray) -> np.ndarray:
    slow: np.ndarray = latency[..., _SLOW:].sum(-1)
    return slow
