"""What was served is computed again, and a server that computes its features otherwise is found out."""

import importlib
from dataclasses import replace
from datetime import date, timedelta

import pandas as pd
import pytest

from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, REQUEST_PREFIX
from mlops_assets.assets.reading import read_datasets
from mlops_assets.core.feature_views import FeatureService
from mlops_assets.core.on_demand import Computed, OnDemandView, RequestField
from tests.assets.gifts import DAYS, NAME, Gifts
from tests.world import World


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves."""
    return shop.copy(shop.with_first_release())[0]


def requests(shop: Gifts, world: World, rows: int) -> pd.DataFrame:
    """Orders of the newest days, each with the features that were known when it was placed, and whose they are."""
    last = shop.spec.data.start + timedelta(days=DAYS - 1)
    orders = read_datasets(world.platform, shop.spec, last - timedelta(days=1), last)["events"].tail(rows).reset_index(drop=True)
    known = world.platform.features.as_of(shop.spec.features, orders.rename(columns={"event_time": "event_timestamp"}))
    told = known[[*shop.spec.features.names]].assign(
        request_id=orders["order_id"], unit=orders["order_id"], event_time=orders["event_time"]
    )
    return told.assign(**{f"{ENTITY_PREFIX}{name}": orders[name].astype(object) for name in shop.spec.features.entities})


def skew(world: World) -> dict:
    assert world.materialize(NAME, "training_serving_skew").success
    found = world.materializations(NAME, "training_serving_skew")[-1].metadata
    return {name: getattr(value, "records", value.value) for name, value in found.items()}


def test_served_as_computed_is_no_skew(shop: Gifts, world: World) -> None:
    world.send(NAME, requests(shop, world, 400))
    found = skew(world)
    assert (found["rows"], found["differing_features"]) == (400, 0), found["reason"]
    assert world.checks(NAME, "training_serving_skew") == {"no_skew": True}


def test_a_feature_that_is_served_otherwise_is_named_with_a_request_to_look_at(shop: Gifts, world: World) -> None:
    asked = requests(shop, world, 400)
    wrong = asked["customer_return_rate"].notna() & (asked.index % 3 == 0)
    served = asked.assign(customer_return_rate=asked["customer_return_rate"].where(~wrong, asked["customer_return_rate"] * 100 + 1))
    world.send(NAME, served)
    found = skew(world)
    assert world.checks(NAME, "training_serving_skew") == {"no_skew": False}
    first = found["differences"][0].data
    assert (first["feature"], first["differing"]) == ("customer_return_rate", int(wrong.sum()))
    assert first["request_id"] in set(asked["request_id"][wrong])
    assert float(first["served"]) == pytest.approx(float(first["computed"]) * 100 + 1)
    assert found["differing_features"] == 1


def test_requests_that_named_no_entity_or_came_after_the_newest_data_say_nothing(shop: Gifts, world: World) -> None:
    asked = requests(shop, world, 400)
    world.send(NAME, asked.drop(columns=[name for name in asked if name.startswith(ENTITY_PREFIX)]))
    assert skew(world)["rows"] == 0
    world.send(NAME, asked.assign(event_time=pd.Timestamp(date(2030, 1, 1), tz="UTC"), request_id="later-" + asked["request_id"]))
    assert skew(world)["rows"] == 0
    assert world.checks(NAME, "training_serving_skew") == {"no_skew": False}


def test_what_others_than_the_champion_answered_says_nothing_of_it(shop: Gifts, world: World) -> None:
    world.send(NAME, requests(shop, world, 400))
    world.log._tables[NAME] = [rows.assign(release="v0") for rows in world.log._tables[NAME]]
    assert skew(world)["rows"] == 0


def test_of_a_champion_of_other_definitions_nothing_is_computed_again(shop: Gifts, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.send(NAME, requests(shop, world, 400))
    module = importlib.import_module(shop.spec.features.transform.partition(":")[0])
    monkeypatch.setattr(module, "VIEWS", (replace(module.VIEWS[0], ttl=timedelta(seconds=1)), *module.VIEWS[1:]))
    assert skew(world)["rows"] == 0


@pytest.fixture
def doubled(shop: Gifts, world: World, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Requests to a release for which the amount is twice what the request says of the discount."""
    module = importlib.import_module(shop.spec.features.transform.partition(":")[0])
    on_demand = OnDemandView("order", (RequestField("discount"),), (Computed("amount", "discount * 2.0"),))
    monkeypatch.setattr(module, "ON_DEMAND", (on_demand,), raising=False)
    monkeypatch.setattr(module, "SERVICES", (FeatureService(shop.spec.features.service, (*module.SERVICES[0].features, "order:amount")),))
    version = world.platform.features.version(shop.spec.features).hash
    world.platform.registry.annotate(NAME, "v1", {"feature_hash": version})
    asked = requests(shop, world, 400)
    return asked.assign(**{f"{REQUEST_PREFIX}discount": asked["discount"]})


def test_what_is_computed_from_the_request_is_computed_again(shop: Gifts, world: World, doubled: pd.DataFrame) -> None:
    assert (doubled["amount"].dropna() == 2 * doubled["discount"].dropna()).all()
    world.send(NAME, doubled)
    found = skew(world)
    assert (found["features"], found["differing_features"]) == (len(shop.spec.features.names) - 3, 0), found["reason"]
    assert "amount" in {record.data["feature"] for record in found["differences"]}


def test_a_server_that_computes_otherwise_is_found_out(world: World, doubled: pd.DataFrame) -> None:
    world.send(NAME, doubled.assign(amount=doubled["amount"] + 1))
    found = skew(world)
    first = found["differences"][0].data
    assert (first["feature"], first["differing"]) == ("amount", int(doubled["amount"].notna().sum()))


def test_a_caller_that_sent_the_feature_itself_has_no_skew(world: World, doubled: pd.DataFrame) -> None:
    world.send(NAME, doubled.assign(amount=7.0, **{f"{REQUEST_PREFIX}discount": float("nan")}))
    assert skew(world)["differing_features"] == 0
