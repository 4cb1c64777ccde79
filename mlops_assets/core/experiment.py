"""The answer of an experiment: ship, stop or keep running, with its reason in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mlops_assets.core.errors import DigestMismatch, SpecError
from mlops_assets.core.experiment_bayes import Beta, Posterior, compare_means, compare_shares
from mlops_assets.core.experiment_design import Better, Design, Guardrail, Metric
from mlops_assets.core.experiment_groups import boundaries
from mlops_assets.core.experiment_results import Results, samples
from mlops_assets.core.experiment_samples import Sample
from mlops_assets.core.experiment_sequential import Difference, chi_square_srm, confidence_sequence, information_share, sequential_srm
from mlops_assets.core.verdict import Outcome, Verdict

SRM_ALPHA = 0.001
"""A split this unlikely is a fault of the assignment: Kohavi, Tang and Xu, *Trustworthy Online Controlled Experiments*, 2020."""

MIN_UNITS, MIN_EVENTS = 100, 20
"""Fewer units a variant, or of a proportion fewer successes or failures to be expected in the smaller one, and nothing is concluded.

By the expectation, not by what was seen: a variant that broke has no successes at all. With 20 successes in both together instead, a split
of 1:9 at 1 % was called a difference in 14 % of all simulated experiments in which there was none.
"""

Samples = Mapping[str, tuple[Sample, Sample]]


class Action(StrEnum):
    SHIP = "ship"
    STOP = "stop"
    KEEP_RUNNING = "keep running"


@dataclass(frozen=True)
class Estimate:
    """One metric in both variants, and treatment minus control with its interval; ``None`` while the data are too few."""

    name: str
    control: float
    treatment: float
    difference: Difference | None


@dataclass(frozen=True)
class Answer:
    """What to do, why, and on what grounds. ``information`` is the fraction of what was planned, up to 1; the next look needs it."""

    action: Action
    reason: str
    verdicts: tuple[Verdict, ...]
    estimates: tuple[Estimate, ...]
    information: float


def analyse(design: Design, declared: str, results: Results) -> Answer:
    """Answer from what is known now.

    A broken split, or harm beyond a guardrail's margin, stops at any look. Nothing else is concluded before a full cycle. The treatment is
    shipped once it is better by ``min_effect`` and harm is excluded for every guardrail; once ``min_effect`` is excluded, or at the
    planned units, it stops. Guardrails are watched by confidence sequences whatever the method, ``alpha`` shared among them: harm may be
    looked for at any time.

    Args:
        declared: the design's digest as it was written down before the start.

    Raises:
        DigestMismatch: if the design is not the one that was declared.
        BadData: if the metrics are not those declared, or figures are impossible.
        SpecError: if group-sequential looks do not rise.

    10 % against 11 % of 20,000 each is 0.01 with a standard error of 0.0031, 3.2 of them; one look at the end asks for 1.96:

    >>> from datetime import datetime
    >>> from mlops_assets.core.experiment_results import Figures, Variant
    >>> design = Design("checkout", Metric("conversion", "proportion"), 40_000, method="fixed")
    >>> control, treatment = (Variant(20_000, {"conversion": Figures(successes=found)}) for found in (2000, 2200))
    >>> answer = analyse(design, design.digest, Results(datetime(2026, 11, 2), datetime(2026, 11, 9), control, treatment))
    >>> answer.action.value, answer.reason
    ('ship', 'conversion is better by +0.01 [+0.003992, +0.01601], more than 0')
    """
    if declared != design.digest:
        raise DigestMismatch(
            f"the design of {design.name} has the hash {design.digest}, declared before the start was {declared or 'none'}: "
            f"analyse what was declared, or declare anew and start again"
        )
    seen = samples(design, results)
    units = (results.control.units, results.treatment.units)
    ended = sum(units) >= design.units
    information = 1.0 if ended else min(information_share(units, design.planned), 1.0)
    success, estimate = _success(design, *seen[design.success.name], information, results.earlier_looks)
    guarded = [_guardrail(design, guardrail, *seen[guardrail.name]) for guardrail in design.guardrails]
    split, cycle = _split(design, units), _cycle(design, results)
    guards = tuple(verdict for verdict, _ in guarded)
    action, reason = _answer(split, guards, cycle, success, ended)
    estimates = (estimate, *(found for _, found in guarded))
    return Answer(action, reason, (split, cycle, *guards, success), estimates, information)


def _answer(split: Verdict, guards: tuple[Verdict, ...], cycle: Verdict, success: Verdict, ended: bool) -> tuple[Action, str]:
    if split.outcome is Outcome.FAIL:
        return Action.STOP, f"{split.reason}: no figure can be trusted, mend the assignment and start again"
    if harm := [guard.reason for guard in guards if guard.outcome is Outcome.FAIL]:
        return Action.STOP, "; ".join(harm)
    if not cycle.passed:
        return Action.KEEP_RUNNING, cycle.reason
    if success.outcome is Outcome.FAIL:
        return Action.STOP, success.reason
    open_questions = "; ".join(verdict.reason for verdict in (success, *guards) if not verdict.passed)
    if not open_questions:
        return Action.SHIP, "; ".join(verdict.reason for verdict in (success, *guards))
    if ended:
        return Action.STOP, f"the planned units are reached, and {open_questions}"
    return Action.KEEP_RUNNING, open_questions


def _split(design: Design, units: tuple[int, int]) -> Verdict:
    if sum(units) == 0:
        return Verdict("sample_ratio", Outcome.INCONCLUSIVE, None, SRM_ALPHA, "no units yet")
    shares = (1 - design.treatment_share, design.treatment_share)
    test = chi_square_srm if design.method == "fixed" else sequential_srm
    chance = test(units, shares)
    text = (
        f"{units[0]} and {units[1]} units were assigned where {shares[0]:.3g} and {shares[1]:.3g} of them were declared (p = {chance:.2g})"
    )
    outcome = Outcome.PASS if chance >= SRM_ALPHA else Outcome.FAIL
    return Verdict("sample_ratio", outcome, chance, SRM_ALPHA, text, sum(units))


def _cycle(design: Design, results: Results) -> Verdict:
    days, wanted = (span.total_seconds() / 86400 for span in (results.lasted, design.cycle))
    over = results.lasted >= design.cycle
    text = f"{days:.3g} days of a full cycle of {wanted:.3g} days {'are over' if over else 'only: weekdays differ from each other'}"
    return Verdict("cycle", Outcome.PASS if over else Outcome.INCONCLUSIVE, days, wanted, text)


def _guardrail(design: Design, guardrail: Guardrail, control: Sample, treatment: Sample) -> tuple[Verdict, Estimate]:
    name, margin, units = guardrail.name, guardrail.margin, control.units + treatment.units
    if few := _too_few(guardrail.metric, control, treatment):
        return Verdict(name, Outcome.INCONCLUSIVE, None, margin, few, units), Estimate(name, control.mean, treatment.mean, None)
    found = confidence_sequence(control, treatment, design.alpha / len(design.guardrails), design.planned)
    better = _towards(guardrail.better, found)
    text = f"{name} is {-better.effect:+.4g} worse [{-better.upper:+.4g}, {-better.lower:+.4g}]"
    if -better.lower <= margin:
        outcome, text = Outcome.PASS, f"{text}, within the margin of {margin:.4g}"
    elif -better.upper > margin:
        outcome, text = Outcome.FAIL, f"{text}, beyond the margin of {margin:.4g}"
    else:
        outcome, text = Outcome.INCONCLUSIVE, f"{text}: harm beyond the margin of {margin:.4g} is not excluded yet"
    return Verdict(name, outcome, -better.effect, margin, text, units), Estimate(name, control.mean, treatment.mean, found)


def _success(
    design: Design, control: Sample, treatment: Sample, information: float, earlier: tuple[float, ...]
) -> tuple[Verdict, Estimate]:
    metric, units = design.success, control.units + treatment.units
    few = _too_few(metric, control, treatment)
    if design.method == "fixed" and information < 1:
        few = f"{metric.name}: one look at the end was declared, {units} of {design.units} units are there"
    if few:
        verdict = Verdict(metric.name, Outcome.INCONCLUSIVE, None, design.min_effect, few, units)
        return verdict, Estimate(metric.name, control.mean, treatment.mean, None)
    if design.method == "bayesian":
        belief = _belief(design, control, treatment)
        found = Difference(belief.effect, belief.lower, belief.upper)
        return _believed(design, belief, units), Estimate(metric.name, control.mean, treatment.mean, found)
    found = _interval(design, control, treatment, information, earlier)
    return _shown(design, _towards(metric.better, found), units), Estimate(metric.name, control.mean, treatment.mean, found)


def _too_few(metric: Metric, control: Sample, treatment: Sample) -> str:
    """Why nothing can be said of a metric yet; empty if something can."""
    if min(control.units, treatment.units) < MIN_UNITS:
        return f"{metric.name}: {control.units} and {treatment.units} units, {MIN_UNITS} of each are needed"
    if metric.kind == "proportion":
        share = (control.mean * control.units + treatment.mean * treatment.units) / (control.units + treatment.units)
        expected = min(share, 1 - share) * min(control.units, treatment.units)
        if expected < MIN_EVENTS:
            return f"{metric.name}: {expected:.3g} of the rarer outcome are to be expected in a variant, {MIN_EVENTS} are needed"
    if control.error + treatment.error == 0:
        return f"{metric.name}: every unit has the same value, so nothing is known of its spread"
    return ""


def _interval(design: Design, control: Sample, treatment: Sample, information: float, earlier: tuple[float, ...]) -> Difference:
    if design.method == "always-valid":
        return confidence_sequence(control, treatment, design.alpha, design.planned)
    if earlier and information <= earlier[-1]:
        raise SpecError(f"earlier_looks: got {earlier}, this look is at {information:.4g} of the planned units: name only those before it")
    # One look at the end spends all of alpha there, by any spending function.
    z = boundaries(design.spending, design.alpha, (*earlier, information))[-1]
    effect, half = treatment.mean - control.mean, z * math.sqrt(control.error + treatment.error)
    return Difference(effect, effect - half, effect + half)


def _shown(design: Design, better: Difference, units: int) -> Verdict:
    name, wanted = design.success.name, design.min_effect
    text = f"{name} is better by {better.effect:+.4g} [{better.lower:+.4g}, {better.upper:+.4g}]"
    if better.lower > wanted:
        outcome, text = Outcome.PASS, f"{text}, more than {wanted:.4g}"
    elif better.upper <= wanted:
        outcome, text = Outcome.FAIL, f"{text}: more than {wanted:.4g} is excluded"
    else:
        outcome, text = Outcome.INCONCLUSIVE, f"{text}: whether by more than {wanted:.4g} is not shown"
    return Verdict(name, outcome, better.effect, wanted, text, units)


def _belief(design: Design, control: Sample, treatment: Sample) -> Posterior:
    if design.success.kind != "proportion":
        return compare_means(control, treatment, 1 - design.alpha)
    prior = Beta(1, 1)
    before, after = (prior.after(one.units, round(one.mean * one.units)) for one in (control, treatment))
    return compare_shares(before, after, 1 - design.alpha)


def _believed(design: Design, belief: Posterior, units: int) -> Verdict:
    name, higher = design.success.name, design.success.better == "higher"
    beats = belief.beats if higher else 1 - belief.beats
    shipped, kept = (belief.loss_if_shipped, belief.loss_if_kept) if higher else (belief.loss_if_kept, belief.loss_if_shipped)
    text = f"{name} is better with probability {beats:.4g}; shipping is expected to lose {shipped:.3g}, not shipping {kept:.3g}"
    if beats >= 1 - design.alpha and shipped <= design.max_loss:
        outcome, text = Outcome.PASS, f"{text}, up to {design.max_loss:.3g} may be lost"
    elif kept <= design.max_loss:
        outcome, text = Outcome.FAIL, f"{text}: {design.max_loss:.3g} or less is not worth it"
    else:
        outcome, text = Outcome.INCONCLUSIVE, f"{text}: {1 - design.alpha:.4g} and {design.max_loss:.3g} are asked for"
    return Verdict(name, outcome, beats, 1 - design.alpha, text, units)


def _towards(better: Better, found: Difference) -> Difference:
    """The difference with plus for better."""
    return found if better == "higher" else Difference(-found.effect, -found.upper, -found.lower)
