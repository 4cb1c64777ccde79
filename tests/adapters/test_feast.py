"""Feast and its twin in memory answer alike, and neither shows what was not known."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from feature_repo.flight_delay import VIEWS, build_views
from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.core.errors import BadData, NotFound, SpecError
from mlops_assets.core.feature_spec import Feature, Features
from mlops_assets.defs.flight_delay import landing
from mlops_assets.ports import FeatureStore
from tests.adapters.small_features import VIEWS as SHOP_VIEWS

SALES, RAIN = SHOP_VIEWS
REPO = Path(__file__).parents[2] / "feature_repo"
DAY = date(2013, 1, 9)
SHOPS = Features(
    service="shops_v1",
    entities=("shop", "town"),
    transform="tests.adapters.small_features:build_views",
    inputs=(Feature("sales"), Feature("mood", ("good", "bad")), Feature("rain"), Feature("size")),
    unit="shop",
)


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(f"2013-01-{text}Z").as_unit("us")


def sales(*rows: tuple[str, str, str, float | None, str | None]) -> pd.DataFrame:
    """Rows of (shop, event time, created time, sales, mood)."""
    columns = ["shop", "event_timestamp", "created_timestamp", "sales", "mood"]
    return pd.DataFrame([(shop, at(event), at(created), value, mood) for shop, event, created, value, mood in rows], columns=columns)


def write(store: FeatureStore, rows: pd.DataFrame, written_at: str = "05T00:00") -> None:
    store.write(SALES, date(2013, 1, 5), rows, at(written_at))


def asked(*rows: tuple[str | None, str]) -> pd.DataFrame:
    times = pd.Series([at(time) for _, time in rows], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"shop": [shop for shop, _ in rows], "town": "Ulm", "size": 7, "event_timestamp": times})


def feast(home: Path) -> FeastFeatureStore:
    return FeastFeatureStore(REPO, home, MemoryObjectStore())


@pytest.fixture(params=["feast", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    return feast(tmp_path) if request.param == "feast" else MemoryFeatureStore()


@pytest.fixture
def both(tmp_path: Path) -> tuple[FeatureStore, FeatureStore]:
    return feast(tmp_path), MemoryFeatureStore()


@pytest.fixture(scope="module")
def flights() -> tuple[Features, dict[str, pd.DataFrame], pd.DataFrame]:
    return real_flights()


def real_flights() -> tuple[Features, dict[str, pd.DataFrame], pd.DataFrame]:
    """The model's features, three days of its views, and the flights of six days in no order."""
    days = [DAY - timedelta(days=back) for back in reversed(range(6))]
    read = {"events": landing.events, "labels": landing.labels, "weather": landing.weather}
    datasets = {name: pd.concat([of_day(day) for day in days], ignore_index=True) for name, of_day in read.items()}
    end = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) + timedelta(days=1)
    views = build_views(datasets, end - timedelta(days=3), end)
    names = ["hour", "carrier", "origin", *(field.name for view in VIEWS for field in view.fields)]
    features = Features(
        "flight_delay_v1", ("carrier", "origin", "tailnum"), "feature_repo.flight_delay:build_views", tuple(map(Feature, names)), "flight"
    )
    events = datasets["events"].rename(columns={"event_time": "event_timestamp"})
    return features, dict(views), events.sample(frac=1, random_state=0)


def write_all(stores: tuple[FeatureStore, ...], views: dict[str, pd.DataFrame]) -> None:
    for name, rows in views.items():
        for day, part in rows.groupby(rows["event_timestamp"].dt.date):
            for store in stores:
                store.write(next(view for view in VIEWS if view.name == name), day, part, part["created_timestamp"].max())


@pytest.mark.long
def test_feast_and_memory_agree_on_real_flights_row_for_row(both, flights) -> None:
    features, views, events = flights
    write_all(both, views)
    # As they come from validated tables: pandas' own strings and integers, with NA for what is missing.
    nullable = events.convert_dtypes().assign(event_timestamp=events["event_timestamp"])
    for entities in (events, nullable):
        ours, theirs = (store.as_of(features, entities) for store in both)
        pd.testing.assert_frame_equal(ours, theirs)
        assert ours["flight_id"].tolist() == events["flight_id"].tolist()
    assert 0 < ours["temperature"].isna().mean() < 0.6  # the first three days have no rows
    assert ours.loc[ours["tailnum"].isna(), "aircraft_last_delay"].isna().all()


