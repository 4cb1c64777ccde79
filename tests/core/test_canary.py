from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from mlops_assets.core import policy as policies
from mlops_assets.core.canary import Move, _at_least, decide, judge, plan_steps
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, SCORE_BINS, Observation, Traffic
from mlops_assets.core.model_spec import Canary, Guardrails, Step
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
)
ME = Author("ada", "because")
NAMES = ("error_rate", "error_increase", "latency", "score_shift")


def served(requests: int, errors: int = 0, milliseconds: float = 25) -> Traffic:
    bucket = next(index for index, bound in enumerate(LATENCY_BOUNDS_MS) if milliseconds <= bound)
    return Traffic(requests, errors, tuple(requests if index == bucket else 0 for index in range(len(LATENCY_BOUNDS_MS) + 1)))


def scores(count: int, lowest: int = 0) -> tuple[int, ...]:
    """``count`` scores, spread evenly over the ten bins from ``lowest``."""
    return tuple(count // 10 if lowest <= index < lowest + 10 else 0 for index in range(SCORE_BINS))


def seen(challenger: Traffic, champion: Traffic | None = None, theirs=None, ours=None) -> Observation:
    champion = champion or served(2000)
    scored = {"v2": scores(challenger.requests) if theirs is None else theirs, "v1": scores(champion.requests) if ours is None else ours}
    return Observation(NOW, NOW, {"v2": challenger, "v1": champion}, scored)


def in_canary(step: int = 1, entered: timedelta = 30 * HOUR, **fields) -> Policy:
    """v1 in production and v2 in canary, in this step since ``entered``."""
    challenger = Challenger("v2", 1, step, PLAN.steps[step].name, NOW - entered, **fields)
    return Policy("fraud", 9, ("v1",), challenger)


GOOD = seen(served(1000))


@pytest.mark.parametrize(
    ("policy", "observed", "move", "reason"),
    [
        (in_canary(), GOOD, "advance", "canary-5 passed every guardrail"),
        (in_canary(entered=23 * HOUR), GOOD, "hold", "baking at canary-5 until 2026-01-01 01:00:00"),
        (in_canary(entered=24 * HOUR), GOOD, "advance", "passed"),
        (in_canary(step=3), GOOD, "promote", "canary-50, the last step, passed every guardrail"),
        (in_canary(step=2), GOOD, "hold", "asks for a person's approval: mlops resume fraud"),
        (in_canary(step=2, resumed_step=2), GOOD, "advance", "passed"),
        (in_canary(step=2, resumed_step=1), GOOD, "hold", "approval"),
        (in_canary(step=2, entered=100 * HOUR), GOOD, "hold", "approval"),
        (in_canary(), Observation(NOW, NOW), "hold", "error_rate: 0 of the 100 requests that the challenger needs"),
        (in_canary(), seen(served(99)), "hold", "99 of the 100 requests"),
        (in_canary(), seen(served(100)), "advance", "passed"),
        (in_canary(), seen(served(1000), served(99)), "hold", "latency: 99 of the 100 requests that the champion needs"),
        (in_canary(), seen(served(1000), theirs=scores(90)), "hold", "score_shift: 90 of the 100"),
        (in_canary(), seen(served(1000), ours=()), "hold", "score_shift: 0 of the 100 requests that the champion needs"),
        (in_canary(entered=72 * HOUR), seen(served(99)), "abort", "past the deadline of 3 days, 0:00:00: error_rate: 99 of the 100"),
        (in_canary(entered=72 * HOUR), Observation(NOW, NOW), "abort", "past the deadline"),
        (in_canary(entered=72 * HOUR), GOOD, "advance", "passed"),
        (in_canary(paused=True), GOOD, "hold", "paused by a person"),
        (in_canary(paused=True, entered=100 * HOUR), seen(served(5)), "hold", "paused by a person"),
        (in_canary(paused=True), seen(served(1000, 60)), "abort", "60 of 1000 requests failed"),
        (in_canary(), seen(served(1000, 60), served(2000, 120)), "abort", "60 of 1000 requests failed (6.00%), above the limit of 0.05"),
        (in_canary(), seen(served(1000, 50), served(2000, 100)), "advance", "passed"),
        (in_canary(), seen(served(1000, 20), served(2000, 10)), "abort", "the error rate is +1.50% from the champion's, above"),
        (in_canary(), seen(served(1000, milliseconds=100)), "abort", "a ratio of 3.35, above the limit of 2"),
        (in_canary(), seen(served(1000, milliseconds=7), served(2000, milliseconds=1)), "advance", "passed"),
        (in_canary(), seen(served(1000), theirs=scores(1000, lowest=20)), "abort", "PSI of the scores against the champion's is"),
        (in_canary(entered=HOUR), seen(served(6, 6)), "abort", "6 of 6 requests failed (100.00%), above"),
        (in_canary(entered=HOUR), seen(served(5, 5)), "hold", "5 of the 100 requests"),
        (in_canary(entered=72 * HOUR), seen(served(1000, 60)), "abort", "60 of 1000 requests failed"),
        (in_canary(entered=HOUR), seen(served(1000, milliseconds=100)), "abort", "ratio"),
    ],
)
def test_a_canary_moves_for_a_reason_that_a_person_understands(policy, observed, move, reason):
    decision = decide(PLAN, policy, observed, NOW)
    assert decision.move == move
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("observed", "name"),
    [
        (seen(served(1000, 60), served(2000, 120)), "error_rate"),
        (seen(served(1000, 20)), "error_increase"),
        (seen(served(1000, milliseconds=200)), "latency"),
        (seen(served(1000), theirs=scores(1000, lowest=30)), "score_shift"),
    ],
)
def test_each_guardrail_fails_by_itself(observed, name):
    verdicts = decide(PLAN, in_canary(), observed, NOW).verdicts
    assert [verdict.name for verdict in verdicts] == list(NAMES)
    assert [verdict.name for verdict in verdicts if verdict.outcome is Outcome.FAIL] == [name]


