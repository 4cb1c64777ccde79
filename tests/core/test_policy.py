from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.errors import IllegalChange
from mlops_assets.core.policy import Author, Policy, describe, next_waiting, stage_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHADOW, FIVE, HALF = Step("shadow", HOUR, mirror=100), Step("canary-5", HOUR, weight=5), Step("canary-50", HOUR, weight=50)
ALL = Step("first", HOUR, weight=100)
ME = Author("ada", "because")

Change = Callable[[Policy], Policy]


def registered(release: str) -> Change:
    return lambda p: policy_changes.register(p, release, f"digest of {release}", ME, NOW)


def staged(release: str) -> Change:
    return lambda p: policy_changes.stage(registered(release)(p), release, ME, NOW)


def waiting(release: str) -> Change:
    return lambda p: policy_changes.accept(staged(release)(p), release, ME, NOW)


def in_canary(release: str, step: Step = FIVE) -> Change:
    return lambda p: policy_changes.begin(waiting(release)(p), release, step, ME, NOW)


def promoted(release: str) -> Change:
    return lambda p: policy_changes.promote(in_canary(release)(p), ME, NOW, HOUR)


def played(*changes: Change) -> Policy:
    policy = Policy("fraud")
    for change in changes:
        policy = change(policy)
    return policy


def stage(release: str) -> Change:
    return lambda p: policy_changes.stage(p, release, ME, NOW)


def accept(release: str) -> Change:
    return lambda p: policy_changes.accept(p, release, ME, NOW)


def refuse(release: str) -> Change:
    return lambda p: policy_changes.refuse(p, release, ME, NOW)


def begin(release: str, step: Step = FIVE) -> Change:
    return lambda p: policy_changes.begin(p, release, step, ME, NOW)


def advance(index: int, step: Step = HALF) -> Change:
    return lambda p: policy_changes.advance(p, index, step, ME, NOW)


def rollback(to: str | None = None) -> Change:
    return lambda p: policy_changes.rollback(p, ME, NOW, to)


def restart(release: str) -> Change:
    return lambda p: policy_changes.restart(p, release, ME, NOW)


def abort(p: Policy) -> Policy:
    return policy_changes.abort(p, ME, NOW)


def promote(p: Policy) -> Policy:
    return policy_changes.promote(p, ME, NOW, HOUR)


def pause(p: Policy) -> Policy:
    return policy_changes.pause(p, ME, NOW)


def resume(p: Policy) -> Policy:
    return policy_changes.resume(p, ME, NOW + HOUR)


@pytest.mark.parametrize(
    ("before", "change", "what"),
    [
        ([registered("v1")], stage("v1"), "v1 staging"),
        ([staged("v1")], accept("v1"), "v1 waiting"),
        ([waiting("v1")], begin("v1", ALL), "champion none, challenger v1 at first"),
        ([registered("v1")], refuse("v1"), "champion none"),
        ([staged("v1")], refuse("v1"), "champion none"),
        ([waiting("v1")], refuse("v1"), "champion none"),
        ([in_canary("v1")], promote, "champion v1"),
        ([in_canary("v1")], abort, "champion none"),
        ([promoted("v1"), in_canary("v2")], advance(1), "champion v1, challenger v2 at canary-50"),
        ([promoted("v1"), in_canary("v2")], pause, "champion v1, challenger v2 at canary-5, paused"),
        ([promoted("v1"), in_canary("v2"), pause], resume, "champion v1, challenger v2 at canary-5"),
        ([promoted("v1"), in_canary("v2"), pause], abort, "champion v1"),
        ([promoted("v1"), in_canary("v2"), pause], promote, "champion v2"),
        ([promoted("v1"), promoted("v2")], rollback(), "champion v1"),
        ([promoted("v1"), promoted("v2"), in_canary("v3")], rollback(), "champion v1"),
        ([promoted("v1"), promoted("v2"), promoted("v3")], rollback("v1"), "champion v1"),
        ([promoted("v1"), promoted("v2"), rollback()], rollback("v2"), "champion v2"),
        ([in_canary("v1"), waiting("v2")], refuse("v2"), "challenger v1 at canary-5"),
        ([in_canary("v1"), abort], restart("v1"), "champion none, v1 waiting"),
        ([promoted("v1"), in_canary("v2"), abort], restart("v2"), "champion v1, v2 waiting"),
    ],
)
def test_a_legal_change_leads_where_it_says(before, change, what):
    policy = played(*before)
    after = change(policy)
    assert what in describe(after)
    assert after.generation == policy.generation + len(after.log) - len(policy.log) > policy.generation


