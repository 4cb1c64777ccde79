"""A champion that breaks in production: its budget burns, and it leaves by itself, or a person is woken."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from mlops_assets.adapters.codec import decode
from mlops_assets.core.alert import Alert
from mlops_assets.core.policy import Author
from mlops_assets.core.slo import History, judge, pages
from mlops_assets.core.slo_spec import Slo
from mlops_assets.operations import Operator
from mlops_assets.replay import replay_release
from tests.assets.gifts import DAYS, HOUR, NAME, Gifts, Moods, assert_settled
from tests.world import World

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="session")
def strict(shop: Gifts) -> Gifts:
    """The same model, which is to be rolled back by itself."""
    return Gifts(replace(shop.spec, slo=Slo(on_slo_violation="rollback")), shop.sample)


@pytest.fixture(scope="session")
def two_releases(strict: Gifts) -> World:
    """v2 serves, v1 did before. Copy it, don't change it."""
    world, _ = strict.copy(strict.with_first_release())
    strict.land(world, DAYS + 2)
    strict.go_on(world, [5, 7, 7, 9])
    assert world.policy(NAME).champions == ("v1", "v2")
    return world


@pytest.fixture
def broken(strict: Gifts, two_releases: World) -> tuple[World, Moods]:
    """Nobody has asked for some hours."""
    world, moods = strict.copy(two_releases)
    world.tick("slo", "failed_runs")
    world.clock.advance(12 * HOUR)
    world.tick("slo")
    return world, moods


def break_down(strict: Gifts, world: World, moods: Moods, release: str = "v2") -> None:
    """The release answers 500 from now on, and is asked."""
    strict.serve(world, 500)
    world.clock.advance(2 * MINUTE)
    moods.raising.add(release)
    strict.serve(world, 1000)


def rollbacks(world: World) -> list[tuple[str, str, str | None]]:
    return [(change.author.who, change.release, change.left) for change in world.policy(NAME).log if change.action == "rollback"]


def outcomes(world: World) -> list[bool]:
    """Every outcome of the check ``slo``, oldest first."""
    check = dg.AssetCheckKey(dg.AssetKey(["gift_returns", "slo_report"]), "slo")
    records = world.instance.event_log_storage.get_asset_check_execution_history(check_key=check, limit=100)
    return [record.evaluation.passed for record in reversed(records) if record.evaluation]


def test_a_champion_that_burns_its_budget_leaves_by_itself_and_the_reason_says_why_and_where(
    strict: Gifts, broken: tuple[World, Moods]
) -> None:
    world, moods = broken
    break_down(strict, world, moods)
    assert world.tick("slo") == 1
    assert world.policy(NAME).champion == "v1"
    assert rollbacks(world) == [("slo sensor", "v1", "v2")]
    change = world.policy(NAME).log[-1]
    assert "1000 of 1500 requests of v2 failed over 1 h: availability burns 667 times as fast" in change.author.why
    assert "/assets/gift_returns/slo_report" in change.author.why
    record = world.materializations(NAME, "rollback", "v2")[-1]
    assert record.metadata["link"].value.endswith("/assets/gift_returns/slo_report")
    history = decode(History, world.objects.get(change.author.evidence), "evidence")
    assert pages(strict.spec.slo, judge(strict.spec.slo, history, "v2", world.clock()))
    assert (strict.serve(world, 300)["status"] == 200).all()
    world.settle()
    assert_settled(world)
    assert outcomes(world)[-2:] == [False, True]


