"""What the UI shows of features: statistics of each, and whether their views are fresh."""

import math
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from mlops_assets.adapters import tables
from mlops_assets.assets import feature_statistics
from tests.assets.gifts import HOUR, NAME, SLUG, Gifts
from tests.assets.test_history import FIRST, assemble, day, ingest, land, put
from tests.world import World

VIEW = f"{SLUG}_customers"


def records(metadata: Any) -> dict[str, dict[str, Any]]:
    return {record.data["feature"]: record.data for record in metadata["statistics"].records}


def by_duckdb(figures: str, values: pd.Series) -> list[Any]:
    """The reference, of the column ``x``."""
    with duckdb.connect() as connection:
        connection.register("frame", values.astype(object).where(values.notna(), None).to_frame("x"))
        return list(connection.execute(f"SELECT {figures}, count(*), 1 - count(x) / count(*) FROM frame").fetchall()[0])


@pytest.mark.parametrize("seed", range(4))
def test_the_statistics_of_numbers_are_those_of_duckdb(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = pd.Series(np.where(rng.random(501 + seed) < 0.2, np.nan, rng.lognormal(3, 2, 501 + seed)))
    told = feature_statistics.summarize("view", "x", values, is_text=False)
    found = [told.mean, told.std, told.min, told.median, told.max, told.rows, told.null_rate]
    assert found == pytest.approx(by_duckdb("avg(x), stddev_samp(x), min(x), median(x), max(x)", values))
    assert (told.distinct, told.top) == (None, None)


def test_the_statistics_of_texts_are_those_of_duckdb() -> None:
    values = pd.Series(np.random.default_rng(0).choice(["web", "app", "phone", None], 300, p=[0.5, 0.2, 0.1, 0.2]))
    told = feature_statistics.summarize("view", "x", values, is_text=True)
    assert [told.distinct, told.rows, told.null_rate, told.top] == [
        *by_duckdb("count(DISTINCT x)", values),
        *by_duckdb("mode(x)", values)[:1],
    ]
    assert told.mean is None


@pytest.mark.parametrize(
    ("values", "is_text", "told"),
    [
        ([], False, {"rows": 0}),
        ([], True, {"rows": 0, "distinct": 0}),
        ([None, None], False, {"rows": 2, "null_rate": 1.0}),
        ([None, None], True, {"rows": 2, "null_rate": 1.0, "distinct": 0}),
        ([7.0], False, {"rows": 1, "null_rate": 0.0, "mean": 7.0, "min": 7.0, "median": 7.0, "max": 7.0}),
        ([math.inf, 1.0], False, {"rows": 2, "null_rate": 0.0, "min": 1.0}),
        (["b", "a"], True, {"rows": 2, "null_rate": 0.0, "distinct": 2, "top": "a"}),
        (pd.array([1, None], "Int64"), False, {"rows": 2, "null_rate": 0.5, "mean": 1.0, "min": 1.0, "median": 1.0, "max": 1.0}),
    ],
)
def test_what_cannot_be_told_is_left_out(values: Any, is_text: bool, told: dict[str, Any]) -> None:
    (record,) = feature_statistics.table([feature_statistics.summarize("v", "f", pd.Series(values), is_text)]).records
    assert {name: value for name, value in record.data.items() if value is not None} == {"view": "v", "feature": "f", **told}


@pytest.fixture(scope="module")
def landed(shop: Gifts) -> World:
    world, _ = shop.world()
    land(shop, world, 20)
    return world


def test_each_day_of_features_has_the_statistics_of_its_own_rows(landed: World) -> None:
    days = {key: landed.materializations(NAME, "features", key)[-1].metadata for key in (f"{day(2)}", f"{day(9)}")}
    rows = [landed.platform.features._days[VIEW][date.fromisoformat(key)] for key in days]  # type: ignore[attr-defined]
    for metadata, frame in zip(days.values(), rows, strict=True):
        told = records(metadata)["customer_return_rate"]
        assert (told["view"], told["rows"], metadata[f"rows_{VIEW}"].value) == (VIEW, len(frame), len(frame))
        assert told["mean"] == pytest.approx(frame["customer_return_rate"].mean())
    assert len(rows[0]) != len(rows[1])


def test_a_training_set_has_the_statistics_of_every_input_and_where_it_comes_from(landed: World, shop: Gifts) -> None:
    made = assemble(landed, pd.Timestamp(day(20), tz="UTC").to_pydatetime())
    training = tables.read_set(landed.objects, NAME, made["training"])
    told = records(landed.materializations(NAME, "training_set")[-1].metadata)
    assert {name: record["view"] for name, record in told.items()} == {
        **dict.fromkeys(("items", "amount", "discount", "channel"), "events"),
        **dict.fromkeys(("customer_return_rate", "customer_outcomes"), VIEW),
    }
    assert told["amount"]["mean"] == pytest.approx(training["amount"].mean())
    assert told["discount"]["null_rate"] == pytest.approx(training["discount"].isna().mean())
    assert (told["channel"]["distinct"], told["channel"]["top"]) == (3, training["channel"].mode()[0])


def views_fresh(world: World) -> Any:
    world.clock.advance(HOUR)
    assert world.materialize(NAME, "online_features").success  # it blocks nothing
    (found,) = [each for each in world.runs[-1].get_asset_check_evaluations() if each.check_name == "views_fresh"]
    return found


def test_a_view_whose_newest_value_is_within_its_time_to_live_is_fresh(landed: World) -> None:
    found = views_fresh(landed)
    assert found.passed
    assert found.metadata["threshold"].value == 7 * 24
    assert 0 < found.metadata["value"].value < 24
    (row,) = found.metadata["views"].records
    assert (row.data["name"], row.data["outcome"], row.data["reason"]) == (VIEW, "pass", found.description)


def test_a_view_that_nothing_feeds_any_more_is_not_fresh_though_events_land(shop: Gifts) -> None:
    world, _ = shop.world()
    land(shop, world, 8)
    for number in range(8, 20):
        put(world, "events", day(number), "orders", shop.sample.orders(day(number))[shop.sample.EVENT_COLUMNS])
    ingest(world)
    found = views_fresh(world)
    assert not found.passed
    assert found.metadata["value"].value > found.metadata["threshold"].value
    assert f"{VIEW}: its newest value is 12 days" in found.description


def test_a_view_without_rows_is_told_so(shop: Gifts) -> None:
    world, _ = shop.world()
    put(world, "events", FIRST, "orders", shop.sample.orders(FIRST)[shop.sample.EVENT_COLUMNS])
    ingest(world)
    found = views_fresh(world)
    assert not found.passed
    assert found.description.startswith(f"{VIEW}: no row of it has a value: see that what it is made of lands")
