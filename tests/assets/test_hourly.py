"""The hourly run: what was served, compacted, profiled and reported once, for all models and whatever happens to one of them."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pandas as pd
import pytest

from mlops_assets.adapters import hours
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.assets import drift, hourly_monitoring, html_report, keys
from mlops_assets.assets.hourly import Asked, HourlyReport, Made
from mlops_assets.assets.hourly_monitoring import OP, REPORTS
from mlops_assets.core.errors import BadData
from mlops_assets.core.hourly import hour_of
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from tests.assets.gifts import HOUR, NAME, Gifts
from tests.world import World

NOUNS = tuple(report.noun for report in REPORTS)
DAY = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves, and the sensor has looked once."""
    made = shop.copy(shop.with_first_release())[0]
    made.tick("monitoring")
    return made


def ask(world: World, shop: Gifts, rows: int, first: datetime, each: timedelta, seed: int = 1) -> pd.DataFrame:
    """Requests at a steady rate of event time."""
    times = [pd.Timestamp(first + n * each) for n in range(rows)]
    return world.send(NAME, shop.requests(rows, seed=seed).assign(event_time=times))


def an_hour_later(world: World) -> dg.ExecuteInProcessResult:
    world.clock.advance(HOUR)
    assert world.tick("monitoring") == 1
    return world.runs[-1]


def partitions(world: World, noun: str) -> Counter[str]:
    return Counter(str(one.partition) for one in world.materializations(NAME, noun))


def figures(world: World, noun: str) -> dict:
    return {name: value.value for name, value in world.materializations(NAME, noun)[-1].metadata.items() if hasattr(value, "value")}


def test_a_smoke_test_of_today_does_not_move_the_window_of_a_year_that_is_replayed(world: World, shop: Gifts) -> None:
    ask(world, shop, 100, DAY, timedelta(minutes=2))
    late = world.log._tables[NAME][-1].head(5)
    now = pd.Timestamp(world.clock())
    world.log.append(NAME, late.assign(role="shadow", event_time=now, request_id="smoke-" + late["request_id"]))
    assert an_hour_later(world).success
    assert (figures(world, "drift_report")["rows"], figures(world, "drift_report")["profiles"]) == (100, 4)


def test_one_run_an_hour_records_each_event_hour_of_what_was_served(world: World, shop: Gifts) -> None:
    ask(world, shop, 100, DAY, timedelta(minutes=2))  # 3 h 20
    assert world.tick("monitoring") == 0  # the hour is not over
    assert an_hour_later(world).success
    assert world.tick("monitoring") == 0
    each = Counter({f"2024-04-01-0{n}:00": 1 for n in range(4)})
    assert partitions(world, "predictions") == partitions(world, "prediction_profile") == each
    assert partitions(world, "drift_report") == Counter({"2024-04-01-03:00": 1})
    assert (figures(world, "predictions")["rows"], figures(world, "drift_report")["rows"]) == (10, 100)
    assert figures(world, "drift_report")["profiles"] == 4


def test_a_later_answer_makes_its_own_hour_anew_and_no_other(world: World, shop: Gifts) -> None:
    ask(world, shop, 90, DAY, timedelta(minutes=2))
    an_hour_later(world)
    ask(world, shop, 5, DAY + HOUR, timedelta(minutes=1), seed=2)
    an_hour_later(world)
    twice = {"2024-04-01-00:00": 1, "2024-04-01-01:00": 2, "2024-04-01-02:00": 1}
    assert partitions(world, "predictions") == partitions(world, "prediction_profile") == Counter(twice)
    assert (figures(world, "predictions")["rows"], figures(world, "predictions")["new_rows"]) == (35, 5)


def test_with_nothing_new_nothing_is_recorded(world: World, shop: Gifts) -> None:
    ask(world, shop, 30, DAY, timedelta(minutes=2))
    an_hour_later(world)
    before = {noun: partitions(world, noun) for noun in NOUNS}
    assert an_hour_later(world).success
    assert {noun: partitions(world, noun) for noun in NOUNS} == before


