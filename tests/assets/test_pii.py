"""A model that marks whose orders they are: what its log holds, and what is still known of it with the key."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest

from mlops_assets.adapters import labels
from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, FEATURE_PREFIX
from mlops_assets.assets.reading import read_datasets
from mlops_assets.core.data_spec import Column
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.pii import HIDDEN, Pii, pseudonym
from mlops_assets.explain import explain
from mlops_assets.settings import Settings
from tests.assets.gifts import DAYS, NAME, Gifts
from tests.world import World

KEY = "a secret of 128 bits or more"


def marked(shop: Gifts, unit: Pii = "hash") -> Gifts:
    """The model with whose order it is hashed, its channel too, and its amount dropped."""
    spec = shop.spec
    events = spec.data.datasets["events"]
    columns = {**events.columns, "customer_id": Column("string", pii=unit), "amount": Column("float", minimum=0, pii="drop")}
    inputs = tuple(replace(one, pii="hash") if one.name == "channel" else one for one in spec.features.inputs)
    return replace(
        shop,
        spec=replace(
            spec,
            data=replace(spec.data, datasets={**spec.data.datasets, "events": replace(events, columns=columns)}),
            features=replace(spec.features, inputs=inputs, unit="customer_id" if unit == "hash" else "order_id"),
            gates=replace(spec.gates, slices=()),
        ),
        _built={},
    )


@pytest.fixture(scope="module")
def marked_shop(shop: Gifts) -> Gifts:
    return marked(shop)


@pytest.fixture
def world(marked_shop: Gifts) -> Iterator[World]:
    """v1 serves, and the key is there."""
    if "v1" not in marked_shop._built:
        made, _ = marked_shop.world()
        give_key(made)
        marked_shop.first_release(made)
        marked_shop._built["v1"] = made
    copy = marked_shop.copy(marked_shop._built["v1"])[0]
    give_key(copy)
    return copy


def give_key(world: World, key: str = KEY) -> None:
    world.gateway.pii_key = key
    world.platform = replace(world.platform, pii_key=key)


def newest_orders(shop: Gifts, world: World, rows: int = 400) -> pd.DataFrame:
    last = shop.spec.data.start + timedelta(days=DAYS - 1)
    return read_datasets(world.platform, shop.spec, last - timedelta(days=1), last)["events"].tail(rows).reset_index(drop=True)


def ask(shop: Gifts, world: World, orders: pd.DataFrame) -> pd.DataFrame:
    """Ask about orders as a caller does, and return what is logged of them."""
    known = world.platform.features.as_of(shop.spec.features, orders.rename(columns={"event_time": "event_timestamp"}))
    told = known[[*shop.spec.features.names]].assign(
        request_id=orders["order_id"], unit=orders["customer_id"], event_time=orders["event_time"]
    )
    world.send(NAME, told.assign(**{f"{ENTITY_PREFIX}customer_id": orders["customer_id"].astype(object)}))
    return world.log.read(NAME).rows.set_index("request_id").loc[orders["order_id"]].reset_index()


def check(world: World, noun: str) -> dict[str, object]:
    counted = ("predictions", "prediction_profile") if noun == "drift_report" else ()
    assert world.materialize(NAME, *counted, noun).success
    return {name: value.value for name, value in world.materializations(NAME, noun)[-1].metadata.items()}


def test_the_log_holds_pseudonyms_and_nothing_of_what_is_dropped(marked_shop: Gifts, world: World) -> None:
    orders = newest_orders(marked_shop, world)
    rows = ask(marked_shop, world, orders)
    customers = [pseudonym(KEY, NAME, "customer_id", customer) for customer in orders["customer_id"]]
    assert rows["unit"].tolist() == rows[f"{ENTITY_PREFIX}customer_id"].tolist() == customers
    assert rows[f"{FEATURE_PREFIX}channel"].tolist() == [pseudonym(KEY, NAME, "channel", channel) for channel in orders["channel"]]
    assert f"{FEATURE_PREFIX}amount" not in rows


def test_labels_are_joined_by_pseudonym_and_what_was_logged_before_the_mark_as_well(marked_shop: Gifts, world: World) -> None:
    orders = newest_orders(marked_shop, world).head(300)
    rows = ask(marked_shop, world, orders)
    marked_shop.sample.land(world.objects, DAYS + 4)
    world.clock.advance(timedelta(hours=1))
    world.tick("new_data")
    before = rows.assign(unit=orders["customer_id"].to_numpy(object))
    found, earlier = (labels.squared_errors(world.objects, marked_shop.spec, each, KEY) for each in (rows, before))
    assert found == earlier
    assert found.rows == len(orders)


def test_served_as_computed_is_no_skew_though_the_entities_are_hashed(marked_shop: Gifts, world: World) -> None:
    ask(marked_shop, world, newest_orders(marked_shop, world))
    found = check(world, "training_serving_skew")
    assert (found["rows"], found["differing_features"]) == (400, 0), found["reason"]


def test_what_is_looked_up_by_a_dropped_entity_is_not_computed_again(shop: Gifts) -> None:
    dropped = marked(shop, "drop")
    world, _ = dropped.world()
    give_key(world)
    dropped.first_release(world)
    ask(dropped, world, newest_orders(dropped, world))
    found = check(world, "training_serving_skew")
    assert (found["features"], found["differing_features"]) == (0, 0), found["reason"]


@pytest.mark.long
def test_drift_of_a_hashed_category_is_that_of_the_category(marked_shop: Gifts, world: World) -> None:
    asked = marked_shop.requests(3000, seed=5)
    world.send(NAME, asked)
    usual = check(world, "drift_report")
    assert usual["psi_channel"] < 0.05
    assert "psi_amount" not in usual
    world.send(NAME, asked.assign(channel="phone", request_id="other-" + asked["request_id"]))
    assert check(world, "drift_report")["psi_channel"] > 0.2


def test_an_answer_is_explained_by_its_pseudonyms_and_its_values_still_have_their_times(marked_shop: Gifts, world: World) -> None:
    orders = newest_orders(marked_shop, world)
    rows = ask(marked_shop, world, orders)
    asked = rows[rows[f"{FEATURE_PREFIX}customer_return_rate"].notna()].iloc[0]
    settings, day = Settings.from_environment(), timedelta(days=1)
    (told,) = explain(world.platform, settings, asked["request_id"], NAME, day, lambda _: marked_shop.spec)
    values = {value.name: value for value in told.values}
    assert (values["channel"].value, values["channel"].origin) == (asked[f"{FEATURE_PREFIX}channel"], "request (hashed: pii)")
    assert (values["amount"].value, values["amount"].origin) == (None, "request (dropped: pii)")
    assert values["customer_return_rate"].since is not None
    customer = orders.set_index("order_id")["customer_id"][asked["request_id"]]
    assert customer not in json.dumps(told.to_document())


def test_without_the_key_nothing_is_concluded_from_hashed_values(marked_shop: Gifts, world: World) -> None:
    ask(marked_shop, world, newest_orders(marked_shop, world))
    give_key(world, "")
    run = world.materialize(NAME, "training_serving_skew")
    assert "MLOPS_PII_KEY holds nothing" in str(run.get_step_failure_events()[0].event_specific_data.error)
    run = world.materialize(NAME, "predictions", "prediction_profile", "drift_report")
    told = [made.description for made in run.get_asset_check_evaluations() if not made.passed]
    assert len(told) == 2
    assert all("MLOPS_PII_KEY holds nothing" in each for each in told)


def test_neither_statistics_nor_refused_files_show_a_value(marked_shop: Gifts, world: World) -> None:
    shown = {row.data["feature"]: row.data for row in world.materializations(NAME, "training_set")[-1].metadata["statistics"].records}
    assert (shown["channel"]["distinct"], shown["channel"]["top"]) == (3, None)
    assert {shown["amount"][name] for name in ("min", "median", "max", "mean")} == {None}
    assert shown["items"]["max"] is not None
    orders = marked_shop.sample.orders(marked_shop.spec.data.start)[marked_shop.sample.EVENT_COLUMNS]
    wrong = orders.assign(amount=-12345.5)
    wrong.to_parquet(buffer := pd.io.common.BytesIO(), index=False)
    world.objects.put(f"landing/{NAME}/events/{marked_shop.spec.data.start}/wrong.parquet", buffer.getvalue())
    world.clock.advance(timedelta(hours=1))
    world.tick("new_data")
    reason = world.objects.get(f"landing/quarantine/{NAME}/events/{marked_shop.spec.data.start}/wrong.parquet.reason.json").decode()
    assert "12345" not in reason
    assert f"amount: got {HIDDEN}" in reason


def test_the_key_is_in_no_representation_of_the_platform(world: World) -> None:
    assert KEY not in repr(world.platform)


def test_an_input_may_be_marked_by_itself() -> None:
    assert Feature("channel", ("web",), pii="hash").pii == "hash"