@pytest.mark.parametrize(
    ("before", "change", "message"),
    [
        ([], stage("v1"), "v1 of fraud cannot be staging: expected it to be registered"),
        ([registered("v1")], accept("v1"), "cannot be waiting: expected it to be staging, got: champion none, v1 registered"),
        ([waiting("v1")], stage("v1"), "cannot be staging"),
        ([in_canary("v1")], stage("v1"), "cannot be staging"),
        ([], refuse("v1"), "v1 of fraud is not a candidate"),
        ([in_canary("v1")], refuse("v1"), "not a candidate"),
        ([staged("v1")], begin("v1"), "does not wait for a canary: champion none, v1 staging"),
        ([in_canary("v1"), waiting("v2")], begin("v2"), "has a release in canary already: .* Abort it first"),
        ([promoted("v1")], begin("v1"), "does not wait for a canary"),
        ([in_canary("v1"), abort], begin("v1"), "does not wait for a canary"),
        ([in_canary("v1")], advance(0), "v1 is at step 0 .*, the next is 1, got 0"),
        ([in_canary("v1")], advance(2), "the next is 1, got 2"),
        ([in_canary("v1"), pause], advance(1), "v1 is paused: 'mlops resume fraud' first"),
        ([promoted("v1")], advance(1), "no release in canary"),
        ([promoted("v1")], abort, "no release in canary"),
        ([waiting("v1")], promote, "no release in canary"),
        ([], pause, "no release in canary"),
        ([], resume, "no release in canary"),
        ([in_canary("v1")], rollback(), "no release in production"),
        ([promoted("v1")], rollback(), "v1 is the first release of fraud.* What can be done: train and promote another"),
        ([promoted("v1"), promoted("v2")], rollback("v2"), "v2 of fraud is in production already: name another release with --to"),
        ([promoted("v1"), promoted("v2"), rollback()], rollback("v1"), "v1 of fraud is in production already"),
        ([promoted("v1"), promoted("v2"), in_canary("v3")], rollback("v2"), "already: 'mlops abort fraud' ends the canary there is"),
        ([promoted("v1"), promoted("v2")], rollback("v9"), "v9 of fraud was never in production.* expected one of v1, v2"),
        ([promoted("v1"), in_canary("v2"), abort], rollback("v2"), "was never in production"),
        ([promoted("v1"), promoted("v2"), rollback()], rollback(), "v1 is the first release"),
        ([promoted("v1"), registered("v2"), refuse("v2")], restart("v2"), "v2 of fraud was not aborted, got refuse"),
        ([promoted("v1")], restart("v9"), "v9 of fraud was not aborted, got no such release"),
        ([promoted("v1")], restart("v1"), "not aborted, got promote"),
        ([in_canary("v1"), abort, promoted("v2")], restart("v1"), "v1 of fraud was overtaken by v2: train a new release"),
        ([in_canary("v1"), abort, in_canary("v2")], restart("v1"), "overtaken by v2"),
        ([registered("v1")], lambda p: policy_changes.register(p, "v1", "other", ME, NOW), "got other: register a new version"),
    ],
)
def test_an_illegal_change_is_refused_with_the_way_out(before, change, message):
    policy = played(*before)
    with pytest.raises(IllegalChange, match=message):
        change(policy)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ([registered("v1")], registered("v1")),
        ([promoted("v1")], registered("v1")),
        ([staged("v1")], stage("v1")),
        ([waiting("v1")], accept("v1")),
        ([registered("v1"), refuse("v1")], refuse("v1")),
        ([in_canary("v1"), pause], pause),
        ([in_canary("v1"), resume], resume),
        ([in_canary("v1"), abort, restart("v1")], restart("v1")),
    ],
)
def test_what_was_done_may_be_done_again_without_a_trace(before, change):
    policy = played(*before)
    assert change(policy) == policy


def test_an_aborted_release_that_is_begun_again_is_at_its_next_attempt():
    policy = played(promoted("v1"), in_canary("v2", SHADOW), advance(1, FIVE), abort, restart("v2"))
    assert next_waiting(policy) == "v2"
    begun = begin("v2", SHADOW)(policy)
    assert (begun.challenger.attempt, begun.challenger.step) == (2, 0)


