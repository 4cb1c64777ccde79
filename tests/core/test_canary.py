import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core import policy_changes
from mlops_assets.core.canary import Move, decide, plan_steps
from mlops_assets.core.canary_spec import Canary, Guardrails, Step
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, SCORE_BINS, Flips, Labelled, Observation, Traffic
from mlops_assets.core.judgement import Judged
from mlops_assets.core.policy import Author, Challenger, Policy
from mlops_assets.core.verdict import Outcome, combine

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLAN = Canary(
    steps=(
        Step("shadow", HOUR, mirror=100),
        Step("canary-5", 24 * HOUR, weight=5),
        Step("canary-25", 24 * HOUR, weight=25, approval=True),
        Step("canary-50", 24 * HOUR, weight=50),
    ),
    deadline=72 * HOUR,
    first_bake=2 * HOUR,
    guardrails=Guardrails(max_error_increase=0.02),
)
ME = Author("ada", "because")
NAMES = ("error_rate", "error_increase", "latency", "score_shift", "traffic_share")


def served(requests: int, errors: int = 0, milliseconds: float = 25) -> Traffic:
    bucket = next(index for index, bound in enumerate(LATENCY_BOUNDS_MS) if milliseconds <= bound)
    return Traffic(requests, errors, tuple(requests if index == bucket else 0 for index in range(len(LATENCY_BOUNDS_MS) + 1)))


