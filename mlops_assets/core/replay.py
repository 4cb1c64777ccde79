"""A past decision, decided again from what it was made of: with the same plan, or as another plan would have had it."""

from dataclasses import dataclass, replace
from datetime import datetime

from mlops_assets.core.canary import Decision, decide
from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.evidence import Observation
from mlops_assets.core.policy import Challenger, Policy


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