def test_scores_too_few_to_tell_a_shift_from_chance_hold():
    plan = replace(PLAN, steps=(replace(PLAN.steps[1], min_requests=20),))
    skewed = tuple(10 if index < 2 else 2 if index < 10 else 0 for index in range(SCORE_BINS))
    few, many = (seen(served(36), served(40), tuple(n * times for n in skewed), scores(40 * times)) for times in (1, 50))
    assert decide(plan, in_canary(step=0), few, NOW).move is Move.HOLD
    assert "by chance" in decide(plan, in_canary(step=0), few, NOW).reason
    assert decide(plan, in_canary(step=0), many, NOW).move is Move.ABORT


def test_scores_of_the_same_model_seldom_abort_its_canary_even_at_the_fewest_requests():
    generator, runs = np.random.default_rng(6), 2000
    share = generator.dirichlet([0.5] * SCORE_BINS)
    step, guardrails = PLAN.steps[1], PLAN.guardrails
    failed = 0
    for _ in range(runs):
        theirs, ours = (tuple(int(n) for n in generator.multinomial(100, share)) for _ in range(2))
        verdicts = judge(guardrails, step, "v1", "v2", seen(served(100), served(100), theirs, ours))
        failed += verdicts[-1].outcome is Outcome.FAIL
    assert failed <= binom.ppf(0.9999, runs, 0.002)


def test_a_release_as_good_as_its_champion_is_seldom_taken_out_for_its_errors_however_often_one_looks():
    generator, runs, aborted = np.random.default_rng(12), 400, 0
    for _ in range(runs):
        theirs, ours = generator.binomial(50, 0.01, 40).cumsum(), generator.binomial(950, 0.01, 40).cumsum()
        looks = (seen(served(50 * n, int(theirs[n - 1])), served(950 * n, int(ours[n - 1]))) for n in range(2, 41))
        aborted += any(judge(PLAN.guardrails, PLAN.steps[1], "v1", "v2", look)[1].outcome is Outcome.FAIL for look in looks)
    assert aborted / runs < 0.02


def test_one_unlucky_error_holds_and_many_abort():
    few = decide(PLAN, in_canary(), seen(served(100, 2)), NOW)
    assert (few.move, few.verdicts[1].outcome) == (Move.HOLD, Outcome.INCONCLUSIVE)
    assert "+2.00% from the champion's, above the limit of 0.01, but 2 errors of both may fall so by chance" in few.reason
    assert decide(PLAN, in_canary(), seen(served(100, 5)), NOW).move is Move.ABORT


