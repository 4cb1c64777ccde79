"""One verdict a guardrail: what was seen of a challenger beside its champion, in figures and in words."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mlops_assets.core import guardrails, sequential
from mlops_assets.core.canary_spec import Guardrails, Step
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, SCORE_BINS, Expected, Flips, Labelled, Observation, Traffic
from mlops_assets.core.guardrails import Arms, Finding
from mlops_assets.core.verdict import Outcome, Verdict

FIRST_GUARDRAILS = ("error_rate",)
"""What a first release is asked, which has nobody beside it."""


@dataclass(frozen=True)
class Judged:
    """Who is judged, by what. ``steps`` is how many the whole rollout has: the chance of a false alarm is shared among them."""

    guardrails: Guardrails
    step: Step
    steps: int
    champion: str | None
    challenger: str

    @property
    def names(self) -> tuple[str, ...]:
        """The guardrails that apply at this step, in the order of their verdicts."""
        limits, shadow = self.guardrails, self.step.mirror > 0
        if self.champion is None:
            return FIRST_GUARDRAILS
        asked = {
            "error_rate": True,
            "error_increase": True,
            "latency": True,
            "slow_requests": limits.latency_budget_ms is not None,
            "score_shift": True,
            "flips": limits.max_flips is not None and shadow,
            "brier_increase": limits.max_brier_increase is not None,
            "traffic_share": not shadow,
        }
        return tuple(name for name, is_asked in asked.items() if is_asked)

    @property
    def alpha(self) -> float:
        """The chance of one guardrail's false alarm in one step, so that all together stay within ``guardrails.alpha``."""
        return self.guardrails.alpha / (self.steps * len(self.names))

    @property
    def odds(self) -> float:
        """Requests that the challenger is meant to have for one of the champion's."""
        return self.step.mirror / 100 if self.step.mirror else self.step.weight / max(100 - self.step.weight, 1)


@dataclass(frozen=True)
class _Pair:
    """The counts of both releases, and by how much fewer they count because units send several requests each."""

    theirs: Traffic
    ours: Traffic
    expected: Expected | None
    effect: float


def judge(judged: Judged, seen: Observation) -> tuple[Verdict, ...]:
    """One verdict a guardrail of ``judged.names``. Labels that have not come yet are no verdict: they come when they come."""
    pair = _Pair(
        seen.traffic.get(judged.challenger, Traffic()),
        seen.traffic.get(judged.champion or "", Traffic()),
        seen.expected.get(judged.challenger),
        _effect(judged, seen, judged.guardrails.unit_correlation),
    )
    verdicts: dict[str, Callable[[], Verdict | None]] = {
        "error_rate": partial(_error_rate, judged, pair),
        "error_increase": partial(_error_increase, judged, pair),
        "latency": partial(_latency, judged, pair),
        "slow_requests": partial(_slow_requests, judged, pair),
        "score_shift": partial(_score_shift, judged, seen, pair.effect),
        "flips": partial(_flips, judged, seen, pair.effect),
        "brier_increase": partial(_brier_increase, judged, seen, pair.effect),
        "traffic_share": partial(_traffic_share, judged, seen, pair),
    }
    return tuple(_known(verdicts[name]() for name in judged.names))


def _known(verdicts: Iterator[Verdict | None]) -> Iterator[Verdict]:
    return (verdict for verdict in verdicts if verdict is not None)


def _effect(judged: Judged, seen: Observation, correlation: float) -> float:
    """The larger design effect of the two."""
    effects = [1.0]
    for release in (judged.challenger, judged.champion or ""):
        if release in seen.units:
            effects.append(sequential.design_effect(seen.units[release], sum(seen.scores.get(release, ())), correlation))
    return max(effects)


def _error_rate(judged: Judged, pair: _Pair) -> Verdict:
    theirs, limit = pair.theirs, judged.guardrails.max_error_rate
    found = guardrails.above(theirs.errors / pair.effect, theirs.requests / pair.effect, limit)
    band = _band(judged, theirs, Traffic(), pair.effect, ".2%")
    text = f"{theirs.errors} of {theirs.requests} requests failed ({theirs.error_rate or 0:.2%}{band})"
    return _verdict(judged, "error_rate", found, limit, text, theirs.requests)


def _error_increase(judged: Judged, pair: _Pair) -> Verdict:
    theirs, ours, effect, limit = pair.theirs, pair.ours, pair.effect, judged.guardrails.max_error_increase
    expected = None if pair.expected is None else pair.expected.errors / effect
    found = guardrails.increase(_arms(judged, theirs.errors, theirs.requests, ours.errors, ours.requests, effect, expected), limit)
    text = f"the error rate is {_signed(found)} from the champion's{_band(judged, theirs, ours, effect, '+.2%')}"
    return _verdict(judged, "error_increase", found, limit, text, theirs.requests, ours.requests)


def _latency(judged: Judged, pair: _Pair) -> Verdict:
    limits, q = judged.guardrails, judged.guardrails.latency_quantile
    theirs, ours = ([count / pair.effect for count in arm.latency] for arm in (pair.theirs, pair.ours))
    expected = None if pair.expected is None else [count / pair.effect for count in pair.expected.latency]
    found = guardrails.latency(theirs, ours, expected, q, limits.max_latency_ratio, limits.latency_floor_ms, limits.beta)
    their_ms, our_ms = pair.theirs.latency_quantile(q) or 0.0, pair.ours.latency_quantile(q) or 0.0
    text = f"p{q * 100:g} is {their_ms:.1f} ms against the champion's {our_ms:.1f} ms, a ratio of {float(found.value):.2f}"
    return _verdict(judged, "latency", found, limits.max_latency_ratio, text, sum(pair.theirs.latency), sum(pair.ours.latency))


