"""Every action of a release, killed at every call of every port, before or after it has taken effect: the night shift finishes it."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from mlops_assets.adapters import tables
from mlops_assets.core.canary import Move
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.policy import Author, describe
from mlops_assets.operations import Operator
from mlops_assets.ports import Platform
from mlops_assets.rollout import decide_now
from tests.assets.gifts import HOUR, NAME, Gifts, assert_settled
from tests.world import World

pytestmark = pytest.mark.long

PORTS = ("objects", "policies", "registry", "features", "deployments", "gateway", "predictions")
CHANGING = {"put", "create", "delete", "write", "log_run", "register", "annotate", "set_aliases", "start", "stop", "apply"}
"""Calls that leave something behind: killed before them and after them. A killed call that only reads is the same both times."""


class Killed(BaseException):
    """The process has ended. Nobody catches this."""


@dataclass
class Executioner:
    """Ends the process at one of its calls, and lets nothing happen after that."""

    at: int | None = None
    before: bool = True
    calls: list[str] = field(default_factory=list)
    dead: bool = False

    def follow(self, platform: Platform) -> Platform:
        return replace(platform, **{name: Followed(self, getattr(platform, name)) for name in PORTS})

    def call(self, name: str, port: Any, *arguments: Any, **named: Any) -> Any:
        here = len(self.calls) == self.at
        self.calls.append(name)
        self.dead = self.dead or (here and self.before)
        if self.dead:
            raise Killed(name)
        answer = getattr(port, name)(*arguments, **named)
        if here:
            self.dead = True
            raise Killed(name)
        return answer


@dataclass
class Followed:
    """A port whose calls an executioner sees."""

    executioner: Executioner
    port: Any

    def __getattr__(self, name: str) -> Any:
        if not callable(answer := getattr(self.port, name)):
            return answer  # what a port is, rather than what it does
        return lambda *arguments, **named: self.executioner.call(name, self.port, *arguments, **named)


@dataclass(frozen=True)
class Action:
    """What is done in which state, and what a person does once more if it came to nothing."""

    state: str
    do: Callable[[World], object]
    again: Callable[[World], object] = lambda world: None
    end: str = ""


def look(world: World) -> object:
    return world.tick("release")


def click(world: World) -> object:
    return world.materialize(NAME, "rollback", "production", partition="v2")


def command(world: World) -> object:
    if world.policy(NAME).champion != "v2":
        return None
    return Operator(world.platform, NAME, Author("ada", "customers complain")).rollback()


def command_and_shift(world: World) -> None:
    command(world)
    world.tick("reconcile")


def try_again(world: World) -> object:
    last = world.policy(NAME).last("v2")
    if last.action != "abort":
        return None
    return Operator(world.platform, NAME, Author("ada", "it was not the release")).restart("v2")


def try_again_and_look(world: World) -> None:
    try_again(world)
    world.tick("release")


ACTIONS = {
    "evaluation and staging": Action("registered", look, end="champion v1, challenger v2 at shadow"),
    "begin": Action("waiting", look, end="champion v1, challenger v2 at shadow"),
    "advance": Action("shadow passed", look, end="champion v1, challenger v2 at canary-5"),
    "promotion": Action("canary-50 passed", look, end="champion v2"),
    "abort": Action("broken", look, end="champion v1"),
    "restart by a command": Action("aborted", try_again_and_look, try_again, end="champion v1, challenger v2 at shadow"),
    "rollback by a click": Action("v2", click, click, end="champion v1"),
    "rollback by a command": Action("v2", command_and_shift, command, end="champion v1"),
}


@pytest.fixture(scope="module")
def states(shop: Gifts) -> dict[str, World]:
    return dict(build_states(shop))


def build_states(shop: Gifts) -> Iterator[tuple[str, World]]:
    """Worlds in which the next look at the release has something to do."""
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    yield "registered", shop.copy(world)[0]
    look(world)
    yield "waiting", shop.copy(world)[0]
    look(world)
    shift(world)
    sick, sickness = shop.copy(world)
    sickness.raising.add("v2")
    yield "broken", shop.copy(seen(shop, sick, Move.ABORT))[0]
    look(sick)
    yield "aborted", sick
    yield "shadow passed", shop.copy(seen(shop, world, Move.ADVANCE))[0]
    shop.go_on(world, [0, 7, 7])
    yield "canary-50 passed", shop.copy(seen(shop, world, Move.PROMOTE))[0]
    world.settle()
    yield "v2", world


def seen(shop: Gifts, world: World, move: Move) -> World:
    """The world after traffic, with the evidence for a move."""
    shop.serve(world)
    world.clock.advance(9 * HOUR)
    assert decide_now(world.platform, shop.spec, world.policy(NAME))[0].move is move
    return world


def shift(world: World) -> None:
    """The sensors, until they ask for nothing more."""
    while world.tick("release", "reconcile"):
        pass


def attempt(world: World, do: Callable[[World], object], executioner: Executioner) -> None:
    """Do it under the executioner's eyes."""
    alive = world.platform
    world.platform = executioner.follow(alive)
    try:
        do(world)
    except Killed:
        pass
    finally:
        world.platform = alive