def test_the_online_store_holds_what_was_known_when_it_was_materialized(both, flights) -> None:
    features, views, events = flights
    write_all(both, views)
    entities = events.drop(columns="event_timestamp").head(400)
    end = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    for until in (end, end + timedelta(hours=1), end - timedelta(hours=30)):
        written = [store.materialize(features, until) for store in both]
        assert written[0] == written[1] > 0
        expected = both[1].as_of(features, entities.assign(event_timestamp=pd.Timestamp(until))).drop(columns="event_timestamp")
        for store in both:
            pd.testing.assert_frame_equal(store.online(features, entities), expected)


def test_materializing_again_writes_only_what_changed(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, "good"), ("b", "05T09:00", "05T09:00", 2, None)))
    assert store.materialize(SHOPS, at("05T10:00")) == 2
    assert store.materialize(SHOPS, at("05T10:30")) == 0
    write(store, sales(("a", "05T09:00", "05T09:00", 5, "good"), ("b", "05T09:00", "05T09:00", 2, None)))
    assert store.materialize(SHOPS, at("05T10:30")) == 1
    assert store.online(SHOPS, asked(("a", "05T10:30"), ("b", "05T10:30")))["sales"].tolist() == [5.0, 2.0]


def test_a_value_past_its_time_to_live_leaves_the_online_store(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, "good")))
    store.materialize(SHOPS, at("05T12:00"))
    assert store.online(SHOPS, asked(("a", "05T12:00")))["sales"].tolist() == [1.0]
    assert store.materialize(SHOPS, at("05T12:01")) == 1
    assert store.online(SHOPS, asked(("a", "05T12:01")))["sales"].isna().all()


def test_a_label_copied_into_a_feature_one_second_after_the_event_is_never_seen(store: FeatureStore) -> None:
    write(store, sales(("a", "05T10:00:01", "05T10:00:01", 1, "good")))
    assert store.as_of(SHOPS, asked(("a", "05T10:00:00")))["sales"].isna().all()
    assert store.as_of(SHOPS, asked(("a", "05T10:00:01")))["sales"].tolist() == [1.0]


def test_a_value_written_later_than_the_event_is_not_seen_though_it_is_dated_before(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, "good"), ("a", "05T09:30", "05T11:00", 9, "bad")))
    found = store.as_of(SHOPS, asked(("a", "05T10:00"), ("a", "05T11:00")))
    assert found["sales"].tolist() == [1.0, 9.0]
    assert found["mood"].tolist() == ["good", "bad"]
    store.materialize(SHOPS, at("05T10:00"))
    assert store.online(SHOPS, asked(("a", "05T10:00")))["sales"].tolist() == [1.0]


def test_a_late_correction_of_an_old_value_does_not_hide_a_newer_one(store: FeatureStore) -> None:
    rows = sales(("a", "05T09:00", "05T09:00", 1, None), ("a", "05T10:00", "05T10:00", 2, None), ("a", "05T09:00", "05T11:00", 8, None))
    write(store, rows)
    assert store.as_of(SHOPS, asked(("a", "05T09:30"), ("a", "05T10:30"), ("a", "05T11:30")))["sales"].tolist() == [1.0, 2.0, 2.0]


def test_of_two_values_for_one_time_the_one_written_later_counts(store: FeatureStore) -> None:
    rows = sales(("a", "05T09:00", "05T09:30", 2, None), ("a", "05T09:00", "05T09:00", 1, None), ("a", "05T09:00", "05T09:30", 3, None))
    write(store, rows)
    assert store.as_of(SHOPS, asked(("a", "05T09:15"), ("a", "05T10:00")))["sales"].tolist() == [1.0, 3.0]