def scores(count: int, lowest: int = 0) -> tuple[int, ...]:
    """``count`` scores, spread evenly over the ten bins from ``lowest``."""
    return tuple(count // 10 if lowest <= index < lowest + 10 else 0 for index in range(SCORE_BINS))


def seen(challenger: Traffic, champion: Traffic | None = None, theirs=None, ours=None) -> Observation:
    champion = champion or served(19 * max(challenger.requests, 1))
    scored = {"v2": scores(challenger.requests) if theirs is None else theirs, "v1": scores(champion.requests) if ours is None else ours}
    return Observation(NOW, NOW, {"v2": challenger, "v1": champion}, scores=scored)


def in_canary(step: int = 1, entered: timedelta = 30 * HOUR, **fields) -> Policy:
    """v1 in production and v2 in canary, in this step since ``entered``."""
    challenger = Challenger("v2", 1, step, PLAN.steps[step].name, NOW - entered, **fields)
    return Policy("fraud", 9, ("v1",), challenger)


GOOD = seen(served(1000))
GOOD_AT = (seen(served(1000), served(1000)), GOOD, seen(served(1000), served(3000)), seen(served(1000), served(1000)))
"""What a good release shows at each step of the plan."""


@pytest.mark.parametrize(
    ("policy", "observed", "move", "reason"),
    [
        (in_canary(), GOOD, "advance", "canary-5 passed every guardrail"),
        (in_canary(entered=23 * HOUR), GOOD, "hold", "baking at canary-5 until 2026-01-01 01:00:00"),
        (in_canary(entered=24 * HOUR), GOOD, "advance", "passed"),
        (in_canary(step=0), GOOD_AT[0], "advance", "shadow passed"),
        (in_canary(step=3), GOOD_AT[3], "promote", "canary-50, the last step, passed every guardrail"),
        (in_canary(step=2), GOOD_AT[2], "hold", "asks for a person's approval: mlops resume fraud"),
        (in_canary(step=2, resumed_step=2), GOOD_AT[2], "advance", "passed"),
        (in_canary(step=2, resumed_step=1), GOOD_AT[2], "hold", "approval"),
        (in_canary(step=2, entered=100 * HOUR), GOOD_AT[2], "hold", "approval"),
        (in_canary(), Observation(NOW, NOW), "hold", "error_rate: 0 of the 100 requests that the challenger needs"),
        (in_canary(), seen(served(99)), "hold", "99 of the 100 requests"),
        (in_canary(), seen(served(150)), "hold", "more than the limit of 0.02 is neither shown nor excluded on 150 requests"),
        (in_canary(), seen(served(300)), "advance", "passed"),
        (
            in_canary(),
            seen(served(1000), replace(served(19_000), latency=served(99).latency)),
            "hold",
            "latency: 99 of the 100 requests that the champion needs",
        ),
        (in_canary(), seen(served(1000), theirs=scores(90)), "hold", "score_shift: 90 of the 100"),
        (in_canary(), seen(served(1000), ours=()), "hold", "score_shift: 0 of the 100 requests that the champion needs"),
        (in_canary(entered=72 * HOUR), seen(served(99)), "abort", "past the deadline of 3 days, 0:00:00: error_rate: 99 of the 100"),
        (in_canary(entered=72 * HOUR), Observation(NOW, NOW), "abort", "past the deadline"),
        (in_canary(entered=72 * HOUR), GOOD, "advance", "passed"),
        (in_canary(paused=True), GOOD, "hold", "paused by a person"),
        (in_canary(paused=True, entered=100 * HOUR), seen(served(5)), "hold", "paused by a person"),
        (in_canary(paused=True), seen(served(1000, 160)), "abort", "160 of 1000 requests failed"),
        (in_canary(), seen(served(1000, 160), served(19_000, 3040)), "abort", "160 of 1000 requests failed (16.00%, between"),
        (in_canary(), seen(served(1000, 55), served(19_000, 1045)), "hold", "more than the limit of 0.05 is neither shown nor excluded"),
        (in_canary(), seen(served(10_000, 400), served(190_000, 7600)), "advance", "passed"),
        (in_canary(), seen(served(1000, 40), served(19_000, 10)), "abort", "the error rate is +3.95% from the champion's, between +"),
        (in_canary(), seen(served(1000, 5), served(19_000, 10)), "advance", "passed"),
        (in_canary(), seen(served(1000, milliseconds=100)), "abort", "a ratio of 3.35, above the limit of 2"),
        (in_canary(), seen(served(1000, milliseconds=7), served(19_000, milliseconds=1)), "advance", "passed"),
        (in_canary(), seen(served(1000), theirs=scores(1000, lowest=20)), "abort", "distribution is 1.000 from the champion's"),
        (in_canary(), seen(served(1000), served(1000)), "abort", "50.0% of the requests are the challenger's, 5% are meant to be"),
        (in_canary(entered=HOUR), seen(served(6, 6)), "abort", "6 of 6 requests failed"),
        (in_canary(entered=HOUR), seen(served(1, 1)), "hold", "1 of the 100 requests"),
        (in_canary(entered=HOUR), seen(served(1000, milliseconds=100)), "abort", "ratio"),
    ],
)
def test_a_canary_moves_for_a_reason_that_a_person_understands(policy, observed, move, reason):
    decision = decide(PLAN, policy, observed, NOW)
    assert decision.move == move, decision.reason
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("observed", "name"),
    [
        (seen(served(1000, 160), served(19_000, 3040)), "error_rate"),
        (seen(served(1000, 40)), "error_increase"),
        (seen(served(1000, milliseconds=200)), "latency"),
        (seen(served(1000), theirs=scores(1000, lowest=30)), "score_shift"),
        (seen(served(1000), served(5000)), "traffic_share"),
    ],
)
def test_each_guardrail_fails_by_itself(observed, name):
    verdicts = decide(PLAN, in_canary(), observed, NOW).verdicts
    assert [verdict.name for verdict in verdicts] == list(NAMES)
    assert [verdict.name for verdict in verdicts if verdict.outcome is Outcome.FAIL] == [name]


WIDER = replace(PLAN, guardrails=replace(PLAN.guardrails, latency_budget_ms=75, max_flips=0.1, max_brier_increase=0.05))
FIRST, LATER = in_canary(step=0), in_canary(step=1)