def _slow_requests(judged: Judged, pair: _Pair) -> Verdict:
    limit, budget = judged.guardrails.max_slow_increase, judged.guardrails.latency_budget_ms
    first = LATENCY_BOUNDS_MS.index(budget or 0.0) + 1
    theirs, ours = pair.theirs.latency, pair.ours.latency
    slow, base_slow = sum(theirs[first:]), sum(ours[first:])
    expected = None if pair.expected is None else sum(pair.expected.latency[first:]) / pair.effect
    found = guardrails.increase(_arms(judged, slow, sum(theirs), base_slow, sum(ours), pair.effect, expected), limit)
    text = f"the share of requests above {budget:g} ms is {_signed(found)} from the champion's"
    return _verdict(judged, "slow_requests", found, limit, text, sum(theirs), sum(ours))


def _score_shift(judged: Judged, seen: Observation, effect: float) -> Verdict:
    limit, nothing = judged.guardrails.max_score_shift, (0,) * SCORE_BINS
    theirs, ours = (seen.scores.get(release or "") or nothing for release in (judged.challenger, judged.champion))
    found = guardrails.shift([count / effect for count in theirs], [count / effect for count in ours], judged.odds, limit)
    text = f"the scores' distribution is {float(found.value):.3f} from the champion's (Kolmogorov-Smirnov)"
    return _verdict(judged, "score_shift", found, limit, text, sum(theirs), sum(ours))


def _flips(judged: Judged, seen: Observation, effect: float) -> Verdict:
    limit, both = judged.guardrails.max_flips or 0.0, seen.flips.get(judged.challenger, Flips())
    found = guardrails.above(both.flips / effect, both.pairs / effect, limit)
    text = f"{both.flips} of {both.pairs} requests were decided otherwise than by the champion ({float(found.value):.2%})"
    return _verdict(judged, "flips", found, limit, text, both.pairs)


def _brier_increase(judged: Judged, seen: Observation, effect: float) -> Verdict | None:
    limit = judged.guardrails.max_brier_increase or 0.0
    theirs, ours = (seen.labelled.get(release or "", Labelled()) for release in (judged.challenger, judged.champion))
    if theirs.rows == 0 or ours.rows == 0:
        return None
    arms = _arms(judged, theirs.squared_error, theirs.rows, ours.squared_error, ours.rows, effect, None)
    found = guardrails.mean_increase(arms, limit)
    text = f"the mean squared error of the scores is {float(found.value):+.4f} from the champion's"
    return _verdict(judged, "brier_increase", found, limit, text, theirs.rows, ours.rows)


def _traffic_share(judged: Judged, seen: Observation, pair: _Pair) -> Verdict:
    limit, weight = judged.guardrails.max_share_mismatch, judged.step.weight / 100
    # A unit's requests all go to one release: for shares, they hang together altogether.
    effect = _effect(judged, seen, 1.0)
    requests, both = pair.theirs.requests, pair.theirs.requests + pair.ours.requests
    found = guardrails.mismatch(requests / effect, both / effect, weight)
    share = requests / both if both else 0.0
    text = f"{share:.1%} of the requests are the challenger's, {weight:.0%} are meant to be: {float(found.value):.1%} off"
    return _verdict(judged, "traffic_share", found, limit, text, requests, pair.ours.requests)


def _arms(judged: Judged, events: float, requests: float, base_events: float, base: float, effect: float, expected: float | None) -> Arms:
    return Arms(events / effect, requests / effect, base_events / effect, base / effect, judged.odds, expected)


def _verdict(judged: Judged, name: str, found: Finding, limit: float, text: str, sample: int, base: int | None = None) -> Verdict:
    """Harm fails at once. Passing asks for ``min_requests`` of both beside the evidence."""
    value, wanted = (None if math.isnan(found.value) else float(found.value)), judged.step.min_requests
    if value is not None and found.is_harm(limit, judged.alpha):
        rare = math.exp(min(float(found.harm), 20.0))
        reason = f"{text}, above the limit of {limit:.4g}; as much by chance, at any look, at most once in {rare:,.0f} times"
        return Verdict(name, Outcome.FAIL, value, limit, reason, sample)
    for count, whose in ((sample, "the challenger"), (base, "the champion")):
        if count is not None and count < wanted:
            reason = f"{name}: {count} of the {wanted} requests that {whose} needs"
            return Verdict(name, Outcome.INCONCLUSIVE, value, limit, reason, sample)
    if found.is_safe(judged.guardrails.beta):
        return Verdict(name, Outcome.PASS, value, limit, f"{text}, within the limit of {limit:.4g}", sample)
    reason = f"{text}; more than the limit of {limit:.4g} is neither shown nor excluded on {sample} requests"
    return Verdict(name, Outcome.INCONCLUSIVE, value, limit, reason, sample)


def _signed(found: Finding) -> str:
    return f"{0.0 if math.isnan(found.value) else float(found.value):+.2%}"


def _band(judged: Judged, theirs: Traffic, ours: Traffic, effect: float, form: str) -> str:
    """Between what the rate, or its difference, lies at all looks together."""
    if theirs.requests == 0:
        return ""
    x2, n2, x1, n1 = (count / effect for count in (theirs.errors, theirs.requests, ours.errors, ours.requests))
    low, high = sequential.bounds(x2, n2, x1, n1, judged.odds, judged.alpha, judged.guardrails.beta)
    return f", between {low:{form}} and {high:{form}}"
