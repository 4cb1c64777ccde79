"""Whether a canary holds, advances, aborts or is promoted: one pure function of plan, policy, evidence and time."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlops_assets.core.canary_spec import Canary, Step
from mlops_assets.core.evidence import Observation
from mlops_assets.core.judgement import Judged, judge
from mlops_assets.core.policy import Challenger, Policy
from mlops_assets.core.verdict import Outcome, Verdict, combine


class Move(StrEnum):
    HOLD = "hold"
    ADVANCE = "advance"
    ABORT = "abort"
    PROMOTE = "promote"


@dataclass(frozen=True)
class Decision:
    """What to do with the challenger now, why, and on what grounds."""

    move: Move
    reason: str
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"move": self.move.value, "reason": self.reason, "verdicts": [verdict.to_dict() for verdict in self.verdicts]}


def plan_steps(plan: Canary, policy: Policy) -> tuple[Step, ...]:
    """The steps that lie before promotion.

    A first release has nobody to be compared with and nobody whose traffic it could share: it has one step, all of the
    traffic, and absolute limits only.
    """
    if policy.champion is not None:
        return plan.steps
    return (Step("first", plan.first_bake, weight=100, min_requests=min(step.min_requests for step in plan.steps)),)


def decide(plan: Canary, policy: Policy, seen: Observation, now: datetime) -> Decision:
    """Decide on the challenger of ``policy``.

    Harm that is shown aborts at any time, paused or not. Advancing needs every guardrail to have excluded harm beyond its limit, and the
    bake time to be over. Whatever is inconclusive holds, and at ``plan.deadline`` rolls back: no data is never a pass. One may look as
    often as one likes; the decision is a function of what ``seen`` holds, and so can be made again from the stored evidence.

    Raises:
        ValueError: if the policy has no challenger.
    """
    challenger = policy.challenger
    if challenger is None:
        raise ValueError(f"{policy.model} has no release in canary")
    steps = plan_steps(plan, policy)
    step = steps[min(challenger.step, len(steps) - 1)]
    verdicts = judge(Judged(plan.guardrails, step, len(steps), policy.champion, challenger.release), seen)
    outcome = combine(verdicts)
    if outcome is Outcome.FAIL:
        return Decision(Move.ABORT, _reasons(verdicts, Outcome.FAIL), verdicts)
    if challenger.paused:
        return Decision(Move.HOLD, "paused by a person", verdicts)
    in_step = now - challenger.entered_at
    if outcome is Outcome.INCONCLUSIVE:
        if in_step >= plan.deadline:
            return Decision(Move.ABORT, f"past the deadline of {plan.deadline}: {_reasons(verdicts, Outcome.INCONCLUSIVE)}", verdicts)
        return Decision(Move.HOLD, _reasons(verdicts, Outcome.INCONCLUSIVE), verdicts)
    if in_step < step.bake:
        return Decision(Move.HOLD, f"baking at {step.name} until {challenger.entered_at + step.bake:%Y-%m-%d %H:%M:%S}", verdicts)
    return _forward(policy.model, challenger, steps, verdicts)


def _forward(model: str, challenger: Challenger, steps: tuple[Step, ...], verdicts: tuple[Verdict, ...]) -> Decision:
    here = steps[min(challenger.step, len(steps) - 1)]
    if here.approval and challenger.resumed_step != challenger.step:
        return Decision(Move.HOLD, f"{here.name} passed and asks for a person's approval: mlops resume {model} --reason ...", verdicts)
    if challenger.step + 1 < len(steps):
        return Decision(Move.ADVANCE, f"{here.name} passed every guardrail", verdicts)
    return Decision(Move.PROMOTE, f"{here.name}, the last step, passed every guardrail", verdicts)


def _reasons(verdicts: tuple[Verdict, ...], outcome: Outcome) -> str:
    return "; ".join(verdict.reason for verdict in verdicts if verdict.outcome is outcome)