@pytest.mark.parametrize(
    ("policy", "evidence", "name", "outcome"),
    [
        (FIRST, {"flips": {"v2": Flips(1000, 20)}}, "flips", Outcome.PASS),
        (FIRST, {"flips": {"v2": Flips(1000, 300)}}, "flips", Outcome.FAIL),
        (FIRST, {}, "flips", Outcome.INCONCLUSIVE),
        (LATER, {"flips": {"v2": Flips(1000, 300)}}, "flips", None),
        (LATER, {}, "brier_increase", None),
        (LATER, {"labelled": {"v2": Labelled(50, 5.0), "v1": Labelled(900, 90.0)}}, "brier_increase", Outcome.INCONCLUSIVE),
        (LATER, {"labelled": {"v2": Labelled(2000, 200.0), "v1": Labelled(38_000, 3800.0)}}, "brier_increase", Outcome.PASS),
        (LATER, {"labelled": {"v2": Labelled(2000, 600.0), "v1": Labelled(38_000, 3800.0)}}, "brier_increase", Outcome.FAIL),
        (LATER, {}, "slow_requests", Outcome.PASS),
        (LATER, {"traffic": {"v2": served(1000, milliseconds=100), "v1": served(19_000)}}, "slow_requests", Outcome.FAIL),
        (FIRST, {}, "traffic_share", None),
    ],
)
def test_a_guardrail_is_judged_where_it_is_asked_for_and_can_be_measured(policy, evidence, name, outcome):
    observed = replace(GOOD_AT[policy.challenger.step], **evidence)
    found = {verdict.name: verdict.outcome for verdict in decide(WIDER, policy, observed, NOW).verdicts}
    assert found.get(name) == outcome


def test_requests_of_few_units_count_for_less():
    # 64 signs of 20 units with 50 requests each: all add up to about 50 times the square root of 20.
    observed = replace(GOOD, units={"v2": (224, -224) * 32})
    assert decide(PLAN, LATER, GOOD, NOW).move is Move.ADVANCE
    assert decide(PLAN, LATER, observed, NOW).move is Move.HOLD


def test_the_chance_of_a_false_alarm_is_shared_by_all_guardrails_of_all_steps():
    judged = Judged(PLAN.guardrails, PLAN.steps[1], 4, "v1", "v2")
    assert judged.names == NAMES
    assert judged.alpha * len(NAMES) * 4 == pytest.approx(PLAN.guardrails.alpha)


def first_release(entered: timedelta) -> Policy:
    return Policy("fraud", 3, (), Challenger("v2", 1, 0, "first", NOW - entered), weights={"v2": 100})


@pytest.mark.parametrize(
    ("entered", "observed", "move"),
    [
        (3 * HOUR, seen(served(1000, 10, milliseconds=900)), "promote"),
        (3 * HOUR, seen(served(1000, 51)), "hold"),
        (HOUR, seen(served(1000)), "hold"),
        (3 * HOUR, seen(served(1000, 90)), "abort"),
        (3 * HOUR, Observation(NOW, NOW), "hold"),
        (72 * HOUR, Observation(NOW, NOW), "abort"),
    ],
)
def test_a_first_release_is_judged_by_its_own_errors_alone(entered, observed, move):
    decision = decide(PLAN, first_release(entered), observed, NOW)
    assert (decision.move, [verdict.name for verdict in decision.verdicts]) == (move, ["error_rate"])


def test_a_first_release_has_one_step_of_all_traffic():
    (step,) = plan_steps(PLAN, first_release(HOUR))
    assert (step.weight, step.bake, step.min_requests) == (100, 2 * HOUR, 100)
    assert plan_steps(PLAN, in_canary()) == PLAN.steps


def test_a_plan_that_became_shorter_ends_where_it_ends_now():
    short = replace(PLAN, steps=PLAN.steps[:2])
    assert decide(short, in_canary(step=3), GOOD, NOW).move is Move.PROMOTE


