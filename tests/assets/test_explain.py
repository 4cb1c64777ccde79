"""From a request id to everything that led to its answer."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from rich.console import Console

from mlops_assets.adapters.prediction_log import (
    ENTITY_PREFIX,
    FEATURE_PREFIX,
    Answer,
    LoggedInput,
    S3PredictionLog,
    object_key,
    to_parquet,
)
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.assets.reading import read_datasets
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.errors import NotFound, Unavailable
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.verdict import Outcome
from mlops_assets.explain import Explained, explain, share_at
from mlops_assets.explain_page import show
from mlops_assets.provenance import provenance
from mlops_assets.settings import Settings
from tests.assets.gifts import DAYS, HOUR, NAME, SLUG, Gifts
from tests.world import World

DAY = timedelta(days=1)


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves, v2 gets copies; a day's orders were asked about, and what came of them has landed."""
    if "asked" not in shop._built:
        made, _ = shop.copy(shop.with_first_release())
        shop.train(made)
        made.settle()
        ask(shop, made)
        shop.sample.land(made.objects, DAYS + 5)
        made.clock.advance(HOUR)
        made.tick("new_data")
        shop._built["asked"] = made
    return shop._built["asked"]


def orders_of(shop: Gifts, world: World) -> pd.DataFrame:
    last = shop.spec.data.start + timedelta(days=DAYS - 1)
    return read_datasets(world.platform, shop.spec, last, last)["events"].reset_index(drop=True)


def ask(shop: Gifts, world: World) -> None:
    orders = orders_of(shop, world)
    known = world.platform.features.as_of(shop.spec.features, orders.rename(columns={"event_time": "event_timestamp"}))
    told = known[[*shop.spec.features.names]].assign(
        request_id=orders["order_id"], unit=orders["customer_id"], event_time=orders["event_time"]
    )
    world.send(NAME, told.assign(**{f"{ENTITY_PREFIX}customer_id": orders["customer_id"].astype(object)}))


def known_order(shop: Gifts, world: World) -> str:
    """One whose customer has a history."""
    orders = orders_of(shop, world)
    known = world.platform.features.as_of(shop.spec.features, orders.rename(columns={"event_time": "event_timestamp"}))
    return str(orders["order_id"][known["customer_return_rate"].notna()].iloc[0])


def look(shop: Gifts, world: World, request_id: str, **asked: object) -> tuple[Explained, ...]:
    def spec_of(model: str) -> ModelSpec:
        return shop.spec

    return explain(world.platform, Settings.from_environment(), request_id, **{"model": None, "back": DAY, "spec_of": spec_of} | asked)


def test_champion_and_shadow_are_explained_each_with_its_own(shop: Gifts, world: World) -> None:
    request_id = known_order(shop, world)
    live, shadow = look(shop, world, request_id)
    assert (live.release, live.role, live.share) == ("v1", "live", "champion, 100 % of the units")
    assert (shadow.release, shadow.role, shadow.share) == ("v2", "shadow", "challenger at shadow, copies of 100 % of the requests")
    assert live.notes == shadow.notes == ()
    assert live.made_of["mlflow_run"] != shadow.made_of["mlflow_run"]
    assert shadow.decision is (shadow.score >= shop.spec.label.decision_threshold)
    rows = world.log.read(NAME).rows
    logged = rows[(rows["request_id"] == request_id) & (rows["role"] == "live")].iloc[0]
    assert {value.name: value.value for value in live.values} == {name: logged[FEATURE_PREFIX + name] for name in shop.spec.features.names}


