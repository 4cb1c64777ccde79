"""Whether a canary holds, advances, aborts or is promoted: one pure function of plan, policy, evidence and time."""

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlops_assets.core.drift import CHANCE, shift
from mlops_assets.core.evidence import Observation, Traffic
from mlops_assets.core.model_spec import Canary, Guardrails, Step
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

    Harm aborts at any time, paused or not, and before ``min_requests`` as soon as too many of them have failed already. Advancing
    needs every guardrail to pass and the bake time to be over. Whatever is inconclusive holds, and at ``plan.deadline`` rolls back:
    no data is never a pass.

    Raises:
        ValueError: if the policy has no challenger.
    """
    challenger = policy.challenger
    if challenger is None:
        raise ValueError(f"{policy.model} has no release in canary")
    steps = plan_steps(plan, policy)
    step = steps[min(challenger.step, len(steps) - 1)]
    verdicts = judge(plan.guardrails, step, policy.champion, challenger.release, seen)
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


def judge(guardrails: Guardrails, step: Step, champion: str | None, challenger: str, seen: Observation) -> tuple[Verdict, ...]:
    """One verdict a guardrail. Without a champion only the absolute error rate is judged."""
    theirs = seen.traffic.get(challenger, Traffic())
    verdicts = [_error_rate(guardrails, step, theirs)]
    if champion is None:
        return tuple(verdicts)
    ours = seen.traffic.get(champion, Traffic())
    verdicts.append(_error_increase(guardrails, step, theirs, ours))
    verdicts.append(_latency(guardrails, step, theirs, ours))
    verdicts.append(_scores(guardrails, step, seen.scores.get(challenger, ()), seen.scores.get(champion, ())))
    return tuple(verdicts)


def _forward(model: str, challenger: Challenger, steps: tuple[Step, ...], verdicts: tuple[Verdict, ...]) -> Decision:
    here = steps[min(challenger.step, len(steps) - 1)]
    if here.approval and challenger.resumed_step != challenger.step:
        return Decision(Move.HOLD, f"{here.name} passed and asks for a person's approval: mlops resume {model} --reason ...", verdicts)
    if challenger.step + 1 < len(steps):
        return Decision(Move.ADVANCE, f"{here.name} passed every guardrail", verdicts)
    return Decision(Move.PROMOTE, f"{here.name}, the last step, passed every guardrail", verdicts)


def _reasons(verdicts: tuple[Verdict, ...], outcome: Outcome) -> str:
    return "; ".join(verdict.reason for verdict in verdicts if verdict.outcome is outcome)


def _few(name: str, threshold: float, sample: int, wanted: int, whose: str = "the challenger") -> Verdict:
    reason = f"{name}: {sample} of the {wanted} requests that {whose} needs"
    return Verdict(name, Outcome.INCONCLUSIVE, None, threshold, reason, sample)


def _limit(name: str, value: float, threshold: float, text: str, sample: int) -> Verdict:
    outcome = Outcome.PASS if value <= threshold else Outcome.FAIL
    relation = "within" if outcome is Outcome.PASS else "above"
    return Verdict(name, outcome, value, threshold, f"{text}, {relation} the limit of {threshold:.4g}", sample)


def _error_rate(guardrails: Guardrails, step: Step, theirs: Traffic) -> Verdict:
    rate = theirs.error_rate
    # More errors than all of the requests that are waited for may have: no success to come can mend it.
    hopeless = theirs.errors > guardrails.max_error_rate * step.min_requests
    if rate is None or (theirs.requests < step.min_requests and not hopeless):
        return _few("error_rate", guardrails.max_error_rate, theirs.requests, step.min_requests)
    text = f"{theirs.errors} of {theirs.requests} requests failed ({rate:.2%})"
    return _limit("error_rate", rate, guardrails.max_error_rate, text, theirs.requests)


def _error_increase(guardrails: Guardrails, step: Step, theirs: Traffic, ours: Traffic) -> Verdict:
    if theirs.requests < step.min_requests:
        return _few("error_increase", guardrails.max_error_increase, theirs.requests, step.min_requests)
    if ours.requests < step.min_requests:
        return _few("error_increase", guardrails.max_error_increase, ours.requests, step.min_requests, "the champion")
    increase = theirs.errors / theirs.requests - ours.errors / ours.requests
    text = f"the error rate is {increase:+.2%} from the champion's"
    # One error more is 1 % of 100 requests: without this, every third release that is as good as its champion would be taken out.
    errors = theirs.errors + ours.errors
    if (
        increase > guardrails.max_error_increase
        and _at_least(theirs.errors, errors, theirs.requests / (theirs.requests + ours.requests)) > CHANCE
    ):
        reason = f"{text}, above the limit of {guardrails.max_error_increase:.4g}, but {errors} errors of both may fall so by chance"
        return Verdict("error_increase", Outcome.INCONCLUSIVE, increase, guardrails.max_error_increase, reason, theirs.requests)
    return _limit("error_increase", increase, guardrails.max_error_increase, text, theirs.requests)


def _latency(guardrails: Guardrails, step: Step, theirs: Traffic, ours: Traffic) -> Verdict:
    q, limit = guardrails.latency_quantile, guardrails.max_latency_ratio
    their_ms, our_ms = theirs.latency_quantile(q), ours.latency_quantile(q)
    if their_ms is None or sum(theirs.latency) < step.min_requests:
        return _few("latency", limit, sum(theirs.latency), step.min_requests)
    if our_ms is None or sum(ours.latency) < step.min_requests:
        return _few("latency", limit, sum(ours.latency), step.min_requests, "the champion")
    ratio = max(their_ms, guardrails.latency_floor_ms) / max(our_ms, guardrails.latency_floor_ms)
    text = f"p{q * 100:g} is {their_ms:.1f} ms against the champion's {our_ms:.1f} ms, a ratio of {ratio:.2f}"
    return _limit("latency", ratio, limit, text, sum(theirs.latency))


def _scores(guardrails: Guardrails, step: Step, theirs: tuple[int, ...], ours: tuple[int, ...]) -> Verdict:
    if sum(theirs) < step.min_requests:
        return _few("score_shift", guardrails.max_score_psi, sum(theirs), step.min_requests)
    if sum(ours) < step.min_requests:
        return _few("score_shift", guardrails.max_score_psi, sum(ours), step.min_requests, "the champion")
    seen = shift(ours, theirs, groups=5)
    text = f"PSI of the scores against the champion's is {seen.psi:.3f}"
    if seen.outcome(guardrails.max_score_psi) is Outcome.INCONCLUSIVE:
        reason = f"{text}, above the limit of {guardrails.max_score_psi:g}, but so few scores give up to {seen.chance:.3f} by chance"
        return Verdict("score_shift", Outcome.INCONCLUSIVE, seen.psi, guardrails.max_score_psi, reason, sum(theirs))
    return _limit("score_shift", seen.psi, guardrails.max_score_psi, text, sum(theirs))


def _at_least(found: int, draws: int, share: float) -> float:
    """The probability of ``found`` or more successes in ``draws``, each of probability ``share``.

    Of as many errors as there were, each was the challenger's with the probability of its share of the requests, if both releases are
    equally good. 3 of 4 errors at 5 % of the traffic are 4 * 0.05**3 * 0.95 + 0.05**4 = 0.00048:

    >>> round(_at_least(3, 4, 0.05), 5)
    0.00048
    """
    total = 0.0
    for count in range(found, draws + 1):
        ways = math.lgamma(draws + 1) - math.lgamma(count + 1) - math.lgamma(draws - count + 1)
        term = math.exp(ways + count * math.log(share) + (draws - count) * math.log1p(-share))
        total += term
        if count > draws * share and term < 1e-9 * total:
            break
    return min(total, 1.0)
