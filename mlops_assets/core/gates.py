"""Whether a challenger may go on: its verdicts on the frozen holdout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mlops_assets.core.comparison import AucComparison, auc, delong
from mlops_assets.core.model_spec import GatePolicy, Gates
from mlops_assets.core.verdict import Outcome, Verdict, combine


@dataclass(frozen=True)
class GateResult:
    """The verdicts of one evaluation. ``needed_positives`` would decide what is inconclusive now."""

    policy: GatePolicy
    verdicts: tuple[Verdict, ...]
    comparison: AucComparison | None
    needed_positives: int | None
    rows: int

    @property
    def outcome(self) -> Outcome:
        return combine(self.verdicts)


def evaluate(
    gates: Gates,
    policy: GatePolicy,
    label: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray | None,
    slices: Mapping[str, np.ndarray],
    min_positives: int,
) -> GateResult:
    """Judge a challenger.

    Args:
        label: outcomes, 0 or 1, shape (rows,).
        challenger, champion: scores of the same rows, shape (rows,); ``champion`` None for a first release.
        slices: by name, which rows belong to it, boolean of shape (rows,); in the order of ``gates.slices``.
        min_positives: with fewer positives, or negatives, nothing is concluded; in a slice a tenth of them is enough, but ten at least.

    Raises:
        BadData: if labels or scores cannot be used.
        ValueError: if ``slices`` does not have one entry for each of ``gates.slices``.
    """
    if len(slices) != len(gates.slices):
        wanted = ", ".join(f"{part.column}={part.value}" for part in gates.slices) or "none"
        raise ValueError(f"slices: got {', '.join(slices) or 'none'}, expected one for each of {wanted}")
    verdicts = [_floor("auc", gates.floor, label, challenger, min_positives)]
    few_in_slice = max(min_positives // 10, 10)
    for part, (name, rows) in zip(gates.slices, slices.items(), strict=True):
        verdicts.append(_floor(f"auc[{name}]", part.floor, label[rows], challenger[rows], few_in_slice))
    enough = _smaller_class(label) >= max(min_positives, 2)
    if champion is None or not enough:
        needed = None if enough else min_positives
        return GateResult(policy, tuple(verdicts), None, needed, len(label))
    compared = delong(label, challenger, champion, gates.confidence)
    verdict, needed = _against_champion(gates, policy, compared)
    return GateResult(policy, (*verdicts, verdict), compared, needed, len(label))


def _smaller_class(label: np.ndarray) -> int:
    positives = int(np.sum(label))
    return min(positives, len(label) - positives)


def _floor(name: str, floor: float, label: np.ndarray, score: np.ndarray, min_positives: int) -> Verdict:
    count = _smaller_class(label)
    if count < max(min_positives, 1):
        reason = f"{name}: {count} rows of the rarer outcome, {min_positives} are needed"
        return Verdict(name, Outcome.INCONCLUSIVE, None, floor, reason, len(label))
    value = auc(label, score)
    outcome, relation = (Outcome.PASS, "at or above") if value >= floor else (Outcome.FAIL, "below")
    return Verdict(name, outcome, value, floor, f"{name} is {value:.4f}, {relation} its floor of {floor:.3f}", len(label))


def _against_champion(gates: Gates, policy: GatePolicy, seen: AucComparison) -> tuple[Verdict, int | None]:
    """One verdict on the uplift; inconclusive while the border lies inside the confidence interval."""
    border = -gates.margin if policy == "refresh" else gates.min_uplift
    interval = f"uplift {seen.uplift:+.4f} [{seen.lower:+.4f}, {seen.upper:+.4f}] at {gates.confidence:.0%}"
    low, high = (seen.uplift, seen.uplift) if policy == "observed" else (seen.lower, seen.upper)
    rows = seen.positives + seen.negatives
    wanted = f"not worse than {-border:.4f}" if policy == "refresh" else f"better by {border:.4f}"
    # Two floats that should be equal to the border differ in their last bits.
    if low >= border - 1e-12:
        return Verdict(policy, Outcome.PASS, seen.uplift, border, f"{interval}: {wanted}, as '{policy}' asks", rows), None
    if high < border:
        return Verdict(policy, Outcome.FAIL, seen.uplift, border, f"{interval}: '{policy}' asks for {wanted}", rows), None
    needed = _needed_positives(seen, border)
    reason = f"{interval}: cannot tell whether it is {wanted}; about {needed} positives would decide, there are {seen.positives}"
    return Verdict(policy, Outcome.INCONCLUSIVE, seen.uplift, border, reason, rows), needed


def _needed_positives(seen: AucComparison, border: float) -> int:
    """With k times the rows the interval is sqrt(k) times narrower; it must become as narrow as uplift and border are apart."""
    apart = max(abs(seen.uplift - border), 1e-4)
    half = (seen.upper - seen.lower) / 2
    return math.ceil(seen.positives * max(half / apart, 1.0) ** 2)


def certificate(model: str, challenger: str, champion: str | None, holdout: str, result: GateResult) -> str:
    """The evaluation as a page of markdown for a person."""
    lines = [
        f"# {model} {challenger}: {result.outcome.value}",
        "",
        f"Judged by policy `{result.policy}` against {champion or 'no champion'} on {result.rows} rows "
        f"of the frozen holdout `{holdout[:16]}`.",
        "",
        "| verdict | outcome | value | threshold | reason |",
        "|---|---|---|---|---|",
    ]
    for verdict in result.verdicts:
        value = "" if verdict.value is None else f"{verdict.value:.4f}"
        threshold = "" if verdict.threshold is None else f"{verdict.threshold:.4f}"
        lines.append(f"| {verdict.name} | {verdict.outcome.value} | {value} | {threshold} | {verdict.reason} |")
    if result.needed_positives:
        lines += ["", f"About {result.needed_positives} positives in the holdout would decide."]
    return "\n".join(lines) + "\n"
