"""What is learned as of a time is what was known then, whatever lands, is corrected or written again later."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta

import pandas as pd
import pytest

from mlops_assets.adapters import tables
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.assets.reading import data_time
from mlops_assets.core.feature_spec import Feature, Features
from mlops_assets.core.model_spec import ModelSpec
from tests.assets.gifts import HOUR, NAME, SLUG, Gifts
from tests.world import World

pytestmark = pytest.mark.long

FIRST, DAYS, MONTH = date(2024, 1, 1), 20, 30


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def ingest(world: World) -> None:
    """What has landed is ingested and made into features."""
    world.clock.advance(HOUR)
    while world.tick("new_data"):
        pass
    assert all(run.success for run in world.runs)


def land(shop: Gifts, world: World, days: int) -> datetime:
    """So many days are there; returns the time of the data then."""
    shop.sample.land(world.objects, days)
    ingest(world)
    return data_time(world.platform, shop.spec)


def put(world: World, dataset: str, of: date, name: str, rows: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    world.objects.put(f"landing/{NAME}/{dataset}/{of}/{name}.parquet", buffer.getvalue())


def backfill(world: World, days: int) -> None:
    """What an engineer does who has the features of all days computed anew."""
    range_ = {"dagster/asset_partition_range_start": f"{FIRST}", "dagster/asset_partition_range_end": f"{day(days - 1)}"}
    assert world.materialize(NAME, "features", tags=range_).success


def assemble(world: World, as_of: datetime) -> dict[str, str]:
    """A training set as of a time: its data version, and the digests of its parts."""
    world.materialize(NAME, "training_set", config={"ops": {f"{SLUG}__training_set": {"config": {"as_of": as_of.isoformat()}}}})
    made = world.materializations(NAME, "training_set")[-1]
    version = made.tags["dagster/data_version"]
    return {"version": version, **{part: str(made.metadata[f"{part}_digest"].value) for part in ("training", "holdout")}}


def rows_of(world: World, made: dict[str, str]) -> pd.DataFrame:
    parts = [tables.read_set(world.objects, NAME, made[part]) for part in ("training", "holdout")]
    return pd.concat(parts, ignore_index=True).set_index("order_id")


def later_history(shop: Gifts, world: World, as_of: datetime) -> None:
    """What may become of landed files afterwards: rows that come late, and outcomes that turn out to be otherwise."""
    sample = shop.sample
    for number in (3, 4, 5):  # before the first event of the training set, and what its features are made of
        for info in world.objects.list(f"landing/{NAME}/labels/{day(number)}/"):
            rows = pd.read_parquet(io.BytesIO(world.objects.get(info.key)))
            put(
                world,
                "labels",
                day(number),
                info.key.rsplit("/", 1)[1].removesuffix(".parquet"),
                rows.assign(returned=1 - rows["returned"]),
            )
    orders = sample.orders(day(10))
    known = pd.Timestamp(as_of) + timedelta(days=5)
    late = orders.assign(order_id="late-" + orders["order_id"], known_at=known)
    put(world, "events", day(10), "late", late[sample.EVENT_COLUMNS])
    put(world, "labels", day(10), "late", late[sample.LABEL_COLUMNS])
    put(world, "labels", day(10), "corrected", orders.assign(returned=1 - orders["returned"], known_at=known)[sample.LABEL_COLUMNS])


def test_a_month_of_data_with_late_and_corrected_history_does_not_change_an_old_training_set(shop: Gifts) -> None:
    world, _ = shop.world()
    as_of = land(shop, world, DAYS)
    before = assemble(world, as_of)
    later_history(shop, world, as_of)
    land(shop, world, DAYS + MONTH)
    backfill(world, DAYS + MONTH)
    assert assemble(world, as_of) == before

    # Whoever begins with all of it learns something else.
    other, _ = shop.world()
    shop.sample.land(other.objects, DAYS + MONTH)
    later_history(shop, other, as_of)
    ingest(other)
    assert assemble(other, as_of)["version"] != before["version"]


def test_corrected_features_do_not_change_a_training_set_though_no_data_has_come_since(shop: Gifts) -> None:
    world, _ = shop.world()
    as_of = land(shop, world, DAYS)
    before = assemble(world, as_of)
    later_history(shop, world, as_of)
    ingest(world)
    backfill(world, DAYS)
    assert assemble(world, as_of) == before


def test_a_day_that_lands_file_by_file_is_learned_from_as_if_it_had_landed_at_once(shop: Gifts) -> None:
    at_once, _ = shop.world()
    as_of = land(shop, at_once, DAYS)
    bit_by_bit, _ = shop.world()
    land(shop, bit_by_bit, DAYS - 1)
    files = [(key, data) for key, data in shop.sample.files(DAYS) if not bit_by_bit.objects.list(key)]
    for key, data in files:
        bit_by_bit.objects.put(key, data)
        ingest(bit_by_bit)
    land(shop, at_once, DAYS + 5)
    assert land(shop, bit_by_bit, DAYS + 5) == as_of + timedelta(days=5)
    assert len(files) > 3
    assert assemble(bit_by_bit, as_of + timedelta(days=5)) == assemble(at_once, as_of + timedelta(days=5))


def test_a_corrected_label_counts_from_when_it_became_known_and_the_one_before_until_then(shop: Gifts) -> None:
    world, _ = shop.world()
    as_of = land(shop, world, DAYS)
    orders = shop.sample.orders(day(14))
    corrected = orders.assign(returned=1 - orders["returned"], known_at=pd.Timestamp(as_of) + HOUR)
    put(world, "labels", day(14), "corrected", corrected[shop.sample.LABEL_COLUMNS])
    later = land(shop, world, DAYS + 1)
    then, now = (rows_of(world, assemble(world, time))["returned"].reindex(orders["order_id"]).tolist() for time in (as_of, later))
    assert then == orders["returned"].tolist()
    assert now == corrected["returned"].tolist()


def test_a_label_file_that_is_overwritten_is_another_history_and_what_was_trained_on_stays(shop: Gifts) -> None:
    world, _ = shop.world()
    as_of = land(shop, world, DAYS)
    before = assemble(world, as_of)
    kept = rows_of(world, before)
    (info, *_) = world.objects.list(f"landing/{NAME}/labels/{day(14)}/")
    rows = pd.read_parquet(io.BytesIO(world.objects.get(info.key)))
    put(world, "labels", day(14), info.key.rsplit("/", 1)[1].removesuffix(".parquet"), rows.assign(returned=1 - rows["returned"]))
    ingest(world)
    assert assemble(world, as_of)["version"] != before["version"]
    pd.testing.assert_frame_equal(rows_of(world, before), kept)


class Blind(MemoryFeatureStore):
    """A store that answers with what is known a day later."""

    def as_of(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        later = super().as_of(features, entities.assign(event_timestamp=entities["event_timestamp"] + timedelta(days=1)))
        return later.assign(event_timestamp=entities["event_timestamp"])


@pytest.fixture
def leaky(shop: Gifts) -> ModelSpec:
    """The model with an input that is the label, as it is known a second after the event."""
    features = replace(
        shop.spec.features,
        service="gift_returns_leaky",
        entities=(*shop.spec.features.entities, "order_id"),
        transform="tests.assets.leaky_features:build_views",
        inputs=(*shop.spec.features.inputs, Feature("leaked")),
    )
    return replace(shop.spec, features=features)


@pytest.mark.parametrize("store", [MemoryFeatureStore, Blind])
def test_a_label_copied_into_a_feature_a_second_after_the_event_is_never_seen(
    shop: Gifts, leaky: ModelSpec, store: Callable[[], MemoryFeatureStore]
) -> None:
    world, _ = shop.world(leaky)
    world.platform = replace(world.platform, features=store())
    leaked = rows_of(world, assemble(world, land(shop, world, DAYS)))["leaked"]
    checks = world.checks(NAME, "training_set")
    if store is Blind:  # or this test would show nothing
        assert leaked.notna().all()
        assert checks == {"no_leakage": False, "feature_schema": True}
    else:
        assert leaked.isna().all()
        assert checks == {"no_leakage": True, "feature_schema": False}


def test_a_label_copied_into_old_features_when_they_are_written_again_is_never_seen(
    shop: Gifts, leaky: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, _ = shop.world(leaky)
    as_of = land(shop, world, DAYS)
    before = assemble(world, as_of)
    monkeypatch.setattr("tests.assets.leaky_features.AFTER", -HOUR)
    backfill(world, DAYS)
    assert assemble(world, as_of) == before
    assert rows_of(world, before)["leaked"].isna().all()