def test_of_two_forecasts_for_one_time_the_one_written_later_counts_wherever_it_stands(store: FeatureStore) -> None:
    rows = sales(("a", "05T09:00", "05T08:30", 2, None), ("a", "05T09:00", "05T08:00", 1, None))
    for order in (rows, rows[::-1]):
        write(store, order)
        assert store.as_of(SHOPS, asked(("a", "05T08:45"), ("a", "05T09:00")))["sales"].fillna(-1).tolist() == [-1, 2]


def test_no_row_is_dropped_whose_only_value_is_later_or_whose_entity_is_unknown(store: FeatureStore) -> None:
    write(store, sales(("a", "05T12:00", "05T12:00", 1, "good")))
    entities = asked(("a", "05T10:00"), (None, "05T13:00"), ("nowhere", "05T13:00"), ("a", "05T13:00"), ("a", "05T13:00"))
    found = store.as_of(SHOPS, entities)
    assert found["sales"].fillna(-1).tolist() == [-1, -1, -1, 1, 1]
    assert found["rain"].isna().all()
    pd.testing.assert_frame_equal(found[list(entities.columns)], entities)


def test_a_value_counts_up_to_and_with_the_end_of_its_time_to_live(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, None)))
    assert store.as_of(SHOPS, asked(("a", "05T12:00"), ("a", "05T12:00:01")))["sales"].fillna(-1).tolist() == [1.0, -1.0]


def test_what_comes_with_the_request_passes_through(store: FeatureStore) -> None:
    entities = asked(("a", "05T10:00"))
    assert set(SHOPS.names) <= set(store.as_of(SHOPS, entities))
    store.materialize(SHOPS, at("05T10:00"))
    assert store.online(SHOPS, entities)["size"].tolist() == [7]


def test_no_entities_give_no_rows_but_every_column(store: FeatureStore) -> None:
    found = store.as_of(SHOPS, asked(("a", "05T10:00")).iloc[:0])
    assert len(found) == 0
    assert set(SHOPS.names) <= set(found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (sales(("a", "06T09:00", "06T09:00", 1, None)), "lie outside that day"),
        (sales(("a", "05T09:00", "05T09:00", 1, None)).drop(columns="created_timestamp"), "created_timestamp is missing"),
        (sales(("a", "05T09:00", "05T09:00", 1, None)).assign(event_timestamp=pd.Timestamp("2013-01-05T09:00")), "with its zone"),
    ],
)
def test_a_day_that_breaks_the_contract_is_refused(store: FeatureStore, rows: pd.DataFrame, message: str) -> None:
    with pytest.raises(BadData, match=message):
        write(store, rows)


def test_an_input_that_nobody_provides_is_named(store: FeatureStore) -> None:
    with pytest.raises(BadData, match="inputs size are neither fields"):
        store.as_of(SHOPS, asked(("a", "05T10:00")).drop(columns="size"))


def test_a_missing_entity_column_is_named(store: FeatureStore) -> None:
    with pytest.raises(BadData, match="looks up by town"):
        store.as_of(SHOPS, asked(("a", "05T10:00")).drop(columns="town"))


def test_an_unknown_service_or_module_is_not_found(store: FeatureStore) -> None:
    with pytest.raises(NotFound, match=r"shops_v9.*shops_v1"):
        store.as_of(replace(SHOPS, service="shops_v9"), asked(("a", "05T10:00")))
    with pytest.raises(NotFound, match="no_such_module"):
        store.version(replace(SHOPS, transform="no_such_module:build"))


def test_the_hash_of_a_service_is_its_own_and_the_same_in_both_stores(both) -> None:
    hashes = {store.version(SHOPS).hash for store in both}
    assert len(hashes) == 1
    assert both[0].version(replace(SHOPS, service="shops_sales_only")).hash not in hashes


