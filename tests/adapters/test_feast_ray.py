"""Beyond one machine: Ray gives the rows that DuckDB gives, however the events are cut, and keeps to this machine if it has no other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings

from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.errors import BadData, SpecError, Unavailable
from mlops_assets.core.feature_spec import Features
from mlops_assets.ports import FeatureStore
from tests.adapters.test_feast import RAIN, REPO, SALES, SHOPS, asked, at, real_flights, sales, write_all
from tests.adapters.test_feast_offline import events, found, rows, shop_store
from tests.adapters.test_point_in_time import QUESTIONS, ROWS, Question, Row, answer, put, questions

pytestmark = pytest.mark.long

DAY = date(2013, 1, 5)
Stores = tuple[FeatureStore, FeatureStore]


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What ``offline_store`` says for a small Ray of this machine, which the first question starts. It cuts wherever it can."""
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.setenv("RAY_AUTH_MODE", "token")
        patched.setenv("RAY_AUTH_TOKEN", "of-these-tests-and-no-secret")  # else Ray writes one to the home of whoever tests
        yield {
            "type": "mlops_assets.adapters.feast_ray.AsKnownRayOfflineStore",
            "memory_limit": "200MB",
            "events_per_task": 2,
            "ray_conf": {"num_cpus": 2, "object_store_memory": 200_000_000, "_temp_dir": str(tmp_path_factory.mktemp("ray"))},
        }
        from feast.infra.ray_initializer import shutdown_ray

        started = set(psutil.Process().children(recursive=True)) - before
        shutdown_ray()
        assert not psutil.wait_procs(started, timeout=20)[1]


def both(folder: Path, on_ray: dict[str, Any], objects: MemoryObjectStore | None = None) -> Stores:
    """The same feature repository on Ray and on DuckDB, which differ in ``feature_store.yaml`` alone, over the same objects."""
    document = yaml.safe_load((REPO / "feature_store.yaml").read_text())
    (folder / "repo").mkdir()
    (folder / "repo" / "feature_store.yaml").write_text(yaml.safe_dump({**document, "offline_store": on_ray}))
    objects = objects or MemoryObjectStore()
    return FeastFeatureStore(folder / "repo", folder / "ray", objects), FeastFeatureStore(REPO, folder / "duckdb", objects)


@pytest.fixture(scope="module")
def emptied(on_ray: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Stores]:
    """Gives the same two stores each time, in which nothing was written."""
    objects = MemoryObjectStore()
    stores = both(tmp_path_factory.mktemp("stores"), on_ray, objects)

    def empty() -> Stores:
        for info in objects.list("tables/"):
            objects.delete(info.key)
        return stores

    return empty


@pytest.fixture
def fresh(on_ray: dict[str, Any], tmp_path: Path) -> Stores:
    return both(tmp_path, on_ray)


