"""The canary section of a model's ``defs.yaml``: its steps, and the guardrails beside them."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS
from mlops_assets.core.spec_checks import require


@dataclass(frozen=True)
class Step:
    """One step of a canary: ``weight`` % of the units, or a copy of ``mirror`` % of the requests, for at least ``bake``."""

    name: str
    bake: timedelta
    weight: int = 0
    mirror: int = 0
    min_requests: int = 100
    approval: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 100 and 0 <= self.mirror <= 100, f"canary step {self.name!r}: weight and mirror are % of 0 to 100")
        require(
            (self.weight > 0) != (self.mirror > 0),
            f"canary step {self.name!r}: give it either a weight (live traffic) or a mirror (shadow), not both and not none",
        )
        require(self.bake > timedelta(0), f"canary step {self.name!r}: bake must be longer than nothing, e.g. '24h'")
        require(self.min_requests > 0, f"canary step {self.name!r}: min_requests must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class Guardrails:
    """What the challenger must not do, beside the champion at the same time.

    The chance that a release as good as its champion is ever rolled back for harm, in all steps and by all guardrails together, is at
    most ``alpha``, however often one looks. The chance that a step lets a release pass whose harm is beyond a limit is at most ``beta``.

    Args:
        max_error_rate: the most errors of its own, as a share; the only limit for a first release.
        max_error_increase: the most its error share may be above the champion's.
        max_latency_ratio: the most its latency quantile may be, as a multiple of the champion's.
        latency_quantile: which quantile, e.g. 0.95.
        latency_floor_ms: below this a ratio says nothing.
        latency_budget_ms: what is slower than this is slow; ``None`` asks for no share of slow requests.
        max_slow_increase: the most its share of slow requests may be above the champion's.
        max_score_shift: the most by which the share of scores below any value may differ from the champion's (Kolmogorov-Smirnov).
        max_flips: the most decisions that may differ from the champion's on the same requests, as a share, in shadow; ``None`` allows any.
        max_brier_increase: the most its mean squared error may be above the champion's, as labels arrive; ``None`` allows any.
        max_share_mismatch: the most its share of the requests may be off its weight, as a part of it.
        unit_correlation: of the outcomes of one unit's requests: 0 if each is a new chance, 1 if a unit's first tells them all.
        alpha: the false rollbacks of a whole rollout.
        beta: the wrong passes of a step.
    """

    max_error_rate: float = 0.05
    max_error_increase: float = 0.01
    max_latency_ratio: float = 2.0
    latency_quantile: float = 0.95
    latency_floor_ms: float = 20.0
    latency_budget_ms: float | None = None
    max_slow_increase: float = 0.01
    max_score_shift: float = 0.3
    max_flips: float | None = None
    max_brier_increase: float | None = None
    max_share_mismatch: float = 0.2
    unit_correlation: float = 0.1
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        for name in ("max_error_rate", "max_error_increase", "max_slow_increase", "max_score_shift"):
            _require_share(name, getattr(self, name))
        for name in ("max_flips", "max_brier_increase"):
            if getattr(self, name) is not None:
                _require_share(name, getattr(self, name))
        require(self.max_latency_ratio > 1, f"guardrails.max_latency_ratio: got {self.max_latency_ratio}, expected a multiple, e.g. 2.0")
        require(
            0 < self.latency_quantile < 1, f"guardrails.latency_quantile: got {self.latency_quantile}, expected between 0 and 1, e.g. 0.95"
        )
        require(self.latency_floor_ms >= 0, f"guardrails.latency_floor_ms: got {self.latency_floor_ms}, expected milliseconds from 0 up")
        require(
            self.latency_budget_ms is None or self.latency_budget_ms in LATENCY_BOUNDS_MS,
            f"guardrails.latency_budget_ms: got {self.latency_budget_ms}, expected a bound of the latency buckets: "
            + ", ".join(f"{bound:g}" for bound in LATENCY_BOUNDS_MS),
        )
        require(
            self.max_share_mismatch > 0, f"guardrails.max_share_mismatch: got {self.max_share_mismatch}, expected more than 0, e.g. 0.2"
        )
        require(
            0 <= self.unit_correlation <= 1, f"guardrails.unit_correlation: got {self.unit_correlation}, expected from 0 to 1, e.g. 0.1"
        )
        for name in ("alpha", "beta"):
            level = getattr(self, name)
            require(0 < level < 0.5, f"guardrails.{name}: got {level}, expected a chance between 0 and 0.5, e.g. 0.05")


def _require_share(name: str, value: float) -> None:
    """A limit of 0 could never be shown to hold: no number of requests excludes the last bit of harm."""
    require(0 < value <= 1, f"guardrails.{name}: got {value}, expected a share above 0 and up to 1, e.g. 0.05")


@dataclass(frozen=True)
class Canary:
    """The way of a release into production. After the last step comes promotion, which is 100 %."""

    steps: tuple[Step, ...]
    deadline: timedelta
    first_bake: timedelta
    guardrails: Guardrails = field(default_factory=Guardrails)
    warm_for: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        require(len(self.steps) > 0, "canary.steps: at least one step, e.g. {name: canary-5, weight: 5, bake: 24h}")
        weights = [step.weight for step in self.steps]
        require(weights == sorted(weights), f"canary.steps: weights must not fall, got {weights}: order the steps")
        require(all(weight <= 50 for weight in weights), "canary.steps: weights up to 50; what follows the last step is promotion")
        names = [step.name for step in self.steps]
        require(len(set(names)) == len(names), f"canary.steps: names must differ, got {names}")
        require(self.first_bake > timedelta(0), "canary.first_bake: must be longer than nothing, e.g. '24h'")
        require(self.warm_for >= timedelta(0), "canary.warm_for: a time to keep the release before, not a negative one")
        longest = max(max(step.bake for step in self.steps), self.first_bake)
        require(
            self.deadline > longest,
            f"canary.deadline: {self.deadline} is not longer than the longest bake {longest}: every release would be rolled back",
        )

    def at_pace(self, pace: float) -> "Canary":
        """The same plan with all durations divided by ``pace``: at 3600, an hour takes a second."""
        return replace(
            self,
            steps=tuple(replace(step, bake=step.bake / pace) for step in self.steps),
            deadline=self.deadline / pace,
            first_bake=self.first_bake / pace,
            warm_for=self.warm_for / pace,
        )
