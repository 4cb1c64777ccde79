"""Our offline store under Feast's own API: what a view may say, queries as events, saved datasets, and errors that say how to mend."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.errors import BadData, SpecError, Unavailable
from tests.adapters.test_feast import SHOPS, asked

OFFLINE = "mlops_assets.adapters.feast_offline.AsKnownOfflineStore"
Make = Callable[..., Any]


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2013-01-{text}").replace(tzinfo=UTC)


def rows(path: Path, *values: tuple[Any, ...], columns: str = "shop town event written sales") -> Path:
    frame = pd.DataFrame(values, columns=columns.split())
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False, coerce_timestamps="us", allow_truncated_timestamps=True)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A Feast store with one view of ``sales`` by the entities given."""
    return partial(shop_store, tmp_path)


def shop_store(
    folder: Path,
    path: Path,
    entities: tuple[str, ...] = ("shop",),
    offline: dict[str, Any] | None = None,
    ttl: timedelta | None = None,
    **source: Any,
) -> Any:
    import feast
    from feast.types import Float64, String

    config = feast.RepoConfig(
        project="shops",
        provider="local",
        repo_path=str(folder),
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store={"type": OFFLINE, **(offline or {})},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = feast.FeatureStore(config=config)
    named = [feast.Entity(name=name, join_keys=[name], value_type=feast.ValueType.STRING) for name in entities]
    columns = {"timestamp_field": "event", "created_timestamp_column": "written", **source}
    schema = [*(feast.Field(name=name, dtype=String) for name in entities), feast.Field(name="sales", dtype=Float64)]
    view = feast.FeatureView(
        name="sales_of", entities=named, ttl=ttl, schema=schema, source=feast.FileSource(name="sales_of", path=str(path), **columns)
    )
    store.apply([*named, view])
    return store


def events(*asking: tuple[Any, ...], columns: str = "shop town event_timestamp") -> pd.DataFrame:
    return pd.DataFrame(asking, columns=columns.split())


def found(store: Any, entity_df: Any, **options: Any) -> list[float | None]:
    frame = store.get_historical_features(entity_df=entity_df, features=["sales_of:sales"], **options).to_df()
    return [None if pd.isna(value) else value for value in frame.iloc[:, -1]]


def test_an_entity_may_be_known_by_several_columns_or_by_none(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0), ("a", "Bonn", at("05T10"), at("05T10"), 2.0))
    asking = events(("a", "Bonn", at("05T12")), ("a", "Ulm", at("05T12")), ("b", "Ulm", at("05T12")), ("a", None, at("05T12")))
    assert found(make(path, ("shop", "town")), asking) == [2, 1, None, None]
    assert found(make(path, ()), asking) == [2, 2, 2, 2]


def test_without_a_column_that_says_when_a_row_was_written_it_is_known_as_soon_as_it_is_valid(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T11"), 1.0), ("a", "Ulm", at("05T09"), None, 2.0))
    asking = events(("a", "Ulm", at("05T10")), ("a", "Ulm", at("05T11")))
    assert found(make(path, created_timestamp_column=None), asking) == [2, 2]
    # One that has the column and leaves it empty is never known to have been there.
    assert found(make(path), asking) == [None, 1]


def test_without_a_time_to_live_values_stand_for_ever(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0))
    asking = events(("a", "Ulm", datetime(2033, 1, 1, tzinfo=UTC)), ("a", "Ulm", at("05T08")))
    assert found(make(path), asking) == [1, None]
    assert found(make(path, ttl=timedelta(days=1)), asking) == [None, None]


def test_a_folder_of_files_is_read_in_order_and_times_without_a_zone_are_utc(make: Make, tmp_path: Path) -> None:
    naive = at("05T09").replace(tzinfo=None)
    for name, value in (("it's 2", 2.0), ("it's 1", 1.0)):
        rows(tmp_path / "day=5" / f"{name}.parquet", ("a", "Ulm", naive, naive, value))
    store = make(tmp_path / "day=5")
    assert found(store, events(("a", "Ulm", at("05T09")), ("a", "Ulm", at("05T08")))) == [2, None]
    assert found(store, events(("a", "Ulm", naive), ("a", "Ulm", naive - timedelta(hours=1)))) == [2, None]


def test_columns_of_the_file_may_have_other_names_than_the_view(make: Make, tmp_path: Path) -> None:
    columns = 'laden valid_from known_from visible_from "umsatz"'
    path = rows(tmp_path / "a.parquet", ("a", at("05T09"), at("05T10"), 0, 5.0), columns=columns)
    mapping = {"laden": "shop", '"umsatz"': "sales"}
    store = make(path, timestamp_field="valid_from", created_timestamp_column="known_from", field_mapping=mapping)
    asking = events(("a", "Ulm", at("05T09:30")), ("a", "Ulm", at("05T10")))
    assert found(store, asking) == [None, 5]
    job = store.get_historical_features(entity_df=asking, features=["sales_of:sales"], full_feature_names=True)
    assert job.to_df().columns.tolist() == ["shop", "town", "event_timestamp", "sales_of__sales"]


