"""What came true of what was answered: each label once, whenever it comes, and a verdict that it overturns is told."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from mlops_assets.adapters import hours, tables
from mlops_assets.assets import keys
from mlops_assets.assets.hourly import Asked
from mlops_assets.assets.performance import performance_report
from mlops_assets.assets.reading import data_time
from mlops_assets.core.hourly import HOUR
from mlops_assets.core.margins import Margin
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import LivePerformance
from tests.assets.gifts import DAYS, NAME, Gifts
from tests.world import World

pytestmark = pytest.mark.long

FIRST = date(2024, 1, 1)
ASKED = [FIRST + timedelta(days=n) for n in range(DAYS, DAYS + 4)]
"""Days that have not landed when their orders are asked about."""


def shop_with(shop: Gifts, **performance: object) -> ModelSpec:
    return replace(shop.spec, performance=LivePerformance(**{"window": timedelta(days=3), "min_positives": 20, **performance}))


def served(shop: Gifts, spec: ModelSpec, days: list[date] = ASKED) -> World:
    """v1 was asked about the orders of some days, whose labels are still to come."""
    world, _ = shop.world(spec)
    shop.first_release(world)
    ask(world, shop, days)
    return world


def ask(world: World, shop: Gifts, days: list[date], ids: str = "") -> pd.DataFrame:
    orders = pd.concat([shop.sample.orders(day) for day in days], ignore_index=True)
    columns = {name: orders[name] for name in ("event_time", "items", "amount", "discount", "channel")}
    asked = shop.requests(len(orders)).assign(unit=orders["customer_id"], request_id=ids + orders["order_id"], **columns)
    return world.send(NAME, asked)


def land(world: World, shop: Gifts, days: int) -> None:
    shop.sample.land(world.objects, days)
    world.clock.advance(HOUR)
    world.tick("new_data")


def look(world: World) -> dg.ExecuteInProcessResult:
    world.clock.advance(HOUR)
    assert world.tick("monitoring") == 1
    assert world.runs[-1].success
    return world.runs[-1]


def found(world: World) -> dict:
    metadata = world.materializations(NAME, "performance_report")[-1].metadata
    return {name: getattr(value, "records", value.value) for name, value in metadata.items()}


def check(world: World) -> dg.AssetCheckEvaluation:
    evaluations = [e for run in world.runs for e in run.get_asset_check_evaluations() if e.check_name == "performance"]
    return evaluations[-1]


def test_labels_are_joined_when_they_are_due_and_judged_beside_what_was_expected(shop: Gifts) -> None:
    spec = shop_with(shop)
    world = served(shop, spec)
    look(world)
    assert (found(world)["labelled_rows"], found(world)["verdict"]) == (0, "inconclusive")  # what is due was not asked about
    land(world, shop, DAYS + 8)
    look(world)
    newest = world.materializations(NAME, "performance_report")[-1]
    due = data_time(world.platform, spec) - spec.label.horizon - HOUR
    assert newest.partition == keys.partition(due)
    told = found(world)
    orders = pd.concat([shop.sample.orders(day) for day in ASKED])
    inside = orders[(orders["event_time"] >= due + HOUR - spec.performance.window) & (orders["event_time"] < due + HOUR)]
    logged = world.log.read(NAME).rows
    answered = inside.merge(logged[logged["request_id"].isin(inside["order_id"])], left_on="order_id", right_on="request_id")
    assert told["labelled_rows"] == len(answered) > 0
    assert told["auc"] == pytest.approx(roc_auc_score(answered["returned"], answered["score"]))
    assert told["brier"] == pytest.approx(brier_score_loss(answered["returned"], answered["score"]))
    table = pd.DataFrame([record.data for record in told["figures"]]).set_index("metric")
    assert list(table.index) == ["auc", "brier", "log_loss", "accuracy", "precision", "recall"]
    assert (table["lower"] < table["value"]).all()
    assert (table["value"] < table["upper"]).all()
    assert table.loc["auc", "expected"] == told["expected_auc"]
    assert told["expectations"] == 4
    assert world.checks(NAME, "performance_report") == {"performance": told["verdict"] == "pass"}


def test_how_far_labels_were_from_what_was_expected_widens_what_is_expected_next(shop: Gifts) -> None:
    spec = shop_with(shop)
    world = served(shop, spec)
    land(world, shop, DAYS + 8)
    look(world)
    first = hours.read_margins(world.objects, NAME)
    assert set(first.by_metric) == {"auc", "accuracy", "precision", "recall"}
    assert first.at == data_time(world.platform, spec) - spec.label.horizon - HOUR
    before, far = figure_of(performance_report(world.platform, spec, Asked((first.at,)))[first.at]), Margin(0.4)
    hours.write_margins(world.objects, NAME, replace(first, by_metric={**first.by_metric, "auc": far}))
    now = figure_of(performance_report(world.platform, spec, Asked((first.at,)))[first.at])
    assert (now["expected"], now["value"]) == (before["expected"], before["value"])
    assert now["expected_upper"] - now["expected_lower"] > before["expected_upper"] - before["expected_lower"]
    assert now["expected"] - now["expected_lower"] > 0.4
    assert hours.read_margins(world.objects, NAME).by_metric["auc"] == far  # the same hour again teaches nothing


def figure_of(made: dg.MaterializeResult) -> dict:
    (auc,) = [record.data for record in made.metadata["figures"].records if record.data["metric"] == "auc"]
    return auc


def test_each_label_counts_once_however_often_it_is_looked_for_and_the_order_was_asked_about(shop: Gifts) -> None:
    world = served(shop, shop_with(shop))
    ask(world, shop, ASKED, ids="again-")
    land(world, shop, DAYS + 8)
    look(world)
    rows = found(world)["labelled_rows"]
    before = len(world.materializations(NAME, "performance_report"))
    look(world)
    look(world)
    assert len(world.materializations(NAME, "performance_report")) == before
    alone = served(shop, shop_with(shop))
    land(alone, shop, DAYS + 8)
    look(alone)
    assert found(alone)["labelled_rows"] == rows


def rewritten(world: World, spec: ModelSpec, day: date, hour: int, label: int) -> None:
    """Labels of one hour that come out otherwise, as a correction does that lands late."""
    rows = tables.read_days(world.objects, NAME, "labels", day, day)
    changed = rows["event_time"].dt.hour == hour
    tables.write_day(world.objects, NAME, "labels", day, rows.assign(returned=rows["returned"].mask(changed, label)))


def test_a_late_label_makes_its_own_hour_anew(shop: Gifts) -> None:
    world = served(shop, shop_with(shop))
    land(world, shop, DAYS + 8)
    look(world)
    before = len(world.materializations(NAME, "performance_report"))
    rewritten(world, shop.spec, ASKED[2], 7, 1)
    look(world)
    made = world.materializations(NAME, "performance_report")[before:]
    newest = found(world)
    assert {one.partition for one in made} == {f"{ASKED[2]}-07:00", made[-1].partition}
    assert len(made) == 2
    assert newest["positives"] > 0


def test_a_verdict_that_late_labels_overturn_fails_its_check_with_the_reason(shop: Gifts) -> None:
    spec = shop_with(shop, floor=0.52)
    world = served(shop, spec)
    land(world, shop, DAYS + 8)
    look(world)
    assert found(world)["verdict"] == "pass"
    for day in ASKED:
        rows = tables.read_days(world.objects, NAME, "labels", day, day)
        tables.write_day(world.objects, NAME, "labels", day, rows.assign(returned=1 - rows["returned"]))
    look(world)
    told = check(world)
    assert not told.passed
    assert told.severity is dg.AssetCheckSeverity.ERROR
    assert "overturned by later labels: up to this hour it was a pass (0." in told.description
    assert "it is a fail (0." in told.description
    assert found(world)["overturned"].startswith("up to this hour it was a pass")


def test_a_verdict_of_before_that_falls_is_told_beside_the_newest(shop: Gifts) -> None:
    world = served(shop, shop_with(shop, floor=0.52))
    land(world, shop, DAYS + 7)
    look(world)
    first = world.materializations(NAME, "performance_report")[-1].partition
    for day in ASKED:
        rows = tables.read_days(world.objects, NAME, "labels", day, day)
        tables.write_day(world.objects, NAME, "labels", day, rows.assign(returned=1 - rows["returned"]))
    days = tables.days(world.objects, NAME, "events")
    events = tables.read_days(world.objects, NAME, "events", days[-1], days[-1])
    tables.write_day(world.objects, NAME, "events", days[-1] + timedelta(days=1), events)  # the data go on, and so does what is due
    look(world)
    told = check(world)
    assert not told.passed
    assert f"up to {first} it was a pass" in told.description
    partitions = [one.partition for one in world.materializations(NAME, "performance_report")]
    assert partitions.count(first) == 2
    judged = hours.read_judged(world.objects, NAME, datetime.strptime(first, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC))
    assert judged.verdict.outcome.value == "fail"


def test_with_too_few_labels_nothing_is_concluded(shop: Gifts) -> None:
    world = served(shop, shop_with(shop, min_positives=5000))
    land(world, shop, DAYS + 8)
    look(world)
    told = check(world)
    assert (told.passed, told.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "5000 are needed" in told.description