def test_the_newest_waiting_release_is_next_and_overtakes_the_older():
    policy = played(waiting("v9"), waiting("v10"), waiting("v11"), refuse("v11"))
    assert next_waiting(policy) == "v10"
    begun = begin("v10", ALL)(policy)
    assert begun.candidates == ()
    assert begun.log[-2].action == "refuse"
    assert begun.log[-2].author.why == "overtaken by v10"


def test_a_shadow_step_has_copies_and_no_traffic():
    policy = played(promoted("v1"), in_canary("v2", SHADOW))
    assert (policy.weights, policy.mirror) == ({"v1": 100}, policies.Mirror("v2", 100))
    assert policy.live_releases(NOW) == {"v1", "v2"}
    after = advance(1, FIVE)(policy)
    assert (after.weights, after.mirror) == ({"v1": 95, "v2": 5}, None)


def test_a_first_release_has_all_traffic_at_once_whatever_its_step():
    assert played(in_canary("v1", FIVE)).weights == {"v1": 100}
    assert played(in_canary("v1", SHADOW)).weights == {"v1": 100}
    assert played(in_canary("v1"), abort).weights == {}


def test_the_release_before_stays_warm_for_as_long_as_promised():
    policy = played(promoted("v1"), promoted("v2"))
    assert policy.live_releases(NOW + HOUR / 2) == {"v1", "v2"}
    assert policy.live_releases(NOW + HOUR) == {"v2"}


def test_a_rollback_ends_the_canary_and_logs_its_end():
    policy = played(promoted("v1"), promoted("v2"), in_canary("v3"), rollback())
    assert (policy.champion, policy.challenger, policy.weights) == ("v1", None, {"v1": 100})
    assert [(change.action, change.release, change.left) for change in policy.log[-2:]] == [("abort", "v3", "v3"), ("rollback", "v1", "v2")]
    assert policy.log[-2].author.why == "v2 is rolled back: because"


def test_a_rolled_back_release_is_never_the_default_to_go_back_to():
    policy = played(promoted("v1"), promoted("v2"), rollback(), promoted("v3"))
    assert policy.previous == "v1"
    assert rollback()(policy).champion == "v1"


def test_a_resumed_canary_bakes_anew_and_is_not_approved_by_it():
    policy = played(promoted("v1"), in_canary("v2"), pause, resume)
    assert (policy.challenger.entered_at, policy.challenger.resumed_step) == (NOW + HOUR, None)
    approved = resume(policy)
    assert (approved.challenger.entered_at, approved.challenger.resumed_step) == (NOW + HOUR, 0)


def test_an_approval_is_of_one_step_only():
    policy = played(promoted("v1"), in_canary("v2"), resume, advance(1))
    assert policy.challenger.resumed_step != policy.challenger.step


@pytest.mark.parametrize(
    ("before", "stage"),
    [
        ([registered("v1")], "None"),
        ([staged("v1")], "Staging"),
        ([waiting("v1")], "Staging"),
        ([in_canary("v1")], "Staging"),
        ([promoted("v1")], "Production"),
        ([promoted("v1"), promoted("v2")], "Archived"),
        ([registered("v1"), refuse("v1")], "Archived"),
        ([in_canary("v1"), abort], "Archived"),
    ],
)
def test_the_registry_shows_the_stage_a_release_is_in(before, stage):
    assert stage_of(played(*before), "v1") == stage