def same(stores: Stores, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
    on_ray, on_duckdb = (store.as_of(features, entities) for store in stores)
    pd.testing.assert_frame_equal(on_ray, on_duckdb)
    return on_ray


def test_real_flights_get_the_same_features_row_for_row(on_ray: dict[str, Any], tmp_path: Path) -> None:
    features, views, flights = real_flights()
    stores = both(tmp_path, {**on_ray, "events_per_task": 1_500})
    write_all(stores[:1], views)
    seen = same(stores, features, flights)
    assert seen["flight_id"].tolist() == flights["flight_id"].tolist()
    assert 0 < seen["temperature"].isna().mean() < 0.6
    assert seen["aircraft_last_delay"].notna().any()


@settings(max_examples=25)
@given(rows=ROWS, asking=QUESTIONS)
def test_every_event_comes_back_once_in_its_place_with_the_newest_value_known_at_its_time(
    emptied: Callable[[], Stores], rows: list[Row], asking: list[Question]
) -> None:
    stores = emptied()
    put(stores[0], rows)
    entities = questions(asking)
    seen = same(stores, SHOPS, entities)
    pd.testing.assert_frame_equal(seen[list(entities.columns)], entities)
    assert [None if pd.isna(value) else value for value in seen["sales"]] == [answer(rows, question) for question in asking]


@dataclass(frozen=True)
class Case:
    name: str
    rows: list[tuple[str, str, str, float | None, str | None]]
    asking: list[tuple[str | None, str]]
    expected: list[float | None]


FIRST = ("a", "05T09:00", "05T09:00", 1, "good")
CASES = [
    Case(
        "written later than the event",
        [FIRST, ("a", "05T09:30", "05T11:00", 9, "bad")],
        [("a", "05T11:00"), ("a", "05T10:59:59"), ("a", "05T10:00")],
        [9, 1, 1],
    ),
    Case(
        "a late correction of an old value",
        [FIRST, ("a", "05T10:00", "05T10:00", 2, None), ("a", "05T09:00", "05T11:00", 8, None)],
        [("a", "05T09:30"), ("a", "05T11:30"), ("a", "05T10:30")],
        [1, 2, 2],
    ),
    Case(
        "of one time, the later written; of one writing, the last",
        [("a", "05T09:00", "05T09:30", 2, None), FIRST, ("a", "05T09:00", "05T09:30", 3, None)],
        [("a", "05T10:00"), ("a", "05T09:15")],
        [3, 1],
    ),
    Case("up to and with the end of its time to live", [FIRST], [("a", "05T12:00:00.000001"), ("a", "05T12:00")], [None, 1]),
    Case(
        "within one second", [("a", "05T09:00:00.9", "05T09:00:00.9", 1, None)], [("a", "05T09:00:00.8"), ("a", "05T09:00:00.9")], [None, 1]
    ),
    Case(
        "no entity, an unknown one, and one event twice",
        [FIRST],
        [("a", "05T10:00"), (None, "05T10:00"), ("nowhere", "05T09:30"), ("a", "05T10:00"), ("a", "05T08:00")],
        [1, None, None, 1, None],
    ),
    Case("a null is a value", [FIRST, ("a", "05T09:30", "05T09:30", None, None)], [("a", "05T10:00"), ("a", "05T09:15")], [None, 1]),
    Case("a view without rows", [], [("a", "05T10:00"), ("b", "05T09:00"), (None, "05T11:00")], [None, None, None]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_cases(fresh: Stores, case: Case) -> None:
    if case.rows:
        fresh[0].write(SALES, DAY, sales(*case.rows), at("05T00:00"))
    seen = same(fresh, SHOPS, asked(*case.asking))
    assert [None if pd.isna(value) else value for value in seen["sales"]] == case.expected


def test_several_views_each_by_an_entity_of_its_own_and_strings_of_few_kinds(fresh: Stores) -> None:
    rows = sales(("a", "05T09:00", "05T09:00", 1, "good"), ("b", "05T09:00", "05T09:00", 2, "bad"), ("a", "05T11:00", "05T11:00", 3, None))
    fresh[0].write(SALES, DAY, rows.astype({"mood": "category", "shop": "category"}), at("05T00:00"))
    weather = pd.DataFrame({"town": ["Ulm", "Bonn"], "event_timestamp": [at("04T12:00"), at("05T10:00")], "rain": [5.0, 7.0]})
    for day, part in weather.assign(created_timestamp=weather["event_timestamp"]).groupby(weather["event_timestamp"].dt.date):
        fresh[0].write(RAIN, day, part, at("05T00:00"))
    asking = asked(("b", "05T10:00"), ("a", "05T12:00"), ("a", "05T10:30"), (None, "05T10:30"), ("b", "05T12:00:01"))
    asking = asking.assign(town=["Ulm", "Bonn", "Bonn", "Ulm", None])
    for entities in (asking, asking.astype({"shop": "category", "town": "category"})):
        seen = same(fresh, SHOPS, entities)
        assert seen["sales"].fillna(-1).tolist() == [2, 3, 1, -1, -1]
        assert seen["mood"].fillna("").tolist() == ["bad", "", "good", "", ""]
        assert seen["rain"].fillna(-1).tolist() == [5, 7, 7, 5, -1]


def test_whatever_feast_lets_a_view_say_ray_understands_too(on_ray: dict[str, Any], tmp_path: Path) -> None:
    values = [
        ("a", "Ulm", at("05T09"), at("05T09"), 1.0),
        ("a", "Bonn", at("05T10"), at("05T11"), 2.0),
        ("b", "Ulm", at("05T09"), None, 3.0),
    ]
    path = rows(tmp_path / "a.parquet", *values)
    asking = events(("a", "Bonn", at("05T12")), ("a", "Ulm", at("05T08")), ("a", None, at("05T12")), ("b", "Ulm", at("05T12")))
    views: list[tuple[dict[str, Any], list[float | None]]] = [
        ({}, [2, None, 2, None]),
        ({"entities": ("shop", "town")}, [2, None, None, None]),
        ({"entities": ()}, [2, None, 2, 2]),
        ({"ttl": timedelta(hours=1)}, [None, None, None, None]),
        ({"created_timestamp_column": None}, [2, None, 2, 3]),
        ({"created_timestamp_column": "known", "field_mapping": {"written": "known"}}, [2, None, 2, None]),
    ]
    for number, (view, expected) in enumerate(views):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert found(shop_store(folder, path, offline=on_ray, **view), asking) == expected
        assert found(shop_store(folder, path, **view), asking) == expected


def test_on_demand_views_are_computed_from_what_was_joined(on_ray: dict[str, Any], tmp_path: Path) -> None:
    import feast
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64

    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0), ("a", "Ulm", at("05T10"), at("05T10"), 2.0))
    asking = events(("a", "Ulm", at("05T12")), ("b", "Ulm", at("05T12")), ("a", "Ulm", at("05T09")))
    for number, offline in enumerate((on_ray, None)):
        (tmp_path / str(number)).mkdir()
        store = shop_store(tmp_path / str(number), path, offline=offline)

        @on_demand_feature_view(sources=[store.get_feature_view("sales_of")], schema=[feast.Field(name="twice", dtype=Float64)])
        def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"twice": inputs["sales"] * 2})

        store.apply([doubled])
        frame = store.get_historical_features(entity_df=asking, features=["sales_of:sales", "doubled:twice"]).to_df()
        assert frame["twice"].fillna(-1).tolist() == [4, -1, 2]


