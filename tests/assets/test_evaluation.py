"""Challengers that are judged on the same frozen holdout, one after the other and at the same time."""

from dataclasses import replace

import pytest

from mlops_assets.assets import evaluation
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.verdict import Outcome
from tests.assets.gifts import NAME, Gifts
from tests.world import World


@pytest.fixture(scope="module")
def trained(shop: Gifts) -> World:
    """v1 serves; v2 and v3 were trained on the same data, and not judged yet."""
    world, _ = shop.copy(shop.with_first_release())
    for strength in (0.5, 0.9):
        assert shop.train(world, C=strength).success
    return world


@pytest.fixture
def world(shop: Gifts, trained: World) -> World:
    return shop.copy(trained)[0]


def holdout_of(world: World, release: str) -> str:
    return world.platform.registry.release(NAME, release).tags["holdout"]


def looks(world: World) -> list[tuple[int, str]]:
    found = evaluation.looks_at(world.platform, NAME, holdout_of(world, "v2"))
    return [(look.number, look.question.release) for look in found]


def with_gates(spec: ModelSpec, **changes: object) -> ModelSpec:
    return replace(spec, gates=replace(spec.gates, **changes))


def test_each_challenger_takes_a_look_of_its_own_and_the_same_one_again(shop: Gifts, world: World) -> None:
    assert holdout_of(world, "v2") == holdout_of(world, "v3")
    first = evaluation.evaluate(world.platform, shop.spec, "v2", "v1").result
    later = evaluation.evaluate(world.platform, shop.spec, "v3", "v1")
    second, page = later.result, later.certificate
    assert looks(world) == [(1, "v2"), (2, "v3")]
    assert second.turn.alpha == pytest.approx(first.turn.alpha / 4)
    assert "look 2 of at most 10" in page
    assert "| 1 | v2 | v1 | refresh |" in page
    again = evaluation.evaluate(world.platform, shop.spec, "v2", "v1").result
    assert again.verdicts == first.verdicts
    assert looks(world) == [(1, "v2"), (2, "v3")]


def test_a_look_that_someone_else_takes_meanwhile_is_followed_by_the_next(shop: Gifts, world: World, monkeypatch) -> None:
    listed = evaluation.looks_at
    raced = []

    def slow(platform, model, holdout):
        found = listed(platform, model, holdout)
        if not raced:
            raced.append(True)
            evaluation.evaluate(world.platform, shop.spec, "v3", "v1")
        return found

    monkeypatch.setattr(evaluation, "looks_at", slow)
    result = evaluation.evaluate(world.platform, shop.spec, "v2", "v1").result
    monkeypatch.undo()
    assert looks(world) == [(1, "v3"), (2, "v2")]
    assert result.turn.number == 2


def test_a_worn_out_holdout_lets_nobody_through(shop: Gifts, world: World) -> None:
    once = with_gates(shop.spec, max_looks=1)
    evaluation.evaluate(world.platform, once, "v2", "v1")
    judged = evaluation.evaluate(world.platform, once, "v3", "v1")
    result, page = judged.result, judged.certificate
    assert (result.outcome, looks(world)) == (Outcome.INCONCLUSIVE, [(1, "v2")])
    assert "worn out by 1 looks of 1" in evaluation.gate_verdict(result).reason
    assert "This holdout is worn out" in page


def test_a_first_release_takes_no_look(shop: Gifts, world: World) -> None:
    result = evaluation.evaluate(world.platform, shop.spec, "v2", None).result
    assert (result.comparison, looks(world)) == (None, [])


@pytest.mark.parametrize(("blocks", "count"), [("unit", True), ("day", False)])
def test_rows_of_a_unit_or_a_day_are_taken_together(shop: Gifts, world: World, blocks: str, count: bool) -> None:
    result = evaluation.evaluate(world.platform, with_gates(shop.spec, blocks=blocks), "v2", "v1").result
    assert (result.comparison is not None) is count
    if count:
        assert 20 <= result.comparison.blocks < result.rows
    else:
        assert "got 4 blocks" in evaluation.gate_verdict(result).reason  # the holdout has four days


def test_budgets_are_measured_only_if_they_are_declared(shop: Gifts, world: World) -> None:
    free = evaluation.evaluate(world.platform, shop.spec, "v2", None).result
    names = {verdict.name for verdict in free.verdicts}
    assert not names & {"latency_ms", "model_bytes"}
    tight = evaluation.evaluate(world.platform, with_gates(shop.spec, max_latency_ms=1000.0, max_model_bytes=10), "v2", None).result
    found = {verdict.name: verdict for verdict in tight.verdicts}
    assert found["latency_ms"].outcome is Outcome.PASS
    assert found["latency_ms"].sample == evaluation.TIMED
    assert found["model_bytes"].outcome is Outcome.FAIL
