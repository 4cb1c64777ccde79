"""The whole life of a model, in one process: a 24-hour canary passes in seconds."""

import importlib
import io
from dataclasses import replace
from datetime import date, timedelta

import pytest

from mlops_assets.adapters import tables
from mlops_assets.assets import reading
from mlops_assets.assets.reading import data_time, feature_code_version, training_code_version
from mlops_assets.core.errors import IllegalChange
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author
from mlops_assets.operations import Operator
from mlops_assets.reconcile import STAGE_TAG
from tests.assets.gifts import DAYS, HOUR, NAME, Gifts, Moods, assert_settled, recorded
from tests.world import World


def steps(world: World, release: str) -> list[tuple[str, str]]:
    return [(change.action, change.step_name) for change in world.policy(NAME).log if change.release == release]


def why(world: World, release: str) -> str:
    """The reason of the last change of a release."""
    last = world.policy(NAME).last(release)
    assert last is not None
    return last.author.why


def running(world: World) -> set[str]:
    return {deployment.release for deployment in world.deployments.running(NAME)}


def share(world: World, shop: Gifts, release: str) -> float:
    return float((shop.serve(world)["release"] == release).mean())


def operator(world: World) -> Operator:
    return Operator(world.platform, NAME, Author("ada", "customers complain"))


def in_canary(shop: Gifts, world: World, **hyperparameters: object) -> str:
    """A new release, in the first step of its canary."""
    assert shop.train(world, **hyperparameters).success
    world.settle()
    challenger = world.policy(NAME).challenger
    assert challenger is not None
    return challenger.release


@pytest.fixture
def broken(shop: Gifts) -> tuple[World, Moods]:
    """v1 serves; releases can be made to break."""
    return shop.copy(shop.with_first_release())


@pytest.fixture
def world(broken: tuple[World, Moods]) -> World:
    """v1 serves."""
    return broken[0]


def test_a_release_lives_from_its_data_to_its_end(shop: Gifts) -> None:
    world, moods = shop.world()
    shop.first_release(world)
    assert steps(world, "v1") == [("register", ""), ("stage", ""), ("accept", ""), ("begin", "first"), ("promote", "")]
    assert share(world, shop, "v1") == 1
    assert_settled(world)

    shop.land(world, DAYS + 2)
    assert world.policy(NAME).mirror.percent == 100
    assert shop.go_on(world, [5, 7, 7, 9]) == [
        "champion v1, challenger v2 at canary-5",
        "champion v1, challenger v2 at canary-25",
        "champion v1, challenger v2 at canary-50",
        "champion v2",
    ]
    on_the_way = [(action, step) for action, step in steps(world, "v2") if action in ("begin", "advance", "promote")]
    assert on_the_way == [("begin", "shadow"), ("advance", "canary-5"), ("advance", "canary-25"), ("advance", "canary-50"), ("promote", "")]
    assert world.platform.registry.release(NAME, "v1").tags[STAGE_TAG] == "Archived"
    assert running(world) == {"v1", "v2"}  # v1 stays warm for an hour
    world.clock.advance(2 * HOUR)
    world.settle()
    assert running(world) == {"v2"}
    assert_settled(world)

    assert in_canary(shop, world) == "v3"
    assert shop.go_on(world, [5]) == ["champion v2, challenger v3 at canary-5"]
    moods.raising.add("v3")
    world.settle()
    shop.serve(world)
    world.settle()
    assert steps(world, "v3")[-1] == ("abort", "canary-5")
    assert "requests failed" in why(world, "v3")
    assert share(world, shop, "v2") == 1
    assert_settled(world)

    world.materialize(NAME, "rollback", partition="v2")
    assert world.policy(NAME).champion == "v1"
    assert share(world, shop, "v1") == 1
    world.settle()
    assert_settled(world)

    operator(world).rollback(to="v2")
    assert share(world, shop, "v2") == 1
    assert ("rollback", "v1", world.policy(NAME).generation) not in recorded(world)
    world.settle()
    assert_settled(world)
    assert world.materializations(NAME, "rollback", "v1")[-1].metadata["who"].value == "ada"
    assert {run.success for run in world.runs} == {True}