def test_without_a_challenger_there_is_nothing_to_decide():
    with pytest.raises(ValueError, match="fraud has no release in canary"):
        decide(PLAN, Policy("fraud"), GOOD, NOW)


COUNT = st.one_of(st.integers(0, 150), st.integers(0, 3000))


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    requests = draw(COUNT)
    return served(requests, draw(st.integers(0, requests) | st.just(0)), draw(st.sampled_from([1, 20, 50, 100, 1000])))


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    return seen(
        draw(traffics()),
        draw(traffics()) + Traffic(1),
        scores(draw(COUNT), draw(st.sampled_from([0, 1, 20]))),
        scores(draw(COUNT)),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Policy, Observation]:
    entered = draw(st.integers(0, 100)) * HOUR
    if draw(st.integers(0, 4)) == 0:
        return first_release(entered), draw(observations())
    step = draw(st.integers(0, 3))
    resumed = draw(st.none() | st.integers(0, 3))
    return in_canary(step, entered, paused=draw(st.booleans()), resumed_step=resumed), draw(observations())


@settings(max_examples=400)
@given(situations())
def test_no_move_forward_without_every_pass_and_no_abort_without_a_reason(situation):
    policy, observed = situation
    decision = decide(PLAN, policy, observed, NOW)
    outcome, challenger = combine(decision.verdicts), policy.challenger
    in_step = NOW - challenger.entered_at
    step = plan_steps(PLAN, policy)[challenger.step]
    assert decision.reason
    if decision.move in (Move.ADVANCE, Move.PROMOTE):
        assert outcome is Outcome.PASS
        assert not challenger.paused
        assert in_step >= step.bake
        assert not step.approval or challenger.resumed_step == challenger.step
        assert (decision.move is Move.PROMOTE) == (challenger.step == len(plan_steps(PLAN, policy)) - 1)
    if decision.move is Move.ABORT:
        late = outcome is Outcome.INCONCLUSIVE and in_step >= PLAN.deadline and not challenger.paused
        assert outcome is Outcome.FAIL or late
    if decision.move is Move.HOLD:
        assert outcome is not Outcome.FAIL


@given(situations())
def test_stored_evidence_decides_the_same_again(situation):
    policy, observed = situation
    stored = decode(Observation, encode(observed), "evidence")
    assert decide(PLAN, policy, stored, NOW) == decide(PLAN, policy, observed, NOW)


@given(situations())
def test_no_verdict_holds_a_figure_that_is_none(situation):
    policy, observed = situation
    for verdict in decide(PLAN, policy, observed, NOW).verdicts:
        assert verdict.value is None or math.isfinite(verdict.value)
        assert verdict.threshold is not None
        assert "nan" not in verdict.reason


@given(situations(), st.integers(1, 50))
def test_more_errors_never_help(situation, more):
    policy, observed = situation
    theirs = observed.traffic["v2"]
    assume(theirs.errors + more <= theirs.requests)
    worse = replace(observed, traffic={**observed.traffic, "v2": replace(theirs, errors=theirs.errors + more)})
    if decide(PLAN, policy, observed, NOW).move is Move.ABORT:
        assert decide(PLAN, policy, worse, NOW).move is Move.ABORT


@given(situations(), st.integers(1, 100))
def test_waiting_alone_never_turns_an_abort_or_an_advance_into_a_hold(situation, hours):
    policy, observed = situation
    now, later = (decide(PLAN, policy, observed, at) for at in (NOW, NOW + hours * HOUR))
    if now.move is not Move.HOLD:
        assert later.move is now.move


