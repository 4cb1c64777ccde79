"""A past decision, decided again from what it was made of: with the same plan or gates, or as others would have had it."""

from dataclasses import dataclass, replace
from datetime import datetime

from mlops_assets.core import gates as quality_gate
from mlops_assets.core import ledger
from mlops_assets.core.canary import Decision, decide
from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.errors import SpecError
from mlops_assets.core.evidence import Observation
from mlops_assets.core.floors import Footprint
from mlops_assets.core.gate_spec import GatePolicy, Gates
from mlops_assets.core.gates import GateResult, Scored
from mlops_assets.core.ledger import Look, Question
from mlops_assets.core.policy import Challenger, Policy
from mlops_assets.core.verdict import Verdict


@dataclass(frozen=True)
class Evidence:
    """All that :func:`~mlops_assets.core.canary.decide` read, and what it said.

    Args:
        policy: as it was; without its log, which grows with every release and decides nothing.
        plan: as declared.
        pace: how many seconds of the plan passed in one second of the clock.
        observation: without the gateways' latest samples, from which only the next look counts.
        decided_at: the time that the decision went by.
    """

    policy: Policy
    plan: Canary
    pace: float
    observation: Observation
    decided_at: datetime
    decision: Decision


@dataclass(frozen=True)
class GateEvidence:
    """All that :func:`~mlops_assets.core.gates.evaluate` read but the scores, and what it said.

    Args:
        gates: as declared.
        policy: by which the release was held against the champion.
        holdout, scores: sha256 of the frozen holdout, and of the labels and scores of its rows.
        threshold: a score from here up is a yes.
        footprint: what the release takes.
        question: what the holdout was asked; None without a champion.
        looks: what it had been asked until then.
        judged_at: when.
    """

    gates: Gates
    policy: GatePolicy
    holdout: str
    scores: str
    threshold: float
    min_positives: int
    footprint: Footprint
    question: Question | None
    looks: tuple[Look, ...]
    verdicts: tuple[Verdict, ...]
    judged_at: datetime


def judge_again(evidence: GateEvidence, scored: Scored, gates: Gates | None = None, policy: GatePolicy | None = None) -> GateResult:
    """Judge a release again.

    Args:
        scored: the labels and scores that the evidence names.
        gates, policy: others than those of then.

    Raises:
        SpecError: if ``gates`` asks for slices or blocks that were not kept, or for a latency that was not measured.
    """
    gates, policy = gates or evidence.gates, policy or evidence.policy
    kept = {part.name for part in evidence.gates.slices}
    missing = [part.name for part in gates.slices if part.name not in kept]
    if missing:
        raise SpecError(f"gates.slices: got {', '.join(missing)}, expected only slices that were kept: {', '.join(kept) or 'none'}")
    if gates.blocks not in ("none", evidence.gates.blocks):
        raise SpecError(f"gates.blocks: got {gates.blocks!r}, expected 'none' or {evidence.gates.blocks!r}, which were kept")
    if gates.max_latency_ms is not None and evidence.footprint.latencies_ms is None:
        raise SpecError("gates.max_latency_ms: no latency was measured then; leave it out")
    slices = {part.name: scored.slices[part.name] for part in gates.slices}
    asked = replace(scored, slices=slices, blocks=scored.blocks if gates.blocks != "none" else None)
    turn = None
    if evidence.question is not None:
        question = replace(evidence.question, policy=policy, metric=gates.metric, border=gates.border(policy))
        turn = ledger.turn(evidence.looks, question, gates)
    return quality_gate.evaluate(gates, policy, asked, evidence.min_positives, turn, evidence.footprint)


def evidence_of(policy: Policy, plan: Canary, pace: float, seen: Observation, decision: Decision) -> Evidence:
    """What is to be kept of a decision that was made as of the latest look."""
    return Evidence(replace(policy, log=()), plan, pace, replace(seen, last={}), seen.until, decision)


def replay(evidence: Evidence, plan: Canary | None = None) -> Decision | None:
    """Decide again.

    Args:
        plan: another plan than the one of then, at the pace that was declared. What the release was exposed to cannot be changed
            afterwards: the step is the one of the same name.

    Returns the decision, or ``None`` if ``plan`` has no such step, and so nothing to say.
    """
    if plan is None:
        return decide(evidence.plan.at_pace(evidence.pace), evidence.policy, evidence.observation, evidence.decided_at)
    policy = _in_steps_of(plan, evidence.policy)
    return None if policy is None else decide(plan.at_pace(evidence.pace), policy, evidence.observation, evidence.decided_at)


def _in_steps_of(plan: Canary, policy: Policy) -> Policy | None:
    """The policy with its challenger at the step of ``plan`` that has the same name. A first release has one step, whatever the plan."""
    challenger = policy.challenger
    if challenger is None or policy.champion is None:
        return policy
    place = next((place for place, step in enumerate(plan.steps) if step.name == challenger.step_name), None)
    return None if place is None else replace(policy, challenger=_moved(challenger, place))


def _moved(challenger: Challenger, place: int) -> Challenger:
    approved = place if challenger.resumed_step == challenger.step else None
    return replace(challenger, step=place, resumed_step=approved)