@pytest.mark.long
def test_a_report_is_made_as_often_as_the_model_says(shop: Gifts) -> None:
    spec = replace(shop.spec, drift=replace(shop.spec.drift, every=3 * HOUR))
    world, _ = shop.world(spec)
    shop.first_release(world)
    for n in range(7):
        ask(world, shop, 10, DAY + n * HOUR, timedelta(minutes=1), seed=n)
        world.clock.advance(HOUR)
        world.tick("monitoring")
    assert all(run.success for run in world.runs)
    assert list(partitions(world, "drift_report")) == [f"2024-04-01-0{n}:00" for n in (0, 3, 6)]


def make_all(world: World, spec: ModelSpec) -> None:
    for report in REPORTS:
        report.make(world.platform, spec, Asked())


class Reads:
    """What is read of an object store, by kind."""

    def __init__(self, objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[str] = []
        get = objects.get
        monkeypatch.setattr(objects, "get", lambda key: self.keys.append(key) or get(key))

    def of(self, noun: str) -> list[str]:
        return [key for key in self.keys if f"/{noun}/" in key]


def test_a_day_is_24_profiles_each_read_once_a_report_and_no_row(world: World, shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(world, shop, 30 * 48, DAY, timedelta(minutes=2))
    spec = shop.spec
    day = replace(spec, drift=replace(spec.drift, window=timedelta(days=1)))
    for make in (hourly_monitoring.PREDICTIONS.make, hourly_monitoring.PROFILE.make):
        make(world.platform, day, Asked())
    reads, logged = Reads(world.objects, monkeypatch), []
    read = world.log.read
    monkeypatch.setattr(world.log, "read", lambda *given, **named: logged.append(given) or read(*given, **named))
    (made,) = drift.drift_report(world.platform, day, Asked()).values()
    assert (len(reads.of("profiles")), len(set(reads.of("profiles")))) == (24, 24)
    assert reads.of("predictions") == [] == logged
    assert made.metadata["profiles"] == 24


def test_no_row_of_the_log_is_read_twice(world: World, shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hours, "ROWS_AT_ONCE", 64)
    seen: Counter[str] = Counter()
    read = world.log.read

    def counted(*given: object, **named: object):
        found = read(*given, **named)
        seen.update(found.rows["request_id"])
        return found

    monkeypatch.setattr(world.log, "read", counted)
    for n in range(4):
        ask(world, shop, 100, DAY + n * HOUR, timedelta(seconds=30), seed=n)
        if n % 2:
            an_hour_later(world)
    assert len(seen) == 400
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("written", ["predictions/", "progress.json", "profiles/"])
def test_a_run_that_is_killed_leaves_nothing_out_and_counts_nothing_twice(
    world: World, shop: Gifts, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    ask(world, shop, 100, DAY, timedelta(minutes=2))
    put, killed = world.objects.put, []

    def killed_at(key: str, data: bytes) -> None:
        if key.startswith("monitoring/") and written in key and not killed:
            killed.append(key)
            raise KeyboardInterrupt
        put(key, data)

    monkeypatch.setattr(world.objects, "put", killed_at)
    with pytest.raises(KeyboardInterrupt):
        make_all(world, shop.spec)
    make_all(world, shop.spec)
    window = hours.read_profiles(world.objects, NAME, "v1", DAY - HOUR, DAY + 5 * HOUR)
    assert [profile.rows for profile in window.values()] == [30, 30, 30, 10]


def test_an_hour_that_is_asked_for_is_made_anew(world: World, shop: Gifts) -> None:
    ask(world, shop, 90, DAY, timedelta(minutes=2))
    an_hour_later(world)
    tags = {"dagster/asset_partition_range_start": "2024-04-01-00:00", "dagster/asset_partition_range_end": "2024-04-01-01:00"}
    assert world.materialize(NAME, "prediction_profile", "drift_report", tags=tags).success
    assert partitions(world, "prediction_profile") == Counter({"2024-04-01-00:00": 2, "2024-04-01-01:00": 2, "2024-04-01-02:00": 1})
    assert partitions(world, "drift_report") == Counter({"2024-04-01-02:00": 1, "2024-04-01-01:00": 1})
    assert figures(world, "drift_report")["rows"] == 60  # the window ends where it was asked to
    assert world.materialize(NAME, "prediction_profile", partition="2024-04-01-02:00").success
    assert partitions(world, "prediction_profile")["2024-04-01-02:00"] == 2


def two_models(shop: Gifts) -> World:
    """The model, and one of another name that was never served, in one world."""
    return World([shop.spec, replace(shop.spec, name="other-model")])


@pytest.mark.parametrize("error", [BadData("object 'x': remove it"), ZeroDivisionError("a bug")])
def test_one_models_trouble_stays_with_it_and_its_checks_say_why(shop: Gifts, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    world, seen = two_models(shop), []

    def make(platform: Platform, spec: ModelSpec, asked: Asked) -> Made:
        if spec.name == NAME:
            raise error
        seen.append(spec.name)
        return {DAY: dg.MaterializeResult()}

    monkeypatch.setattr(hourly_monitoring, "REPORTS", tuple(replace(report, make=make) for report in REPORTS))
    selection = [keys.key(spec, noun) for spec in world.specs.values() for noun in NOUNS]
    run = world._run(dg.RunRequest(asset_selection=selection))
    assert seen == ["other-model"] * len(NOUNS)
    assert len(world.materializations("other-model", "drift_report")) == 1
    if isinstance(error, BadData):
        assert run.success
        assert world.checks(NAME, "drift_report") == {"feature_drift": False, "prediction_drift": False}
        told = {e.description for e in run.get_asset_check_evaluations() if e.asset_key == keys.key(shop.spec, "drift_report")}
        assert told == {"object 'x': remove it"}
    else:
        assert not run.success  # a bug is somebody's to see
        assert "gift-returns could not be watched" in str(run.get_step_failure_events()[0].event_specific_data.error)


def test_the_sensor_asks_for_what_is_served_and_waits_while_a_run_is_under_way(shop: Gifts) -> None:
    world = two_models(shop)
    assert world.tick("monitoring") == 0  # nothing is in production yet
    served = shop.copy(shop.with_first_release())[0]
    sensor = served.sensors["monitoring"]

    def look(cursor: str | None = None) -> dg.SensorResult:
        with dg.build_sensor_context(served.instance, cursor=cursor, resources={"platform": served.platform}) as context:
            return sensor(context)

    (asked,) = look().run_requests
    assert asked.asset_selection == [keys.key(shop.spec, noun) for noun in NOUNS]
    assert not look(look().cursor).run_requests
    served.instance.create_run_for_job(served.job, tags=asked.tags, status=dg.DagsterRunStatus.STARTED)
    assert not look().run_requests


def test_at_the_demos_pace_the_run_comes_every_minute_and_in_production_after_each_hour(shop: Gifts) -> None:
    from mlops_assets.sensors.monitoring import look_at_hour

    for pace, dues in ((1.0, {2}), (10_800.0, None)):
        world = shop.copy(shop.with_first_release())[0]
        world.platform = replace(world.platform, pace=pace)
        cursor, asked = None, []
        for _ in range(200):
            with dg.build_sensor_context(world.instance, cursor=cursor, resources={"platform": world.platform}) as context:
                result = look_at_hour(context, world.platform, list(world.specs.values()))
            cursor = result.cursor
            if result.run_requests:
                asked.append(world.clock.now)
            world.clock.advance(timedelta(seconds=60 if dues else 3))
        gaps = [after - before for before, after in pairwise(asked[1:])]
        assert set(gaps) == ({HOUR} if dues else {timedelta(seconds=60)})
        if dues:
            assert {time.minute for time in asked[1:]} <= {2, 3}  # when the last answers have been shipped


def test_one_more_report_is_one_more_entry(shop: Gifts, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def budget_report(platform: Platform, spec: ModelSpec, asked: Asked) -> Made:
        check = dg.AssetCheckResult(check_name="budget", passed=True)
        return {hour_of(DAY): dg.MaterializeResult(metadata={"left": 0.9}, check_results=[check])}

    entry = HourlyReport("budget_report", budget_report, ("predictions",), "What is left of the error budget.", ("budget",))
    monkeypatch.setattr(hourly_monitoring, "REPORTS", (*REPORTS, entry))
    (shared,) = hourly_monitoring.build_hourly_monitoring([shop.spec])
    key = keys.key(shop.spec, "budget_report")
    resources = {"platform": dg.ResourceDefinition.hardcoded_resource(world.platform)}
    job = dg.Definitions([shared], resources=resources).resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(instance=world.instance, asset_selection=[key], run_config={"ops": {OP: {"config": {"only_due": True}}}})
    assert run.success
    assert world.materializations(NAME, "budget_report")[-1].partition == "2024-04-01-00:00"
    assert run.get_asset_check_evaluations()[0].check_name == "budget"


def test_a_unit_error_is_named_first_with_its_first_hour_and_trains_nobody(world: World, shop: Gifts) -> None:
    spec = replace(shop.spec, drift=replace(shop.spec.drift, every=timedelta(days=1)))
    for noun in REPORTS:
        noun.make(world.platform, spec, Asked(only_due=True))
    ask(world, shop, 72, DAY, timedelta(minutes=50))  # some days as ever
    make_all(world, spec)
    times = [pd.Timestamp(DAY + timedelta(days=4, minutes=n)) for n in range(40)]
    cents = shop.requests(40, seed=9)
    world.send(NAME, cents.assign(event_time=times, amount=cents["amount"] * 100, request_id=[f"cents-{n}" for n in range(40)]))
    for report in REPORTS[:2]:
        report.make(world.platform, spec, Asked(only_due=True))
    (made,) = drift.drift_report(world.platform, spec, Asked(only_due=True)).values()  # at once, not a day later
    assert made.metadata["unseen"].startswith("100% of the newest hour's amount lie beyond the")
    assert made.metadata["verdicts"].records[0].data["column"] == "amount"
    assert "amount" not in made.metadata["drifted"]  # most of the window is as ever
    (check, _) = made.check_results
    assert not check.passed
    assert check.description.startswith("100% of the newest hour's amount")


def test_an_html_report_is_written_where_its_materialization_says(world: World, shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(html_report.evidently_html, "drift", lambda *sides: drawn.append(sides) or b"<html>")
    asked = shop.requests(1500, seed=4)
    world.send(NAME, asked.assign(amount=asked["amount"] * 3))
    assert an_hour_later(world).success
    key = figures(world, "drift_report")["html_report"].removeprefix("s3://")
    assert world.objects.get(key) == b"<html>"
    reference, current, words = drawn[0]
    assert (list(reference.columns), words) == (list(shop.spec.features.names), ["channel"])
    assert list(current.columns) == list(reference.columns)
    assert 0 < len(current) <= html_report.ROWS + html_report.HOURS
    more = shop.requests(100, seed=6)
    world.send(NAME, more.assign(amount=more["amount"] * 3))
    an_hour_later(world)
    assert len(drawn) == 1  # no other column has drifted
    config = {"ops": {OP: {"config": {"html": True}}}}
    assert world.materialize(NAME, "predictions", "prediction_profile", "drift_report", config=config).success
    assert len(drawn) == 2


def test_a_report_that_cannot_be_drawn_is_told_beside_the_figures(world: World, shop: Gifts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ValueError("nothing to draw")

    monkeypatch.setattr(html_report.evidently_html, "drift", fail)
    asked = shop.requests(1500, seed=4)
    world.send(NAME, asked.assign(amount=asked["amount"] * 3))
    assert an_hour_later(world).success
    (observed,) = world.instance.fetch_observations(keys.key(shop.spec, "drift_report"), limit=5).records
    assert observed.asset_observation.metadata["html_report_missing"].value == "ValueError: nothing to draw"
