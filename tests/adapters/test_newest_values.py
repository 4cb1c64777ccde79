"""Since when the newest value of a view has been valid, as known at a time: in Feast's store and in memory alike."""

from datetime import date
from pathlib import Path

import pytest

from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.ports import FeatureStore
from tests.adapters.test_feast import REPO, SALES, SHOPS, at, sales, write


@pytest.fixture(params=["feast", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    return FeastFeatureStore(REPO, tmp_path, MemoryObjectStore()) if request.param == "feast" else MemoryFeatureStore()


def test_a_view_without_rows_has_no_newest_value(store: FeatureStore) -> None:
    assert store.newest(SHOPS, at("05T12:00")) == {"shop_sales": None, "town_weather": None}


def test_the_newest_value_is_the_one_that_was_known_then(store: FeatureStore) -> None:
    write(
        store, sales(("a", "05T09:00", "05T09:00", 1, None), ("b", "05T10:00", "05T11:00", 2, None), ("b", "05T12:00", "05T12:00", 3, None))
    )
    seen = [store.newest(SHOPS, at(until))["shop_sales"] for until in ("05T08:59", "05T10:59", "05T11:00", "05T23:00")]
    assert seen == [None, at("05T09:00"), at("05T10:00"), at("05T12:00")]


def test_rows_of_nulls_are_no_values_and_one_field_is_enough(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", None, "good"), ("a", "05T10:00", "05T10:00", None, None)))
    assert store.newest(SHOPS, at("05T12:00"))["shop_sales"] == at("05T09:00")


def test_a_value_that_is_gone_is_none(store: FeatureStore) -> None:
    rows = sales(("a", "05T09:00", "05T09:00", 1, None), ("a", "05T10:00", "05T10:00", 2, None))
    write(store, rows)
    store.write(SALES, date(2013, 1, 5), rows[:1], at("05T11:00"))
    # What was known before stays in the history, where it is the newest that there was.
    assert store.newest(SHOPS, at("05T10:30"))["shop_sales"] == at("05T10:00")


def test_of_one_entity_only_its_own_values_count(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, None), ("b", "05T10:00", "05T10:00", 2, None)))
    found = [store.newest(SHOPS, at("05T12:00"), {"shop": shop})["shop_sales"] for shop in ("a", "b", "c")]
    assert found == [at("05T09:00"), at("05T10:00"), None]
    assert store.newest(SHOPS, at("05T12:00"), {})["shop_sales"] is None