def test_scores_that_shift_abort_a_release_before_it_has_had_any_traffic(shop: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    in_canary(shop, world)
    moods.shifted.add("v2")
    shop.serve(world)
    world.settle()
    assert steps(world, "v2")[-1] == ("abort", "shadow")
    assert "Kolmogorov-Smirnov" in why(world, "v2")
    assert_settled(world)


def test_a_challenger_that_learned_nothing_is_refused_with_the_reason(shop: Gifts, world: World) -> None:
    shop.train(world, behave="noise")
    world.settle()
    assert steps(world, "v2")[-1] == ("refuse", "")
    assert why(world, "v2").startswith("quality gate: auc is 0.")
    assert world.checks(NAME, "evaluation")["quality_gate"] is False
    assert world.materializations(NAME, "staging", "v2") == []
    assert world.policy(NAME).champion == "v1"
    assert_settled(world)


def test_a_release_that_does_not_start_is_refused_by_its_smoke_test(shop: Gifts, broken: tuple[World, Moods]) -> None:
    world, moods = broken
    moods.refusing.add("v2")
    shop.train(world)
    world.settle()
    assert steps(world, "v2")[-1] == ("refuse", "")
    assert "MemoryError: v2 needs more than there is" in why(world, "v2")
    assert world.checks(NAME, "staging")["smoke_test"] is False
    assert running(world) == {"v1"}
    assert_settled(world)


def test_training_that_raises_harms_nobody_and_says_what_to_do(shop: Gifts, world: World) -> None:
    run = shop.train(world, behave="raise")
    (failure,) = run.get_step_failure_events()
    told = str(failure.event_specific_data.error)
    assert not run.success
    assert "TrainingFailed" in told
    assert "raised ZeroDivisionError: no gradient. The champion still serves" in told
    world.settle()
    assert share(world, shop, "v1") == 1
    assert_settled(world)


def test_without_traffic_a_canary_holds_and_is_rolled_back_at_its_deadline(shop: Gifts, world: World) -> None:
    in_canary(shop, world)
    assert shop.go_on(world, [20], rows=0) == ["champion v1, challenger v2 at shadow"]
    assert shop.go_on(world, [5], rows=0) == ["champion v1"]
    assert "past the deadline" in why(world, "v2")
    assert_settled(world)


@pytest.mark.parametrize("by_click", [False, True], ids=["by a command", "by a click"])
def test_an_aborted_release_tries_its_canary_again_from_the_start(shop: Gifts, broken: tuple[World, Moods], by_click: bool) -> None:
    world, moods = broken
    in_canary(shop, world)
    moods.shifted.add("v2")
    shop.serve(world)
    world.settle()
    assert world.policy(NAME).champion == "v1"
    moods.shifted.clear()
    if by_click:
        assert world.materialize(NAME, "canary", partition="v2").success
    else:
        operator(world).restart("v2")
        world.settle()
    challenger = world.policy(NAME).challenger
    assert (challenger.release, challenger.attempt, challenger.step_name) == ("v2", 2, "shadow")
    world.settle()
    assert shop.go_on(world, [5, 7, 7, 9])[-1] == "champion v2"
    assert [(c.attempt, c.step) for c in world.policy(NAME).log if c.release == "v2" and c.action in ("begin", "advance")] == [
        (1, 0),
        *((2, step) for step in range(4)),
    ]
    assert_settled(world)


def test_a_click_on_the_canary_of_a_release_that_its_gate_refused_says_why_not(shop: Gifts, world: World) -> None:
    shop.train(world, behave="noise")
    world.settle()
    run = world.materialize(NAME, "canary", partition="v2")
    assert not run.success
    assert "v2 of gift-returns was not aborted, got refuse" in str(run.get_step_failure_events()[0].event_specific_data.error)
    assert_settled(world)


def test_a_paused_canary_stays_until_it_is_resumed_and_bakes_anew(shop: Gifts, world: World) -> None:
    in_canary(shop, world)
    operator(world).pause()
    assert shop.go_on(world, [30]) == ["champion v1, challenger v2 at shadow, paused"]
    operator(world).resume()
    assert shop.go_on(world, [3, 2]) == ["champion v1, challenger v2 at shadow", "champion v1, challenger v2 at canary-5"]
    assert_settled(world)


def test_a_step_that_asks_for_approval_waits_for_a_person(shop: Gifts) -> None:
    first, *others = shop.spec.canary.steps
    spec: ModelSpec = replace(shop.spec, canary=replace(shop.spec.canary, steps=(replace(first, approval=True), *others)))
    world, _ = shop.world(spec)
    shop.first_release(world)
    in_canary(shop, world)
    assert shop.go_on(world, [5, 30]) == ["champion v1, challenger v2 at shadow"] * 2
    operator(world).resume()
    world.settle()
    assert world.policy(NAME).challenger.step_name == "canary-5"
    assert_settled(world)


def test_a_first_release_has_none_to_go_back_to(shop: Gifts, world: World) -> None:
    run = world.materialize(NAME, "rollback", partition="v1")
    assert not run.success
    with pytest.raises(IllegalChange, match="v1 is the first release of gift-returns"):
        operator(world).rollback()
    assert_settled(world)


def test_the_online_store_follows_what_lands(shop: Gifts) -> None:
    world, _ = shop.world()
    for days in (DAYS - 2, DAYS):
        shop.land(world, days)
        world.clock.advance(HOUR)
        world.settle()
        newest = world.materializations(NAME, "online_features")[-1].metadata
        assert newest["as_of"].value == data_time(world.platform, shop.spec).timestamp()
        assert newest["entities_written"].value > 0
        assert world.checks(NAME, "online_features") == {"online_offline_parity": True, "views_fresh": True}
    assert len(world.materializations(NAME, "online_features")) == 2


def test_a_broken_file_is_quarantined_and_the_others_go_on(shop: Gifts) -> None:
    world, _ = shop.world()
    world.objects.put(f"landing/{NAME}/events/2024-01-02/broken.parquet", b"not parquet")
    shop.land(world, DAYS)
    reason = world.objects.get(f"landing/quarantine/{NAME}/events/2024-01-02/broken.parquet.reason.json")
    assert b"is not a Parquet file" in reason
    assert world.materializations(NAME, "events")[-1].metadata["quarantined_files"].value == 1
    assert world.checks(NAME, "events") == {"schema": True, "null_rate": True, "volume": True}
    assert world.policy(NAME).challenger.release == "v1"


@pytest.mark.parametrize("late", [False, True])
def test_a_day_is_ingested_again_when_a_file_of_it_is_rewritten_or_late(shop: Gifts, late: bool) -> None:
    world, _ = shop.world()
    shop.sample.land(world.objects, 3)
    world.clock.advance(HOUR)
    world.settle()
    day = date(2024, 1, 2)
    of_day = {"partition": day.isoformat()}
    assert len(world.materializations(NAME, "events", **of_day)) == 1
    orders = shop.sample.orders(day)[shop.sample.EVENT_COLUMNS]
    more = orders.assign(order_id="late-" + orders["order_id"]) if late else orders.head(300)
    buffer = io.BytesIO()
    more.to_parquet(buffer, index=False)
    world.clock.advance(timedelta(days=2))
    world.objects.put(f"landing/{NAME}/events/{day}/{'late' if late else 'orders'}.parquet", buffer.getvalue())
    world.clock.advance(HOUR)
    world.settle()
    assert len(world.materializations(NAME, "events", **of_day)) == 2
    assert len(world.materializations(NAME, "features", **of_day)) == 2
    assert len(world.materializations(NAME, "events", partition="2024-01-01")) == 1
    assert rows_of(world, day) == (800 if late else 300)


def rows_of(world: World, day: date) -> int:
    return len(tables.read_days(world.objects, NAME, "events", day, day))


def test_changed_features_are_computed_anew_and_the_models_that_use_them_trained_and_judged_again(
    shop: Gifts, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.materializations(NAME, "training_set")[-1].metadata["feature_hash"].value
    assert world.tick("retrain") == 0
    module = importlib.import_module(shop.spec.features.transform.partition(":")[0])
    view = module.VIEWS[0]
    monkeypatch.setattr(module, "VIEWS", (replace(view, ttl=view.ttl * 2), *module.VIEWS[1:]))
    version = world.platform.features.version(shop.spec.features).hash
    assert version != before
    assert feature_code_version(shop.spec) == version[:12]

    computed = len(world.materializations(NAME, "features"))
    assert world.tick("retrain") == 1
    assert len(world.materializations(NAME, "features")) > computed
    assert len(world.materializations(NAME, "training_set")) == 1
    assert world.tick("retrain") == 1
    made = world.materializations(NAME, "training_set")[-1].metadata
    assert (made["feature_hash"].value, made["trigger"].value, made["gate"].value) == (version, "features", "refresh")
    world.settle()
    assert world.platform.registry.release(NAME, "v2").tags["trigger"] == "features"
    assert len(world.materializations(NAME, "training_set")) == 2


def test_changed_training_code_is_trained_and_judged_once(shop: Gifts, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.materializations(NAME, "training_set")[-1].metadata["training_code"].value
    assert before == training_code_version(shop.spec)
    assert world.tick("retrain") == 0
    source = reading._source
    monkeypatch.setattr(reading, "_source", lambda module: source(module) + b"# another day")
    assert world.tick("retrain") == 1
    made = world.materializations(NAME, "training_set")[-1].metadata
    assert (made["training_code"].value, made["trigger"].value) == (training_code_version(shop.spec), "code")
    assert made["training_code"].value != before
    world.settle()
    assert world.platform.registry.release(NAME, "v2").tags["trigger"] == "code"
    assert world.tick("retrain") == 0
    assert len(world.materializations(NAME, "training_set")) == 2


def test_training_code_is_the_module_and_what_is_declared_of_the_training(shop: Gifts) -> None:
    spec = shop.spec
    same = replace(spec, training=replace(spec.training, min_rows=1), owners=("team:other",))
    assert training_code_version(same) == training_code_version(spec)
    parameters = replace(spec, training=replace(spec.training, hyperparameters={"C": 7.0}))
    fewer = replace(spec, features=replace(spec.features, inputs=spec.features.inputs[1:]))
    other = replace(spec, training=replace(spec.training, trainer="tests.assets.test_training:picky"))
    lost = replace(spec, training=replace(spec.training, trainer="no.such.module:train"))
    assert len({training_code_version(each) for each in (spec, parameters, fewer, other, lost)}) == 5


def test_a_model_whose_features_cannot_be_read_has_no_code_version_and_does_not_break_the_others(
    shop: Gifts, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(shop.spec.features.transform.partition(":")[0])
    monkeypatch.setattr(module, "VIEWS", "not views")
    assert feature_code_version(shop.spec) is None