def test_two_models_live_in_one_store(both, flights) -> None:
    features, views, events = flights
    write_all(both, views)
    for store in both:
        write(store, sales(("a", "05T09:00", "05T09:00", 1, "good")))
        assert store.as_of(SHOPS, asked(("a", "05T10:00")))["sales"].tolist() == [1.0]
    ours, theirs = (store.as_of(features, events.head(50)) for store in both)
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_second_store_on_the_same_home_sees_the_same_online_values(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    first, second = (FeastFeatureStore(REPO, tmp_path, objects) for _ in range(2))
    write(first, sales(("a", "05T09:00", "05T09:00", 1, "good")))
    assert first.materialize(SHOPS, at("05T10:00")) == 1
    assert second.online(SHOPS, asked(("a", "05T10:00"), (None, "05T10:00")))["sales"].fillna(-1).tolist() == [1.0, -1.0]
    assert second.materialize(SHOPS, at("05T10:00")) == 0


def test_nulls_overwrite_values_in_the_online_store(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, "good"), ("a", "05T10:00", "05T10:00", None, None)))
    store.materialize(SHOPS, at("05T09:30"))
    store.materialize(SHOPS, at("05T10:00"))
    assert store.online(SHOPS, asked(("a", "05T10:00")))[["sales", "mood"]].isna().all(axis=None)


def test_the_twin_in_memory_does_not_import_feast() -> None:
    modules = "mlops_assets.adapters.memory_features, mlops_assets.adapters.feast, feature_repo.flight_delay"
    code = f"import sys, {modules}; assert 'feast' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO.parent)


def test_readers_see_whole_states_while_another_store_writes(tmp_path: Path) -> None:
    objects = MemoryObjectStore()
    writer, reader = (FeastFeatureStore(REPO, tmp_path, objects) for _ in range(2))
    shops = [f"shop-{number}" for number in range(20)]

    def land(value: float) -> None:
        write(writer, sales(*((shop, "05T09:00", "05T09:00", value, None) for shop in shops)))
        writer.materialize(SHOPS, at("05T10:00"))

    land(0)
    entities = asked(*((shop, "05T10:00") for shop in shops))
    with ThreadPoolExecutor(1) as pool:
        landing_all = pool.submit(lambda: [land(value) for value in range(1, 15)])
        while not landing_all.done():
            assert reader.online(SHOPS, entities)["sales"].nunique(dropna=False) == 1
            assert reader.as_of(SHOPS, entities)["sales"].nunique(dropna=False) == 1
        landing_all.result()
    assert set(reader.online(SHOPS, entities)["sales"]) == {14.0}


@pytest.mark.long
def test_feast_is_imported_without_its_run_time_type_checks_and_nothing_else_is_changed() -> None:
    wrong = "feast.FeatureService(name='s', features=[], tags='no mapping')"
    ours = f"given = typeguard.typechecked; feast = import_feast(); assert typeguard.typechecked is given; {wrong}"
    imports = "import typeguard; from mlops_assets.adapters.feast_import import import_feast"
    subprocess.run([sys.executable, "-c", f"{imports}; {ours}"], check=True, cwd=REPO.parent)
    checked = subprocess.run([sys.executable, "-c", f"import feast; {wrong}"], capture_output=True, text=True, check=False)
    assert "TypeCheckError" in checked.stderr


def test_a_feature_module_that_raises_is_told_as_the_models_own_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_features.py").write_text("VIEWS = 1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match="'broken_features' raised ZeroDivisionError"):
        MemoryFeatureStore().version(replace(SHOPS, transform="broken_features:build_views"))


def test_views_that_another_service_of_the_module_takes_stay_fresh(store: FeatureStore) -> None:
    write(store, sales(("a", "05T09:00", "05T09:00", 1, "good")))
    rain = pd.DataFrame({"town": ["Ulm"], "event_timestamp": [at("05T09:00")], "created_timestamp": [at("05T09:00")], "rain": [0.5]})
    store.write(RAIN, date(2013, 1, 5), rain, at("05T09:00"))
    store.materialize(replace(SHOPS, service="shops_sales_only", inputs=(Feature("sales"),)), at("05T10:00"))
    assert store.online(SHOPS, asked(("a", "05T10:00")).drop(columns="event_timestamp"))["rain"].tolist() == [0.5]