def test_events_may_be_a_query_and_their_answer_a_saved_dataset(make: Make, tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0), ("b", "Ulm", at("05T09"), at("05T09"), 2.0))
    asking = events(("b", "Ulm", at("05T12")), ("a", "Ulm", at("05T12")), ("a", "Ulm", at("05T08")), ("b", "Ulm", at("05T10")))
    asking.to_parquet(tmp_path / "events.parquet", index=False, coerce_timestamps="us")
    store = make(path)
    job = store.get_historical_features(entity_df=f"SELECT * FROM '{tmp_path}/events.parquet'", features=["sales_of:sales"])
    assert found(store, asking) == [2, 1, None, 2]
    assert job.to_df()["sales"].fillna(-1).tolist() == [2, 1, -1, 2]
    saved = tmp_path / "saved.parquet"
    store.create_saved_dataset(from_=job, name="old", storage=SavedDatasetFileStorage(str(saved)))
    assert pq.read_table(saved)["sales"].to_pylist() == [2, 1, None, 2]
    assert len(store.get_saved_dataset("old").to_df()) == 4
    from feast.errors import SavedDatasetLocationAlreadyExists

    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetFileStorage(str(saved)))
    assert not list(tmp_path.glob(".saved*"))


def test_feasts_own_materialization_works_with_it(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0), ("a", "Ulm", at("05T10"), at("05T10"), 2.0))
    store = make(path)
    store.materialize(at("05T00"), at("05T12"))
    assert store.get_online_features(features=["sales_of:sales"], entity_rows=[{"shop": "a"}]).to_dict()["sales"] == [2]


def test_the_order_of_many_events_is_kept_within_little_memory(make: Make, tmp_path: Path) -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    start, count = np.datetime64("2013-01-05", "us"), 300_000
    times = pa.array(start + draw.integers(0, 86_400, count).astype("timedelta64[s]"), pa.timestamp("us", tz="UTC"))
    shops = pa.array([f"shop-{number}" for number in draw.integers(0, 5_000, count)])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"shop": shops, "event": times, "written": times, "sales": draw.random(count)}), path)
    asking = pa.table({"shop": shops, "event_timestamp": times, "number": range(count)})
    pq.write_table(asking.take(draw.permutation(count)), tmp_path / "events.parquet")
    query = f"SELECT * FROM '{tmp_path}/events.parquet'"
    job = make(path, offline={"memory_limit": "100MB", "threads": 2}).get_historical_features(entity_df=query, features=["sales_of:sales"])
    answer = job.to_arrow()
    assert answer["number"].equals(pq.read_table(tmp_path / "events.parquet")["number"])
    # Each event asks at the time of a row of its own shop.
    assert answer["sales"].null_count == 0


def test_what_cannot_be_answered_says_how_to_mend_it(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0))
    store, asking = make(path), events(("a", "Ulm", at("05T12")))
    cases: list[tuple[Any, str]] = [
        (asking.drop(columns="shop"), "looked up by shop too: add it"),
        (asking.assign(sales=1.0), "sales twice: rename or drop it"),
        (asking.drop(columns="event_timestamp"), "name it event_timestamp"),
        ("SELECT nothing FROM nowhere", "DuckDB could not join"),
    ]
    for entity_df, message in cases:
        with pytest.raises(BadData, match=message):
            found(store, entity_df)
    with pytest.raises(BadData, match="expected the events to look features up for"):
        store.get_historical_features(features=["sales_of:sales"], start_date=at("05T00"), end_date=at("06T00"))
    with pytest.raises(BadData, match="DuckDB could not join.*lost"):
        found(make(path, created_timestamp_column="lost"), asking.assign(lost=at("05T09")))  # the events' column is not the view's
    path.unlink()
    with pytest.raises(BadData, match="no Parquet file at"):
        found(store, asking)


def test_a_memory_limit_that_is_too_small_is_named(make: Make, tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0))
    with pytest.raises(Unavailable, match=r"raise memory_limit \(100KB\)"):
        found(make(path, offline={"memory_limit": "100KB"}), events(("a", "Ulm", at("05T12"))))


def test_another_offline_store_in_the_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text(
        "project: shops\nprovider: local\nregistry: r.db\noffline_store: {type: duckdb}\nonline_store: {type: sqlite}\n"
    )
    store = FeastFeatureStore(tmp_path, tmp_path / "home", MemoryObjectStore())
    message = r"got offline_store type 'duckdb', expected .*\.AsKnownOfflineStore or.*\.AsKnownRayOfflineStore: write one of them"
    with pytest.raises(SpecError, match=message):
        store.as_of(SHOPS, asked(("a", "05T10:00")))