def play(traffic_of, hours: int = 24 * 8, every: Callable[[Policy], None] = lambda policy: None) -> list[tuple[int, str, str]]:
    """Play the plan hour by hour with a clock that is moved; returns (hour, move, step) of every decision but to hold."""
    policy = Policy("fraud")
    for release in ("v1", "v2"):
        policy = policy_changes.accept(
            policy_changes.stage(policy_changes.register(policy, release, release, ME, NOW), release, ME, NOW), release, ME, NOW
        )
        policy = policy_changes.begin(policy, release, plan_steps(PLAN, policy)[0], ME, NOW)
        if release == "v1":
            policy = policy_changes.promote(policy, ME, NOW, HOUR)
    moves, entered = [], 0
    for hour in range(hours):
        now = NOW + hour * HOUR
        every(policy)
        challenger = policy.challenger
        if challenger is None:
            break
        decision = decide(PLAN, policy, traffic_of(challenger, hour - entered), now)
        if decision.move is Move.HOLD:
            if "approval" in decision.reason:
                policy = policy_changes.resume(policy, ME, now)
                moves.append((hour, "approved", challenger.step_name))
            continue
        moves.append((hour, decision.move.value, challenger.step_name))
        entered = hour
        if decision.move is Move.ADVANCE:
            index = challenger.step + 1
            policy = policy_changes.advance(policy, index, PLAN.steps[index], ME, now)
        elif decision.move is Move.PROMOTE:
            policy = policy_changes.promote(policy, ME, now, PLAN.warm_for)
        else:
            policy = policy_changes.abort(policy, ME, now)
    assert policy.challenger is None
    assert policy.weights == {policy.champion: 100}
    return moves


def shared(challenger: Challenger, hours: int, failing: float = 0.0, requests: int = 1000) -> Observation:
    """So many requests an hour, shared as the step says."""
    step = PLAN.steps[challenger.step] if challenger.step_name != "first" else Step("first", HOUR, weight=100)
    theirs = requests * (step.weight or step.mirror) * hours // 100
    ours = requests * (100 if step.mirror else 100 - step.weight) * hours // 100
    return seen(served(theirs, round(theirs * failing)), served(ours))


def good(challenger: Challenger, hours: int) -> Observation:
    return shared(challenger, hours)


def test_a_good_release_goes_all_the_way_in_the_time_its_steps_bake():
    assert play(good) == [
        (1, "advance", "shadow"),
        (25, "advance", "canary-5"),
        (49, "approved", "canary-25"),
        (50, "advance", "canary-25"),
        (74, "promote", "canary-50"),
    ]


def test_a_release_that_breaks_under_more_traffic_is_taken_out_within_the_hour():
    def broken_at_25(challenger: Challenger, hours: int) -> Observation:
        return shared(challenger, hours, 0.5 if challenger.step_name == "canary-25" else 0.0)

    assert play(broken_at_25) == [(1, "advance", "shadow"), (25, "advance", "canary-5"), (26, "abort", "canary-25")]


def test_a_release_that_nobody_asks_is_taken_out_at_the_deadline():
    assert play(lambda challenger, hours: seen(served(0), served(0))) == [(72, "abort", "shadow")]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.03, 0.2]), min_size=4, max_size=4), st.sampled_from([0, 20, 300, 1000]))
@pytest.mark.long
def test_whatever_happens_weights_come_from_the_plan_and_the_end_is_the_end(failing, requests):
    """Each step fails at its own rate; ``requests`` an hour."""
    allowed = {(100,), *((100 - step.weight, step.weight) for step in PLAN.steps if step.weight)}

    def holds(policy: Policy) -> None:
        assert tuple(weight for _, weight in sorted(policy.weights.items()) if weight) in allowed
        assert policy.challenger is None or policy.challenger.release not in policy.champions

    def traffic(challenger: Challenger, hours: int) -> Observation:
        return shared(challenger, hours, failing[challenger.step], requests)

    moves = play(traffic, every=holds)
    ends = [index for index, (_, move, _) in enumerate(moves) if move in ("abort", "promote")]
    assert ends == [len(moves) - 1]
    assert moves == play(traffic)