def test_events_may_be_a_query_and_their_answer_a_saved_dataset(on_ray: dict[str, Any], tmp_path: Path) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0), ("b", "Ulm", at("05T09"), at("05T09"), 2.0))
    asking = events(("b", "Ulm", at("05T12")), ("a", "Ulm", at("05T12")), ("a", "Ulm", at("05T08")), ("b", "Ulm", at("05T10")))
    asking.to_parquet(tmp_path / "events.parquet", index=False, coerce_timestamps="us")
    query = f"SELECT * FROM '{tmp_path}/events.parquet'"
    store = shop_store(tmp_path, path, offline=on_ray)
    job = store.get_historical_features(entity_df=query, features=["sales_of:sales"], filter_by_created_timestamp=True)
    pd.testing.assert_frame_equal(
        job.to_df(), shop_store(tmp_path, path).get_historical_features(entity_df=query, features=["sales_of:sales"]).to_df()
    )
    saved = tmp_path / "saved.parquet"
    store.create_saved_dataset(from_=job, name="old", storage=SavedDatasetFileStorage(str(saved)))
    assert pq.read_table(saved)["sales"].to_pylist() == [2, 1, None, 2]


def test_a_ray_of_this_machine_listens_on_loopback_alone_and_reports_to_nobody(fresh: Stores) -> None:
    same(fresh, SHOPS, asked(("a", "05T10:00")))
    import ray
    from ray._common.usage.usage_lib import usage_stats_enabled

    processes = [child for child in psutil.Process().children(recursive=True) if "ray" in " ".join(child.cmdline())]
    addresses = {held.laddr.ip for child in processes for held in child.net_connections() if held.status == psutil.CONN_LISTEN}
    assert addresses
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
    assert not usage_stats_enabled()


def test_what_cannot_be_answered_says_how_to_mend_it(on_ray: dict[str, Any], tmp_path: Path) -> None:
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0))
    asking = events(("a", "Ulm", at("05T12")))
    store = shop_store(tmp_path, path, offline=on_ray)
    with pytest.raises(BadData, match="expected the events to look features up for"):
        store.get_historical_features(features=["sales_of:sales"], start_date=at("05T00"), end_date=at("06T00"))
    with pytest.raises(BadData, match=r"DuckDB could not join.*lost"):
        found(shop_store(tmp_path, path, offline=on_ray, created_timestamp_column="lost"), asking)
    busy = shop_store(tmp_path, path, offline={**on_ray, "worker_task_options": {"num_cpus": 64}})
    with pytest.raises(Unavailable, match=r"Ray at 'this machine' could not join.*correct ray_address"):
        busy.get_historical_features(entity_df=asking, features=["sales_of:sales"]).to_df(timeout=1)
    job = shop_store(tmp_path, path, offline=on_ray).get_historical_features(entity_df=asking, features=["sales_of:sales"])
    path.unlink()
    with pytest.raises(Unavailable, match=r"has no .*a\.parquet: mount the folder of the views there too"):
        job.to_df()


def test_a_cluster_that_is_not_there_is_named_soon(monkeypatch: pytest.MonkeyPatch, on_ray: dict[str, Any], tmp_path: Path) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    path = rows(tmp_path / "a.parquet", ("a", "Ulm", at("05T09"), at("05T09"), 1.0))
    store = shop_store(tmp_path, path, offline={**on_ray, "ray_address": "127.0.0.1:1"})
    with pytest.raises(Unavailable, match=r"Ray at '127.0.0.1:1' could not join.*refused"):
        found(store, events(("a", "Ulm", at("05T12"))))


def test_without_ray_the_configuration_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, on_ray: dict[str, Any], tmp_path: Path
) -> None:
    monkeypatch.setattr("mlops_assets.adapters.feast.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"needs Ray: install mlops-assets\[ray\]"):
        both(tmp_path, on_ray)[0].as_of(SHOPS, asked(("a", "05T10:00")))