def test_a_value_that_was_looked_up_has_the_time_from_when_on_it_was_valid(shop: Gifts, world: World) -> None:
    live, _ = look(shop, world, known_order(shop, world))
    values = {value.name: value for value in live.values}
    assert (values["amount"].origin, values["amount"].since) == ("request", None)
    rate = values["customer_return_rate"]
    assert rate.origin == f"view {SLUG}_customers"
    before = {"customer_id": [live.entities["customer_id"]], "order_id": ["x"]} | {name: [0] for name in shop.spec.features.names}
    for at, expected in ((rate.since, rate.value), (rate.since - timedelta(microseconds=1), None)):
        frame = pd.DataFrame({**before, "event_timestamp": pd.Series([at], dtype="datetime64[us, UTC]")})
        found = world.platform.features.as_of(shop.spec.features, frame)["customer_return_rate"][0]
        assert bool(found == rate.value) is (expected is not None)


def test_origin_gate_and_way_into_production_are_told_with_their_evidence(shop: Gifts, world: World) -> None:
    live, _ = look(shop, world, known_order(shop, world))
    tags = world.platform.registry.release(NAME, "v1").tags
    assert live.made_of["training_set"] == tags["training_set"]
    assert live.made_of["git_commit"] == provenance()["git_commit"]
    assert live.made_of["trigger"] == "new_data"
    assert (live.gate, live.gate_evidence) == ("pass", tags["gate_evidence"])
    assert live.gate_verdicts
    assert {verdict.outcome for verdict in live.gate_verdicts} == {Outcome.PASS}
    assert [change.action for change in live.way] == ["register", "stage", "accept", "begin", "promote"]
    promoted = live.way[-1].author.evidence
    assert promoted is not None
    assert world.objects.get(promoted)
    assert live.links["evaluation"].endswith(f"/assets/{SLUG}/evaluation?view=partitions&partition=v1")
    assert live.links["mlflow"].endswith(f"/#/models/{NAME}/versions/1")
    assert live.links["training"].endswith(f"/runs/{live.way[0].author.run_id}")


def test_what_came_true_is_told_when_it_is_known(shop: Gifts, world: World) -> None:
    request_id = known_order(shop, world)
    live, _ = look(shop, world, request_id)
    last = shop.spec.data.start + timedelta(days=DAYS - 1)
    labels = read_datasets(world.platform, shop.spec, last, last)["labels"].set_index("order_id")["returned"]
    assert live.label == labels[request_id]


def test_an_unknown_id_is_refused_with_where_it_was_looked_for(shop: Gifts, world: World) -> None:
    with pytest.raises(NotFound, match=rf"no answer to 'nobody' in what {NAME} logged from .* UTC: look further back with --since 30d"):
        look(shop, world, "nobody")
    with pytest.raises(NotFound, match=rf"there is no model 'gifts', expected one of {NAME}"):
        look(shop, world, "nobody", model="gifts")
    with pytest.raises(NotFound, match="look further back"):
        look(shop, world, known_order(shop, world), back=timedelta(seconds=1))


def test_what_cannot_be_had_is_told_and_hides_nothing_else(shop: Gifts, world: World) -> None:
    class Down:
        def release(self, model: str, release: str) -> object:
            raise Unavailable("MLflow does not answer")

    def gone(model: str) -> ModelSpec:
        raise NotFound("there is no model 'gift-returns'")

    broken = replace(world.platform, registry=Down())
    live, _ = explain(broken, Settings.from_environment(), known_order(shop, world), None, DAY, gone)
    assert live.notes == ("MLflow does not answer", "there is no model 'gift-returns'")
    assert live.made_of == {}
    assert len(live.values) == len(shop.spec.features.names)
    assert [change.action for change in live.way][-1] == "promote"


def test_a_person_and_a_program_are_told_the_same(shop: Gifts, world: World) -> None:
    explained = look(shop, world, known_order(shop, world))
    console = Console(record=True, width=250)
    show(explained, console)
    text = console.export_text()
    for one in explained:
        document = json.loads(json.dumps(one.to_document()))
        assert document["made_of"]["training_set"] in text
        assert document["gate_evidence"] in text
        assert document["way"][-1]["author"]["evidence"] is None or document["way"][-1]["author"]["evidence"] in text
        assert document["links"]["mlflow"] in text
    assert "[red]" not in text


