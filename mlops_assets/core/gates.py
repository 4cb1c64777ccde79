"""Whether a challenger may go on: its verdicts on the frozen holdout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from mlops_assets.core.bootstrap import bootstrap
from mlops_assets.core.comparison import Comparison, Estimate, TooFew, linearized, paired
from mlops_assets.core.floors import Footprint, budgets, calibration, floor, slice_floors, smaller_class
from mlops_assets.core.gate_spec import GatePolicy, Gates, MetricName
from mlops_assets.core.ledger import Turn
from mlops_assets.core.verdict import Outcome, Verdict, combine


@dataclass(frozen=True)
class Scored:
    """A holdout with the scores of both models.

    Args:
        label: outcomes, 0 or 1, shape (rows,).
        challenger, champion: scores of the same rows, shape (rows,); ``champion`` None for a first release.
        slices: by name, which rows belong to it, boolean of shape (rows,); in the order of ``gates.slices``.
        blocks: which block each row belongs to, shape (rows,), if ``gates.blocks`` asks for it.
        threshold: a score from here up is a yes.
    """

    label: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray | None
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    blocks: np.ndarray | None = None
    threshold: float = 0.5


@dataclass(frozen=True)
class GateResult:
    """The verdicts of one evaluation.

    Args:
        comparison: challenger against champion, if there was one.
        needed_positives: so many would decide what is inconclusive now.
        power: how often this holdout shows the uplift that is hoped for.
        false_promotions: under ``observed``, how often a model that is equal would pass.
    """

    policy: GatePolicy
    metric: MetricName
    verdicts: tuple[Verdict, ...]
    rows: int
    comparison: Comparison | None = None
    needed_positives: int | None = None
    power: float | None = None
    false_promotions: float | None = None
    turn: Turn | None = None

    @property
    def outcome(self) -> Outcome:
        return combine(self.verdicts)

    @property
    def against_champion(self) -> Verdict | None:
        """The verdict of the comparison; none where nothing was compared."""
        return self.verdicts[-1] if self.comparison is not None else None


def evaluate(
    gates: Gates, policy: GatePolicy, scored: Scored, min_positives: int, turn: Turn | None = None, footprint: Footprint | None = None
) -> GateResult:
    """Judge a challenger.

    Args:
        min_positives: with fewer positives, or negatives, nothing is concluded; in a slice a tenth of them is enough, but ten at least.
        turn: what this comparison may spend of the holdout's error probability; by default all of it.
        footprint: measured size and latency, if ``gates`` has budgets for them.

    Raises:
        BadData: if labels or scores cannot be used.
        ValueError: if there is not one slice for each of ``gates.slices``, or blocks or a footprint that ``gates`` asks for are missing.
    """
    _require_complete(gates, scored, footprint)
    label, score, blocks = scored.label, scored.challenger, scored.blocks
    verdicts = [floor("auc", gates.floor, label, score, min_positives)]
    verdicts += slice_floors(gates, label, score, scored.slices, max(min_positives // 10, 10), blocks)
    if gates.max_ece is not None:
        verdicts.append(calibration(gates, label, score, min_positives, blocks))
    if footprint is not None:
        verdicts += budgets(gates, footprint)
    enough = smaller_class(label) >= max(min_positives, 2)
    if scored.champion is None or not enough:
        return GateResult(policy, gates.metric, tuple(verdicts), len(label), needed_positives=None if enough else min_positives)
    return _beside_champion(gates, policy, scored, scored.champion, verdicts, turn)


def _require_complete(gates: Gates, scored: Scored, footprint: Footprint | None) -> None:
    if len(scored.slices) != len(gates.slices):
        wanted = ", ".join(part.name for part in gates.slices) or "none"
        raise ValueError(f"slices: got {', '.join(scored.slices) or 'none'}, expected one for each of {wanted}")
    if (gates.blocks == "none") != (scored.blocks is None):
        raise ValueError(f"blocks: got {'none' if scored.blocks is None else 'some'}, expected the {gates.blocks} of each row")
    if footprint is None and (gates.max_model_bytes is not None or gates.max_latency_ms is not None):
        raise ValueError("footprint: got none, but gates has a budget for size or latency: measure them")


def _beside_champion(
    gates: Gates, policy: GatePolicy, scored: Scored, champion: np.ndarray, verdicts: list[Verdict], turn: Turn | None
) -> GateResult:
    rows = len(scored.label)
    alpha = gates.alpha if turn is None else turn.alpha
    border = gates.border(policy)
    if turn is not None and alpha <= 0:
        worn = f"the holdout is worn out by {turn.looks} looks of {turn.max_looks}: train again on newer data, which has a fresh holdout"
        return GateResult(
            policy, gates.metric, (*verdicts, Verdict(policy, Outcome.INCONCLUSIVE, None, border, worn, rows)), rows, turn=turn
        )
    try:
        seen = compare(gates, scored, champion, alpha)
    except TooFew as error:
        open_ = Verdict(policy, Outcome.INCONCLUSIVE, None, border, f"{gates.metric}: {error}", rows)
        return GateResult(policy, gates.metric, (*verdicts, open_), rows, turn=turn)
    verdict, needed = _judged(gates, policy, seen, alpha)
    false_promotions = _false_promotions(seen, border) if policy == "observed" else None
    return GateResult(policy, gates.metric, (*verdicts, verdict), rows, seen, needed, power(gates, policy, seen), false_promotions, turn)


def compare(gates: Gates, scored: Scored, champion: np.ndarray, alpha: float) -> Comparison:
    """Challenger against champion by ``gates.metric``; each bound of the interval is wrong with probability ``alpha``.

    The bootstrap where it covers best: mean losses and average precision, of independent rows. AUCs have DeLong's interval, the
    calibration error and every metric of dependent rows the linearized one (``bench/gate.py`` compares them).
    """
    confidence = 1 - 2 * alpha
    pair = paired(gates.metric, scored.label, scored.challenger, champion, scored.threshold, gates.costs)
    if gates.metric in ("auc", "ece") or scored.blocks is not None:
        return linearized(pair, confidence, scored.blocks)
    return bootstrap(pair, confidence)


def power(gates: Gates, policy: GatePolicy, seen: Comparison) -> float | None:
    """How often a holdout like this one shows the uplift that is hoped for; None without a test, or where nothing is hoped for."""
    apart = gates.hoped_for(policy) - gates.border(policy)
    if policy == "observed" or apart <= 0:
        return None
    if seen.standard_error == 0:
        return 1.0
    return NormalDist().cdf(apart / seen.standard_error - _reach(seen))


def _reach(seen: Comparison) -> float:
    """How many standard errors the lower bound lies below the uplift."""
    return (seen.uplift - seen.lower) / seen.standard_error


def _judged(gates: Gates, policy: GatePolicy, seen: Comparison, alpha: float) -> tuple[Verdict, int | None]:
    """One verdict on the uplift; inconclusive while the border lies inside the confidence interval."""
    border, rows = gates.border(policy), seen.positives + seen.negatives
    interval = f"{seen.metric} uplift {seen.uplift:+.4f} [{seen.lower:+.4f}, {seen.upper:+.4f}] at {1 - 2 * alpha:.1%}"
    low, high = (seen.uplift, seen.uplift) if policy == "observed" else (seen.lower, seen.upper)
    wanted = f"not worse than {-border:.4f}" if policy == "refresh" else f"better by {border:.4f}"
    luck = f" ({_false_promotions(seen, border):.0%} of equal models would look so by chance)" if policy == "observed" else ""
    # Two floats that should be equal to the border differ in their last bits.
    if low >= border - 1e-12:
        return Verdict(policy, Outcome.PASS, seen.uplift, border, f"{interval}: {wanted}, as '{policy}' asks{luck}", rows), None
    if high < border:
        return Verdict(policy, Outcome.FAIL, seen.uplift, border, f"{interval}: '{policy}' asks for {wanted}{luck}", rows), None
    needed, why = _needed(gates, policy, seen)
    reason = f"{interval}: cannot tell whether it is {wanted}; {why}, there are {seen.positives}"
    return Verdict(policy, Outcome.INCONCLUSIVE, seen.uplift, border, reason, rows), needed


def _false_promotions(seen: Comparison, border: float) -> float:
    """How often a model that is as good as the champion looks better by ``border``, on rows like these."""
    degrees = None if seen.blocks is None else seen.blocks - 1
    return Estimate(0.0, seen.standard_error, degrees).probability_below(border)


def _needed(gates: Gates, policy: GatePolicy, seen: Comparison) -> tuple[int, str]:
    """How many positives would decide, and why. With k times the rows the interval is sqrt(k) times narrower.

    On a holdout too small for what is hoped for, so many that it is seen ``min_power`` of the time; else so many that uplift and border,
    if they stay as far apart, are told apart.
    """
    border, chance = gates.border(policy), power(gates, policy, seen)
    if chance is not None and chance < gates.min_power:
        hoped = gates.hoped_for(policy)
        wide = (_reach(seen) + NormalDist().inv_cdf(gates.min_power)) * seen.standard_error
        needed = _positives(seen, wide / max(hoped - border, 1e-4))
        rows = needed * (seen.positives + seen.negatives) // seen.positives
        return needed, (
            f"the holdout is too small, it shows a true uplift of {hoped:.4f} only {chance:.0%} of the time: for {gates.min_power:.0%} "
            f"it takes about {needed} positives ({rows} rows)"
        )
    apart = max(abs(seen.uplift - border), 1e-4)
    half = seen.uplift - seen.lower if seen.uplift >= border else seen.upper - seen.uplift
    needed = _positives(seen, half / apart)
    return needed, f"about {needed} positives would decide"


def _positives(seen: Comparison, narrower: float) -> int:
    return math.ceil(seen.positives * max(narrower, 1.0) ** 2)