class AnyHistory(RuleBasedStateMachine):
    """Any changes in any order by anybody: what is refused changes nothing, and what is not leaves a sound policy."""

    @initialize()
    def start(self) -> None:
        self.policy, self.now, self.released = Policy("fraud"), NOW, 0
        self.were_champion: set[str] = set()

    def try_to(self, change: Change) -> None:
        self.now += timedelta(minutes=10)
        before = self.policy
        try:
            after = change(before)
        except IllegalChange:
            return
        assert after.log[: len(before.log)] == before.log, "history is only ever added to"
        assert after.generation - before.generation == len(after.log) - len(before.log)
        if after == before:
            return
        self.policy = after
        if after.champion:
            if after.log[-1].action == "rollback":
                assert after.champion in self.were_champion
            self.were_champion.add(after.champion)

    def any_release(self, pick: int) -> str:
        return f"v{1 + pick % (self.released + 1)}"

    @rule()
    def a_new_release_is_registered(self) -> None:
        self.released += 1
        release = f"v{self.released}"
        self.try_to(lambda p: policy_changes.register(p, release, f"digest of {release}", ME, self.now))

    @rule()
    def a_new_release_waits(self) -> None:
        self.a_new_release_is_registered()
        release = f"v{self.released}"
        self.try_to(lambda p: policy_changes.stage(p, release, ME, self.now))
        self.try_to(lambda p: policy_changes.accept(p, release, ME, self.now))

    @rule()
    def a_new_release_goes_all_the_way(self) -> None:
        self.a_new_release_waits()
        release = f"v{self.released}"
        self.try_to(lambda p: policy_changes.begin(p, release, FIVE, ME, self.now))
        self.try_to(lambda p: policy_changes.promote(p, ME, self.now, HOUR))

    @rule(pick=st.integers(0, 9))
    def one_is_staged(self, pick: int) -> None:
        self.try_to(lambda p: policy_changes.stage(p, self.any_release(pick), ME, self.now))

    @rule(pick=st.integers(0, 9))
    def one_is_accepted(self, pick: int) -> None:
        self.try_to(lambda p: policy_changes.accept(p, self.any_release(pick), ME, self.now))

    @rule(pick=st.integers(0, 9))
    def one_is_refused(self, pick: int) -> None:
        self.try_to(lambda p: policy_changes.refuse(p, self.any_release(pick), ME, self.now))

    @rule(pick=st.integers(0, 9), step=st.sampled_from([SHADOW, FIVE]))
    def one_begins(self, pick: int, step: Step) -> None:
        self.try_to(lambda p: policy_changes.begin(p, self.any_release(pick), step, ME, self.now))

    @precondition(lambda self: next_waiting(self.policy) is not None)
    @rule(step=st.sampled_from([SHADOW, FIVE]))
    def the_next_begins(self, step: Step) -> None:
        release = next_waiting(self.policy)
        assert release is not None
        self.try_to(lambda p: policy_changes.begin(p, release, step, ME, self.now))

    @rule(index=st.integers(0, 3), step=st.sampled_from([FIVE, HALF]))
    def it_advances(self, index: int, step: Step) -> None:
        self.try_to(lambda p: policy_changes.advance(p, index, step, ME, self.now))

    @rule()
    def it_is_aborted(self) -> None:
        self.try_to(lambda p: policy_changes.abort(p, ME, self.now))

    @rule(pick=st.integers(0, 9))
    def one_is_restarted(self, pick: int) -> None:
        self.try_to(lambda p: policy_changes.restart(p, self.any_release(pick), ME, self.now))

    @rule(warm=st.sampled_from([timedelta(0), HOUR]))
    def it_is_promoted(self, warm: timedelta) -> None:
        self.try_to(lambda p: policy_changes.promote(p, ME, self.now, warm))

    @rule(pick=st.one_of(st.none(), st.integers(0, 9)))
    def the_champion_is_rolled_back(self, pick: int | None) -> None:
        self.try_to(lambda p: policy_changes.rollback(p, ME, self.now, None if pick is None else self.any_release(pick)))

    @rule()
    def it_is_paused(self) -> None:
        self.try_to(lambda p: policy_changes.pause(p, ME, self.now))

    @rule()
    def it_is_resumed(self) -> None:
        self.try_to(lambda p: policy_changes.resume(p, ME, self.now))

    @invariant()
    def all_units_are_answered_or_nothing_is_live(self) -> None:
        policy = self.policy
        assert sum(policy.weights.values()) == (100 if policy.champion or policy.challenger else 0)
        assert all(weight > 0 for weight in policy.weights.values())

    @invariant()
    def only_champion_and_challenger_have_traffic_or_copies(self) -> None:
        policy = self.policy
        challenger = policy.challenger.release if policy.challenger else None
        assert set(policy.weights) <= {policy.champion, challenger}
        assert policy.mirror is None or policy.mirror.release == challenger
        if challenger and policy.champion:
            assert (challenger in policy.weights) != (policy.mirror is not None)

    @invariant()
    def every_generation_is_logged_once(self) -> None:
        assert [change.generation for change in self.policy.log] == list(range(1, self.policy.generation + 1))

    @invariant()
    def times_in_the_log_never_go_back(self) -> None:
        times = [change.at for change in self.policy.log]
        assert times == sorted(times)

    @invariant()
    def a_release_is_in_one_place_only(self) -> None:
        policy = self.policy
        places = [candidate.release for candidate in policy.candidates]
        places += [policy.challenger.release] if policy.challenger else []
        places += policy.champions
        assert len(places) == len(set(places))
        assert set(places) <= set(policy.digests)

    @invariant()
    def each_step_of_each_attempt_is_entered_once(self) -> None:
        entered = [(c.release, c.attempt, c.step) for c in self.policy.log if c.action in ("begin", "advance")]
        assert len(entered) == len(set(entered))

    @invariant()
    def whoever_is_live_runs(self) -> None:
        policy = self.policy
        live = policy.live_releases(self.now)
        assert set(policy.weights) <= live
        assert policy.challenger is None or policy.challenger.release in live
        assert not set(policy.warm) & set(policy.weights), "what has traffic needs no warmth"

    @invariant()
    def every_canary_that_began_has_one_end(self) -> None:
        open_canaries: list[str] = []
        for change in self.policy.log:
            if change.action == "begin":
                open_canaries.append(change.release)
            elif change.action in ("abort", "promote"):
                assert open_canaries == [change.release]
                open_canaries.clear()
        assert open_canaries == ([self.policy.challenger.release] if self.policy.challenger else [])

    @invariant()
    def every_release_has_a_stage(self) -> None:
        stages = [stage_of(self.policy, release) for release in self.policy.digests]
        assert stages.count("Production") == (1 if self.policy.champion else 0)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_the_list_of_champions_stays_short_and_the_log_remembers_all():
    policy = played(*(promoted(f"v{number}") for number in range(1, 14)))
    assert policy.champions == tuple(f"v{number}" for number in range(4, 14))
    back = rollback("v1")(policy)
    assert (back.champion, back.previous) == ("v1", "v12")