def test_what_a_log_says_is_never_taken_for_markup(shop: Gifts, world: World) -> None:
    one = replace(look(shop, world, known_order(shop, world))[0], unit="[red]you[/]", notes=("[bold]no[/]",))
    console = Console(record=True, width=250)
    show((one,), console)
    text = console.export_text()
    assert "[red]you[/]" in text
    assert "[bold]no[/]" in text


@pytest.mark.parametrize(
    ("hour", "release", "told"),
    [
        (0, "v1", "no traffic"),
        (2, "v1", "challenger at canary-5, 100 % of the units"),
        (4, "v1", "champion, 100 % of the units"),
        (6, "v2", "challenger at canary-5, 5 % of the units"),
        (6, "v1", "champion, 95 % of the units"),
        (8, "v1", "no traffic"),
        (8, "v2", "champion, 100 % of the units"),
        (10, "v1", "champion, 100 % of the units"),
        (10, "v2", "no traffic"),
        (12, "v3", "challenger at canary-5, 5 % of the units"),
        (14, "v3", "no traffic"),
    ],
)
def test_the_share_of_a_release_is_that_of_the_time_at_which_it_answered(hour: int, release: str, told: str) -> None:
    start, author, step = datetime(2026, 11, 23, tzinfo=UTC), Author("ada", "why"), Step("canary-5", HOUR, weight=5)

    def ready(policy: Policy, release: str, at: datetime) -> Policy:
        for change in (policy_changes.stage, policy_changes.accept):
            policy = change(policy, release, author, at)
        return policy_changes.begin(policy, release, step, author, at)

    moves: list[Callable[[Policy, datetime], Policy]] = [
        lambda p, at: ready(policy_changes.register(p, "v1", "1", author, at), "v1", at),
        lambda p, at: policy_changes.promote(p, author, at, HOUR),
        lambda p, at: ready(policy_changes.register(p, "v2", "2", author, at), "v2", at),
        lambda p, at: policy_changes.promote(p, author, at, HOUR),
        lambda p, at: policy_changes.rollback(p, author, at),
        lambda p, at: ready(policy_changes.register(p, "v3", "3", author, at), "v3", at),
        lambda p, at: policy_changes.abort(p, author, at),
    ]
    policy = Policy("tiny")
    for number, move in enumerate(moves):
        policy = move(policy, start + (2 * number + 1) * HOUR)
    assert share_at(policy, release, start + hour * HOUR) == told


def test_an_answer_is_found_in_files_as_they_lie_in_s3(shop: Gifts, world: World, s3: Settings) -> None:
    objects, now = S3ObjectStore(s3.s3_url), datetime.now(UTC)
    inputs = tuple(LoggedInput(item.name, bool(item.categories)) for item in shop.spec.features.inputs)
    values = tuple("web" if item.category else 1.0 for item in inputs)
    for minutes in range(5):
        at = now - timedelta(minutes=minutes)
        answers = [Answer(f"r{minutes}-{n}", "u", "live", 0.5, True, 1.0, at, at, values) for n in range(20)]
        objects.create(object_key(NAME, at, "v1", "a", minutes), to_parquet(NAME, "v1", inputs, answers))
    (one,) = look(shop, replace_log(world, S3PredictionLog(objects)), "r3-7")
    assert (one.release, one.unit, one.answered_at) == ("v1", "u", now - timedelta(minutes=3))
    assert {value.name: value.value for value in one.values} == dict(zip(shop.spec.features.names, values, strict=True))
    assert one.label is None
    assert "what came true is not known" in one.notes[0]


def replace_log(world: World, log: S3PredictionLog) -> World:
    class Elsewhere:
        platform = replace(world.platform, predictions=log)

    return Elsewhere()  # type: ignore[return-value]
