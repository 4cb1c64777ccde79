"""What is asked of a challenger alone: floors, also of slices, calibration, size and latency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.bootstrap import calibration_bound
from mlops_assets.core.comparison import TooFew, auc, estimated_auc
from mlops_assets.core.gate_spec import Gates
from mlops_assets.core.metrics import statistic
from mlops_assets.core.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Footprint:
    """What a release takes: the bytes of its file, and the milliseconds of single-row answers, if they were measured."""

    model_bytes: int
    latencies_ms: tuple[float, ...] | None = None


def smaller_class(label: np.ndarray) -> int:
    positives = int(np.sum(label))
    return min(positives, len(label) - positives)


def floor(name: str, limit: float, label: np.ndarray, score: np.ndarray, min_positives: int) -> Verdict:
    """The AUC against a floor, as it is; with too few of either outcome nothing is concluded."""
    if (few := _too_few(name, limit, label, min_positives)) is not None:
        return few
    value = auc(label, score)
    outcome, relation = (Outcome.PASS, "at or above") if value >= limit else (Outcome.FAIL, "below")
    return Verdict(name, outcome, value, limit, f"{name} is {value:.4f}, {relation} its floor of {limit:.3f}", len(label))


def slice_floors(
    gates: Gates, label: np.ndarray, score: np.ndarray, slices: Mapping[str, np.ndarray], min_positives: int, blocks: np.ndarray | None
) -> list[Verdict]:
    """Each slice's AUC against its floor.

    One passes that is at or above its floor, and fails only if it is shown to be below: by Holm's procedure, so that of slices that
    are all good enough any fails with probability ``gates.alpha`` at most. In between nothing is concluded.

    Source: Holm, *Scandinavian Journal of Statistics* 6, 1979.
    """
    found: dict[str, Verdict] = {}
    p_values: dict[str, float] = {}
    for part, (name, rows) in zip(gates.slices, slices.items(), strict=True):
        named, own_blocks = f"auc[{name}]", None if blocks is None else blocks[rows]
        few = _too_few(named, part.floor, label[rows], min_positives)
        if few is not None:
            found[named] = few
            continue
        try:
            seen = estimated_auc(label[rows], score[rows], own_blocks)
        except TooFew as error:
            found[named] = Verdict(named, Outcome.INCONCLUSIVE, None, part.floor, f"{named}: {error}", int(rows.sum()))
            continue
        p_values[named] = seen.probability_below(part.floor)
        found[named] = Verdict(named, Outcome.INCONCLUSIVE, seen.value, part.floor, "", int(rows.sum()))
    shown = dict(zip(p_values, holm(list(p_values.values()), gates.alpha), strict=True))
    return [_told(verdict, shown[name], p_values[name]) if name in shown else verdict for name, verdict in found.items()]


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which hypotheses are refused, any true one with probability ``alpha`` at most.

    >>> holm([0.03, 0.01, 0.04], alpha=0.05)  # 0.01 <= 0.05 / 3, but 0.03 > 0.05 / 2
    [False, True, False]
    """
    refused = [False] * len(p_values)
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        refused[place] = True
    return refused


def calibration(gates: Gates, label: np.ndarray, score: np.ndarray, min_positives: int, blocks: np.ndarray | None) -> Verdict:
    """The expected calibration error against ``gates.max_ece``; it fails only if it is shown to be above."""
    limit, name = gates.max_ece or 0.0, "ece"
    if (few := _too_few(name, limit, label, min_positives)) is not None:
        return few
    value = statistic("ece", label, score).value
    if value <= limit:
        return Verdict(name, Outcome.PASS, value, limit, f"{name} is {value:.4f}, at most {limit:.3f}", len(label))
    try:
        bound = calibration_bound(label, score, gates.confidence, blocks)
    except TooFew as error:
        return Verdict(name, Outcome.INCONCLUSIVE, value, limit, f"{name}: {error}", len(label))
    sure = f"at least {max(bound, 0):.4f} with {gates.confidence:.0%} confidence"
    if bound > limit:
        return Verdict(name, Outcome.FAIL, value, limit, f"{name} is {value:.4f}, {sure}: above {limit:.3f}", len(label))
    reason = f"{name} is {value:.4f}, above {limit:.3f}, but surely only {sure}: more rows would tell"
    return Verdict(name, Outcome.INCONCLUSIVE, value, limit, reason, len(label))


def budgets(gates: Gates, footprint: Footprint) -> list[Verdict]:
    """Size and latency against their budgets, those that are declared."""
    verdicts = []
    if gates.max_model_bytes is not None:
        verdicts.append(_within("model_bytes", float(footprint.model_bytes), gates.max_model_bytes, "bytes", 1))
    if gates.max_latency_ms is not None:
        answers = footprint.latencies_ms
        if not answers:
            verdicts.append(Verdict("latency_ms", Outcome.INCONCLUSIVE, None, gates.max_latency_ms, "latency_ms was not measured"))
        else:
            verdicts.append(_within("latency_ms", float(np.quantile(answers, 0.95)), gates.max_latency_ms, "ms at p95", len(answers)))
    return verdicts


def _within(name: str, value: float, limit: float, unit: str, sample: int) -> Verdict:
    outcome, relation = (Outcome.PASS, "within") if value <= limit else (Outcome.FAIL, "over")
    return Verdict(name, outcome, value, limit, f"{value:,.6g} {unit}, {relation} the budget of {limit:,.6g}", sample)


def _told(verdict: Verdict, is_shown: bool, p_value: float) -> Verdict:
    name, value, limit = verdict.name, verdict.value or 0.0, verdict.threshold or 0.0
    if value >= limit:
        outcome, reason = Outcome.PASS, f"{name} is {value:.4f}, at or above its floor of {limit:.3f}"
    elif is_shown:
        outcome, reason = Outcome.FAIL, f"{name} is {value:.4f}, below its floor of {limit:.3f} (p {p_value:.2g}, Holm)"
    else:
        outcome = Outcome.INCONCLUSIVE
        reason = f"{name} is {value:.4f}, below its floor of {limit:.3f}, which may be chance (p {p_value:.2g}, Holm): more rows would tell"
    return Verdict(name, outcome, value, limit, reason, verdict.sample)


def _too_few(name: str, limit: float, label: np.ndarray, min_positives: int) -> Verdict | None:
    count = smaller_class(label)
    if count >= max(min_positives, 1):
        return None
    reason = f"{name}: {count} rows of the rarer outcome, {min_positives} are needed"
    return Verdict(name, Outcome.INCONCLUSIVE, None, limit, reason, len(label))