def deaths(calls: list[str]) -> Iterator[tuple[int, bool]]:
    """Each call, and whether to be killed before it."""
    for at, name in enumerate(calls):
        yield at, True
        if name in CHANGING:
            yield at, False


@pytest.mark.parametrize("name", list(ACTIONS))
def test_an_action_killed_anywhere_is_finished_by_the_night_shift_once(shop: Gifts, states: dict[str, World], name: str) -> None:
    action = ACTIONS[name]
    whole = Executioner()
    attempt(shop.copy(states[action.state])[0], action.do, whole)
    assert CHANGING & set(whole.calls)
    for at, before in deaths(whole.calls):
        world, _ = shop.copy(states[action.state])
        executioner = Executioner(at, before)
        attempt(world, action.do, executioner)
        told = f"{name}, killed {'before' if before else 'after'} call {at}, {whole.calls[at]}"
        assert executioner.dead, told
        action.again(world)
        shift(world)
        policy = world.policy(NAME)
        assert describe(policy) == action.end, told
        entered = Counter((change.release, change.action, change.attempt, change.step) for change in policy.log)
        assert set(entered.values()) == {1}, told
        try:
            assert_settled(world)
        except AssertionError as error:
            raise AssertionError(told) from error


def _online_follows(world: World) -> bool:
    """Whether what was ingested gets into the online store after a while, once, and nothing else happens."""
    made = []
    for _ in range(3):
        world.clock.advance(HOUR)
        made.append(world.tick("new_data"))
    return made == [0, 1, 0] and len(world.materializations(NAME, "online_features")) == 1


def test_an_ingest_whose_run_died_is_made_again_and_a_day_is_not_forgotten(shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = shop.world()
    write, died = tables.write_day, []

    def dying(*arguments: Any) -> str:
        if not died:
            died.append(arguments)
            raise Unavailable("the object store does not answer")
        return write(*arguments)

    monkeypatch.setattr(tables, "write_day", dying)
    shop.sample.land(world.objects, 3)
    world.clock.advance(HOUR)
    world.tick("new_data")
    assert [run.success for run in world.runs] == [False]
    world.tick("new_data")
    assert [run.success for run in world.runs] == [False, True]
    assert len(world.materializations(NAME, "events")) == 3
    assert _online_follows(world)


def test_an_ingest_that_keeps_failing_is_not_forgotten(shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> str:
        raise Unavailable("the object store does not answer")

    world, _ = shop.world()
    shop.sample.land(world.objects, 2)
    with monkeypatch.context() as outage:
        outage.setattr(tables, "write_day", broken)
        for _ in range(5):
            world.clock.advance(2 * HOUR)
            world.tick("new_data")
    assert [run.success for run in world.runs] == [False] * 5
    world.clock.advance(2 * HOUR)
    world.tick("new_data")
    assert world.runs[-1].success
    assert _online_follows(world)