@pytest.mark.parametrize(("found", "draws", "share"), [(0, 10, 0.3), (1, 1, 0.5), (3, 50, 0.05), (40, 900, 0.03), (600, 10_000, 0.05)])
def test_the_chance_of_so_many_errors_is_the_binomial_one(found, draws, share):
    assert _at_least(found, draws, share) == pytest.approx(binom.sf(found - 1, draws, share), rel=1e-6)


def test_a_quantile_near_one_is_named_as_it_is():
    guardrails = replace(PLAN.guardrails, latency_quantile=0.999)
    assert "p99.9 is" in judge(guardrails, PLAN.steps[1], "v1", "v2", GOOD)[2].reason


def first_release(entered: timedelta) -> Policy:
    return Policy("fraud", 3, (), Challenger("v2", 1, 0, "first", NOW - entered), weights={"v2": 100})


@pytest.mark.parametrize(
    ("entered", "observed", "move"),
    [
        (3 * HOUR, seen(served(1000, 10, milliseconds=900)), "promote"),
        (HOUR, seen(served(1000)), "hold"),
        (3 * HOUR, seen(served(1000, 51)), "abort"),
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
        draw(traffics()),
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
def test_the_same_evidence_decides_the_same(situation):
    policy, observed = situation
    assert decide(PLAN, policy, observed, NOW) == decide(PLAN, policy, observed, NOW)


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


def play(traffic_of, hours: int = 24 * 8) -> list[tuple[int, str, str]]:
    """Play the plan hour by hour with a clock that is moved; returns (hour, move, step) of every decision but to hold."""
    policy = Policy("fraud")
    for release in ("v1", "v2"):
        policy = policies.accept(policies.stage(policies.register(policy, release, release, ME, NOW), release, ME, NOW), release, ME, NOW)
        policy = policies.begin(policy, release, plan_steps(PLAN, policy)[0], ME, NOW)
        if release == "v1":
            policy = policies.promote(policy, ME, NOW, HOUR)
    moves, entered = [], 0
    for hour in range(hours):
        now = NOW + hour * HOUR
        challenger = policy.challenger
        if challenger is None:
            break
        decision = decide(PLAN, policy, traffic_of(challenger, hour - entered), now)
        if decision.move is Move.HOLD:
            if "approval" in decision.reason:
                policy = policies.resume(policy, ME, now)
                moves.append((hour, "approved", challenger.step_name))
            continue
        moves.append((hour, decision.move.value, challenger.step_name))
        entered = hour
        if decision.move is Move.ADVANCE:
            index = challenger.step + 1
            policy = policies.advance(policy, index, PLAN.steps[index], ME, now)
        elif decision.move is Move.PROMOTE:
            policy = policies.promote(policy, ME, now, PLAN.warm_for)
        else:
            policy = policies.abort(policy, ME, now)
    assert policy.challenger is None
    assert policy.weights == {policy.champion: 100}
    return moves


def test_a_good_release_goes_all_the_way_in_the_time_its_steps_bake():
    assert play(lambda challenger, hours: seen(served(100 * hours), served(900 * hours))) == [
        (1, "advance", "shadow"),
        (25, "advance", "canary-5"),
        (49, "approved", "canary-25"),
        (50, "advance", "canary-25"),
        (74, "promote", "canary-50"),
    ]


def test_a_release_that_breaks_under_more_traffic_is_taken_out_within_the_hour():
    def broken_at_25(challenger: Challenger, hours: int) -> Observation:
        return seen(served(100 * hours, 50 * hours if challenger.step_name == "canary-25" else 0), served(900 * hours))

    assert play(broken_at_25) == [(1, "advance", "shadow"), (25, "advance", "canary-5"), (26, "abort", "canary-25")]


def test_a_release_that_nobody_asks_is_taken_out_at_the_deadline():
    assert play(lambda challenger, hours: seen(served(0), served(0))) == [(72, "abort", "shadow")]


def test_guardrails_off_by_a_hair_pass_at_their_limit():
    guardrails = Guardrails(max_error_rate=0.05, max_error_increase=0.05)
    assert combine(judge(guardrails, PLAN.steps[1], "v1", "v2", seen(served(1000, 50)))) is Outcome.PASS
    assert combine(judge(guardrails, PLAN.steps[1], "v1", "v2", seen(served(1000, 51)))) is Outcome.FAIL