def test_a_replay_does_not_take_what_led_to_a_rollback_for_a_canary_s_evidence(strict: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    break_down(strict, world, moods)
    world.tick("slo")
    replayed = replay_release(world.platform, NAME, "v1", None)
    assert all(one.same for one in replayed)


def test_the_next_champion_that_burns_waits_for_the_cooldown_and_a_person_is_woken_once(strict: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    Operator(world.platform, NAME, Author("ada", "to have three")).rollback("v1")
    Operator(world.platform, NAME, Author("ada", "and back")).rollback("v2")
    break_down(strict, world, moods)
    world.tick("slo")
    world.tick("slo")
    assert world.policy(NAME).champion == "v2"
    [(told, alert)] = world.pager.told
    assert (told, alert.cause, alert.severity, alert.labels) == ("trigger", "rollback-refused", "page", {"release": "v2"})
    assert "It is not rolled back by itself: " in alert.summary
    moods.raising.clear()
    for _ in range(8):
        world.clock.advance(10 * MINUTE)
        strict.serve(world, 300)
        world.tick("slo")
    assert [told for told, _ in world.pager.told] == ["trigger", "resolve"]
    assert world.policy(NAME).champion == "v2"


def test_the_first_release_pages_since_there_is_nothing_to_go_back_to(strict: Gifts) -> None:
    world, moods = strict.copy(strict.with_first_release())
    world.tick("slo")
    break_down(strict, world, moods, "v1")
    assert world.tick("slo") == 0
    [(_, alert)] = world.pager.told
    assert "v1 has no release before it to go back to" in alert.summary


def test_an_alert_that_fires_for_the_champion_is_enough(strict: Gifts, broken: tuple[World, Moods]) -> None:
    world, _ = broken
    fires = Alert(
        "AvailabilityBurnsFast", NAME, "slo-availability", "page", "3 % fail", "http://prometheus/graph?x", labels={"release": "v1"}
    )
    world.pager.fire([fires], world.clock() + HOUR)
    assert world.tick("slo") == 0  # of another release
    world.pager.fire([replace(fires, severity="ticket", labels={"release": "v2"})], world.clock() + HOUR)
    assert world.tick("slo") == 0
    world.pager.fire([replace(fires, labels={"release": "v2"})], world.clock() + HOUR)
    assert world.tick("slo") == 1
    assert world.policy(NAME).champion == "v1"
    change = world.policy(NAME).log[-1]
    assert change.author.why.startswith("the alert AvailabilityBurnsFast fires since ")
    assert change.author.why.endswith("3 % fail: http://prometheus/graph?x")


def test_who_declares_page_is_never_rolled_back(shop: Gifts) -> None:
    world, moods = shop.copy(shop.with_first_release())
    world.tick("slo")
    break_down(shop, world, moods, "v1")
    world.tick("slo")
    assert (world.pager.told, rollbacks(world)) == ([], [])


def test_while_a_run_of_its_releases_is_under_way_nothing_is_decided(strict: Gifts, broken: tuple[World, Moods]) -> None:
    from mlops_assets.sensors.slo import look_at_slo
    from mlops_assets.sensors.tick import Tick

    world, moods = broken
    break_down(strict, world, moods)
    tick = Tick(world.instance, world.platform, frozenset({(NAME, "release")}), {})
    look_at_slo(tick, strict.spec)
    assert (tick.requests, tick.events) == ([], [])


def test_a_canary_under_way_is_aborted_and_its_champion_rolled_back(strict: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    assert strict.train(world).success
    world.settle()
    assert world.policy(NAME).challenger is not None
    break_down(strict, world, moods)
    world.tick("slo")
    policy = world.policy(NAME)
    assert (policy.champion, policy.challenger) == ("v1", None)
    assert [change.action for change in policy.log[-2:]] == ["abort", "rollback"]
    assert policy.log[-2].author.evidence is None


def test_the_report_says_how_much_of_the_budget_is_left(strict: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    break_down(strict, world, moods)
    assert world.materialize(NAME, "slo_report").success
    found = {name: value.value for name, value in world.materializations(NAME, "slo_report")[-1].metadata.items() if name != "verdicts"}
    assert (found["release"], found["errors"], found["slow"]) == ("v2", 1000, 0)
    assert found["budget_left_availability"] == pytest.approx(1 - 1000 / found["requests"] / 0.001)
    assert found["budget_left_latency"] == 1
    assert world.checks(NAME, "slo_report") == {"slo": False}


def test_without_a_champion_the_report_says_so_and_harms_no_other_model_s(strict: Gifts) -> None:
    world, _ = strict.world()
    assert world.materialize(NAME, "slo_report").success
    assert world.materializations(NAME, "slo_report")[-1].metadata["release"].value == "none in production"