def test_a_change_says_what_its_release_has_after_it():
    policy = played(promoted("v1"), in_canary("v2", SHADOW), advance(1, FIVE), abort)
    assert [(change.action, change.weight, change.mirror) for change in policy.log[-3:]] == [
        ("begin", 0, 100),
        ("advance", 5, 0),
        ("abort", 0, 0),
    ]


def retired(policy: Policy) -> Policy:
    return policy_changes.retire(policy, ME, NOW)


def reinstated(policy: Policy) -> Policy:
    return policy_changes.reinstate(policy, ME, NOW)


def test_a_retired_model_has_nothing_live_and_comes_back_as_it_was() -> None:
    before = played(promoted("v1"), promoted("v2"), waiting("v3"))
    gone = retired(before)
    assert (gone.champion, gone.previous, dict(gone.weights), gone.live_releases(NOW)) == (None, None, {}, frozenset())
    assert (next_waiting(gone), stage_of(gone, "v2")) == (None, "Archived")
    assert gone.log[-1].left == "v2"
    assert retired(gone) == gone
    back = reinstated(gone)
    assert (back.champion, back.previous, back.weights, next_waiting(back)) == ("v2", "v1", {"v2": 100}, "v3")
    assert reinstated(back) == back
    assert [change.action for change in back.log[-2:]] == ["retire", "reinstate"]


def test_a_canary_under_way_is_aborted_before_its_model_is_retired() -> None:
    gone = retired(played(promoted("v1"), in_canary("v2")))
    assert (gone.challenger, [change.action for change in gone.log[-2:]]) == (None, ["abort", "retire"])
    assert reinstated(gone).weights == {"v1": 100}


@pytest.mark.parametrize(
    "change",
    [stage("v4"), begin("v3"), rollback(), rollback("v1"), lambda p: policy_changes.restart(p, "v5", ME, NOW)],
    ids=["stage", "begin", "rollback", "rollback to v1", "restart"],
)
def test_what_would_make_a_retired_model_live_is_refused(change: Change) -> None:
    gone = retired(played(promoted("v1"), promoted("v2"), waiting("v3"), registered("v4")))
    with pytest.raises(IllegalChange, match="is retired: 'mlops reinstate fraud"):
        change(gone)


def test_a_training_that_ends_after_its_model_was_retired_is_registered_and_waits() -> None:
    gone = played(promoted("v1"), retired, registered("v2"))
    assert (gone.live_releases(NOW), describe(gone)) == (frozenset(), "retired since 2026-01-01, last champion v1")
    assert reinstated(gone).candidate("v2") is not None


@pytest.mark.parametrize("change", [retired, reinstated])
def test_a_model_without_a_release_is_neither_retired_nor_reinstated(change: Change) -> None:
    with pytest.raises(IllegalChange, match="fraud has no release yet"):
        change(Policy("fraud"))
