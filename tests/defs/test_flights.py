"""The real model ``flight-delay``: what lands, and what its features see."""

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from feature_repo.flight_delay import ON_DEMAND, SERVICES, VIEWS, build_views
from mlops_assets.adapters import on_demand
from mlops_assets.defs.flight_delay import landing, training

BLIZZARD = date(2013, 2, 9)
SPRING_FORWARD = date(2013, 3, 10)


@pytest.fixture(scope="module")
def document() -> dict:
    return yaml.safe_load((Path(landing.__file__).parent / "defs.yaml").read_text())["attributes"]


def datasets(last: date, days: int) -> dict[str, pd.DataFrame]:
    wanted = [last - timedelta(days=back) for back in reversed(range(days))]
    read = {"events": landing.events, "labels": landing.labels, "weather": landing.weather}
    return {name: pd.concat([of_day(day) for day in wanted], ignore_index=True) for name, of_day in read.items()}


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def of_day(views, day: date) -> dict[str, pd.DataFrame]:
    start, end = midnight(day), midnight(day + timedelta(days=1))
    return {name: rows[(rows["event_timestamp"] >= start) & (rows["event_timestamp"] < end)] for name, rows in views.items()}


def ordered(view, rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values([view.entity, "event_timestamp"]).reset_index(drop=True)


def test_a_flight_is_asked_about_two_hours_before_its_departure_in_utc() -> None:
    first = landing.events(date(2013, 1, 1)).set_index("flight_id").loc["2013-01-01-UA1545-EWR-0515"]
    assert first["scheduled_departure"] == pd.Timestamp("2013-01-01T10:15Z")
    assert first["event_time"] == pd.Timestamp("2013-01-01T08:15Z")
    assert first["scheduled_arrival"] == pd.Timestamp("2013-01-01T14:19Z")  # 08:19 in Houston


def test_a_label_is_known_when_the_flight_lands() -> None:
    label = landing.labels(date(2013, 1, 1)).set_index("flight_id").loc["2013-01-01-UA1545-EWR-0515"]
    assert (label["late"], label["delay_minutes"]) == (0, 11.0)
    assert label["known_at"] == pd.Timestamp("2013-01-01T14:30Z")


def test_local_hours_stay_local_when_the_clocks_change() -> None:
    before, after = landing.events(SPRING_FORWARD - timedelta(days=1)), landing.events(SPRING_FORWARD)
    six = [rows[rows["flight_id"].str.endswith("-0600")]["scheduled_departure"].dt.hour.unique().tolist() for rows in (before, after)]
    assert six == [[11], [10]]


def test_hour_and_weekday_are_new_yorks_and_the_block_time_is_minutes_all_year() -> None:
    rows = landing._flights().groupby(landing._flights()["event_time"].dt.date).head(40).reset_index(drop=True)
    found = on_demand.computed(ON_DEMAND, rows)
    local = rows["scheduled_departure"].dt.tz_convert("America/New_York")
    block = (rows["scheduled_arrival"] - rows["scheduled_departure"]).dt.total_seconds() / 60
    assert found.to_dict("list") == {
        "hour": local.dt.hour.tolist(),
        "weekday": local.dt.weekday.tolist(),
        "block_minutes": block.tolist(),
    }
    assert (block > 0).all()


def test_flight_ids_are_unique_over_the_year() -> None:
    assert landing._flights()["flight_id"].is_unique


def test_cancelled_and_diverted_flights_have_no_label_ever() -> None:
    missing = landing.unlabelled(BLIZZARD)
    assert missing == len(landing.events(BLIZZARD)) - len(landing.labels(BLIZZARD)) > 300


def test_batches_land_every_row_once_and_no_label_before_it_is_known() -> None:
    start = date(2013, 1, 3)
    landed: dict[str, bytes] = {}
    for first, behind in ((start, start + timedelta(days=2)), (start + timedelta(days=2), start + timedelta(days=4))):
        for file in landing.files_of_batch(first, behind):
            assert file.key not in landed
            landed[file.key] = file.data
            if "/labels/" in file.key:
                known_at = pd.read_parquet(io.BytesIO(file.data))["known_at"]
                assert known_at.max() < pd.Timestamp(midnight(behind))
                assert known_at.min() >= pd.Timestamp(midnight(first))
    of_third = [pd.read_parquet(io.BytesIO(data)) for key, data in landed.items() if "/labels/2013-01-03/" in key]
    assert len(of_third) == 2
    together = pd.concat(of_third).sort_values(["known_at", "flight_id"], ignore_index=True)
    pd.testing.assert_frame_equal(together, landing.labels(start))


def test_all_that_is_known_by_a_day_is_the_batch_from_the_first_day_on() -> None:
    assert landing.files_known_by(date(2013, 1, 2)) == landing.files_of_batch(landing.FIRST_DAY, date(2013, 1, 2))


def test_the_same_day_lands_as_the_same_bytes() -> None:
    once, again = (landing.files_of_batch(BLIZZARD, BLIZZARD + timedelta(days=1)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("name", ["events", "labels", "weather"])
def test_landed_rows_have_the_declared_columns_within_their_bounds(document: dict, name: str) -> None:
    declared = document["data"]["datasets"][name]
    days = [date(2013, 1, 5), BLIZZARD, SPRING_FORWARD, date(2013, 7, 10)]
    for rows in (getattr(landing, name)(day) for day in days):
        assert list(rows.columns) == list(declared["columns"])
        assert len(rows) >= declared["min_rows"]
        assert not rows.duplicated(declared["key"]).any()
        for column, rule in declared["columns"].items():
            assert rule.get("nullable", False) or rows[column].notna().all()
            assert rows[column].isna().mean() <= rule.get("max_null_rate", 1.0)
            assert "minimum" not in rule or (rows[column].dropna() >= rule["minimum"]).all()
            assert "maximum" not in rule or (rows[column].dropna() <= rule["maximum"]).all()
            if rule["type"] == "timestamp":
                assert str(rows[column].dtype) == "datetime64[us, UTC]"


def test_the_wind_of_a_thousand_miles_an_hour_breaks_the_declared_bound(document: dict) -> None:
    wind = landing.weather(date(2013, 2, 12))["wind_speed"]
    assert wind.max() > 1000 > document["data"]["datasets"]["weather"]["columns"]["wind_speed"]["maximum"]


def test_every_input_is_a_column_of_the_events_or_a_field_of_the_service(document: dict) -> None:
    fields = {reference.split(":")[1] for reference in SERVICES[0].features}
    inputs = {feature["name"] for feature in document["features"]["inputs"]}
    assert inputs <= fields | set(landing.EVENT_COLUMNS)
    assert SERVICES[0].name == document["features"]["service"]
    assert {view.entity for view in VIEWS} == set(document["features"]["entities"])


def test_a_year_cut_into_days_has_the_same_feature_rows() -> None:
    day = date(2013, 1, 9)
    whole = of_day(build_views(datasets(day, 9), midnight(date(2013, 1, 1)), midnight(day + timedelta(days=1))), day)
    alone = build_views(datasets(day, 6), midnight(day), midnight(day + timedelta(days=1)))
    for view in VIEWS:
        assert len(alone[view.name]) > 0
        pd.testing.assert_frame_equal(ordered(view, alone[view.name]), ordered(view, whole[view.name]))


def test_a_label_changes_no_feature_row_from_before_it_was_known() -> None:
    day = date(2013, 1, 9)
    given = datasets(day, 6)
    start, end = midnight(day), midnight(day + timedelta(days=1))
    noon = pd.Timestamp(start + timedelta(hours=12))
    labels = given["labels"]
    later = labels["known_at"] > noon
    poisoned = labels.assign(late=labels["late"].where(~later, 1), delay_minutes=labels["delay_minutes"].where(~later, 9999.0))
    before, after = (build_views({**given, "labels": rows}, start, end) for rows in (labels, poisoned))
    for view in VIEWS:
        old, new = (rows[view.name][rows[view.name]["event_timestamp"] <= noon].reset_index(drop=True) for rows in (before, after))
        pd.testing.assert_frame_equal(old, new)
    assert not before["carrier_delays"].equals(after["carrier_delays"])


def test_delay_rates_are_those_of_the_arrivals_of_the_last_hours() -> None:
    day = date(2013, 1, 9)
    given = datasets(day, 6)
    rows = build_views(given, midnight(day), midnight(day + timedelta(days=1)))["carrier_delays"]
    hour = pd.Timestamp(midnight(day) + timedelta(hours=18))
    known = given["labels"].merge(given["events"][["flight_id", "carrier"]], on="flight_id")
    recent = known[(known["carrier"] == "B6") & (known["known_at"] > hour - pd.Timedelta(hours=6)) & (known["known_at"] <= hour)]
    found = rows[(rows["carrier"] == "B6") & (rows["event_timestamp"] == hour)].iloc[0]
    assert found["carrier_late_rate_6h"] == pytest.approx(recent["late"].mean())
    assert found["carrier_mean_delay_6h"] == pytest.approx(recent["delay_minutes"].mean())


def test_the_aircraft_s_row_is_its_last_arrivals_within_three_days() -> None:
    def flight(number: int, day: int, late: int) -> dict[str, object]:
        known_at = pd.Timestamp(f"2013-01-{day:02}T12:00Z").as_unit("us")
        return {"flight_id": f"f{number}", "late": late, "delay_minutes": 60.0 * late, "known_at": known_at}

    labels = pd.DataFrame([flight(1, 1, 1), flight(2, 5, 1), flight(3, 6, 0), flight(4, 7, 0)])
    events = pd.DataFrame({"flight_id": labels["flight_id"], "carrier": "UA", "origin": "EWR", "tailnum": "N1"})
    given = {"labels": labels, "events": events, "weather": pd.DataFrame()}
    aircraft = build_views(given, midnight(date(2013, 1, 1)), midnight(date(2013, 1, 8)))["aircraft_delays"]
    assert aircraft["aircraft_last_delay"].tolist() == [60.0, 60.0, 0.0, 0.0]
    assert aircraft["aircraft_late_rate"].tolist() == pytest.approx([1.0, 1.0, 1 / 2, 1 / 3])


def test_days_without_any_data_have_empty_views_of_the_right_columns() -> None:
    nothing = {name: pd.DataFrame() for name in ("events", "labels", "weather")}
    views = build_views(nothing, midnight(BLIZZARD), midnight(BLIZZARD + timedelta(days=1)))
    assert {view.name: tuple(views[view.name].columns) for view in VIEWS} == {view.name: view.columns for view in VIEWS}
    assert all(views[view.name].empty for view in VIEWS)


def test_the_same_rows_and_seed_give_the_same_model() -> None:
    rng = np.random.default_rng(1)
    features = pd.DataFrame(rng.normal(size=(2000, 3)).astype(np.float32), columns=["a", "b", "c"])
    features.loc[::7, "b"] = np.nan
    label = (features["a"] + rng.normal(size=2000) > 1).to_numpy(dtype=int)
    once, again = (training.train(features, label, seed=3, n_estimators=20) for _ in range(2))
    np.testing.assert_array_equal(once.predict_proba(features), again.predict_proba(features))
    assert once.n_estimators == 20
    assert abs(once.predict_proba(features)[:, 1].mean() - label.mean()) < 0.02
