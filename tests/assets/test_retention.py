"""Retention on a model that lives: what is past its time goes, and what anybody needs stays."""

from datetime import datetime, timedelta

import dagster as dg
import pytest

from mlops_assets.adapters import hours, prediction_log
from mlops_assets.assets.retention import build_retention_asset
from mlops_assets.core.errors import IllegalChange, NotFound, Unavailable
from mlops_assets.core.hourly import Progress
from mlops_assets.core.policy import Author
from mlops_assets.operations import Operator
from mlops_assets.ports import model_key
from mlops_assets.reconcile import serving_key
from mlops_assets.retention import FILES_TAG, apply, look
from tests.assets.gifts import HOUR, NAME, Gifts, assert_settled
from tests.world import World

YEAR = timedelta(days=366)
ADA = Author("ada", "worse")


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves, v2 was aborted more than a year ago."""
    world = shop.copy(shop.with_first_release())[0]
    assert shop.train(world).success
    world.settle()
    Operator(world.platform, NAME, ADA).abort()
    world.settle()
    world.clock.advance(YEAR)
    return world


def keys(world: World, *prefixes: str) -> set[str]:
    return {info.key for prefix in prefixes for info in world.objects.list(prefix)}


def logged(world: World, ago: timedelta) -> str:
    key = prediction_log.object_key(NAME, world.clock() - ago, "v1", "a", 1)
    world.objects.put(key, b"answers")
    return key


def position(at: datetime) -> str:
    return f'["{at:%Y%m%dT%H%M%S_%f}"]'


def test_an_archived_release_goes_with_its_files_and_the_champion_serves_on(shop: Gifts, world: World) -> None:
    spec, before = world.specs[NAME], keys(world, "models/", "evidence/", "tables/")
    assert look(world.platform, spec).releases == ("v2",)
    assert keys(world, "models/", "evidence/", "tables/") == before, "a look deletes nothing"

    made = dg.materialize([build_retention_asset([spec])], resources={"platform": world.platform})
    assert made.asset_materializations_for_node("platform__retention")[0].metadata["releases"].value == 1
    gone = before - keys(world, "models/", "evidence/", "tables/")
    entry = {f"models/{NAME}/v2/triton/{NAME}/{name}" for name in ("config.pbtxt", "2/model.onnx")}
    files = {model_key(NAME, "v2"), f"models/{NAME}/v2/baseline.json", serving_key(NAME, "v2"), *entry}
    assert {key for key in gone if key.startswith("models/")} == files
    assert model_key(NAME, "v1") in keys(world, "models/")
    assert not {key for key in gone if key.startswith("evidence/")}, "evidence is kept for three years"
    assert world.platform.registry.release(NAME, "v2").tags[FILES_TAG].startswith("deleted ")
    assert (shop.serve(world)["release"] == "v1").all()
    world.settle()
    assert_settled(world)
    with pytest.raises(IllegalChange):
        Operator(world.platform, NAME, ADA).restart("v2")


def test_it_is_done_once(world: World) -> None:
    spec = world.specs[NAME]
    apply(world.platform, [spec])
    generation = world.policy(NAME).generation
    ((found,), wrong) = apply(world.platform, [spec])
    assert (sum(row.objects for row in found.counts()), wrong, world.policy(NAME).generation) == (0, {}, generation)


def test_what_a_killed_run_left_the_next_one_deletes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.specs[NAME]

    def killed(key: str) -> None:
        raise Unavailable(f"{key}: the store went away")

    with monkeypatch.context() as patch:
        patch.setattr(world.objects, "delete", killed)
        done, wrong = apply(world.platform, [spec])
        assert (done, list(wrong)) == ([], [NAME])
    assert model_key(NAME, "v2") in keys(world, "models/")
    assert "v2" not in world.policy(NAME).digests, "no rollback goes there from the first moment on"
    apply(world.platform, [spec])
    assert not keys(world, f"models/{NAME}/v2/")
    assert keys(world, f"models/{NAME}/v1/")


def test_the_log_goes_once_it_is_old_and_counted(world: World) -> None:
    spec, day = world.specs[NAME], timedelta(days=1)
    old, older, young = logged(world, 100 * day), logged(world, 200 * day), logged(world, HOUR)
    apply(world.platform, [spec])
    assert keys(world, "predictions/") == {old, older, young}, "nobody has counted it"
    hours.write_progress(world.objects, NAME, Progress(position=position(world.clock() - 150 * day)))
    apply(world.platform, [spec])
    assert keys(world, "predictions/") == {old, young}
    hours.write_progress(world.objects, NAME, Progress(position=position(world.clock())))
    apply(world.platform, [spec])
    assert keys(world, "predictions/") == {young}


def test_hours_are_as_old_as_their_events_and_reports_go_before_what_they_show(world: World) -> None:
    spec, newest = world.specs[NAME], datetime.fromisoformat("2013-12-01T00:00:00+00:00")

    def of_hour(noun: str, ending: str, days: int) -> str:
        key = f"monitoring/{NAME}/{noun}/{newest - timedelta(days=days):%Y%m%dT%H}.{ending}"
        world.objects.put(key, b"x")
        return key

    kept = {of_hour("predictions", "parquet", 399), of_hour("profiles/v1", "json", 61), of_hour("reports/v1", "html", 59)}
    gone = {of_hour("predictions", "parquet", 401), of_hour("outcomes/v1", "parquet", 500), of_hour("reports/v1", "html", 61)}
    late = of_hour("predictions", "parquet", 402)
    pending = (newest - timedelta(days=402),)
    hours.write_progress(world.objects, NAME, Progress(newest=newest, unjoined=pending))
    found = look(world.platform, spec)
    assert {item.key for kind in ("monitoring", "reports") for item in found.items[kind]} == gone
    apply(world.platform, [spec])
    assert keys(world, f"monitoring/{NAME}/") == {*kept, late, f"monitoring/{NAME}/progress.json"}


def test_old_evidence_goes_but_that_of_what_is_live(world: World) -> None:
    spec = world.specs[NAME]
    spare = f"evidence/{NAME}/{'0' * 64}.json"
    world.objects.put(spare, b"{}")
    before = keys(world, f"evidence/{NAME}/")
    world.clock.advance(4 * YEAR)
    apply(world.platform, [spec])
    left = keys(world, f"evidence/{NAME}/")
    of_v1 = {change.author.evidence for change in world.policy(NAME).log if change.release == "v1" and change.author.evidence}
    gate = world.platform.registry.release(NAME, "v1").tags["gate_evidence"].removeprefix("s3://")
    assert of_v1 | {gate} <= left
    assert spare not in left
    assert {key for key in before if "/holdouts/" in key} <= left
    assert len(left) < len(before)


def test_what_cannot_be_looked_at_is_not_deleted_and_the_others_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = world.specs[NAME]

    def lost(model: str, release: str) -> None:
        raise NotFound(f"{model} {release}: the registry has lost it")

    monkeypatch.setattr(world.platform.registry, "release", lost)
    world.clock.advance(4 * YEAR)
    with pytest.raises(dg.Failure, match="the registry has lost it"):
        dg.materialize([build_retention_asset([spec])], resources={"platform": world.platform})
    assert keys(world, f"models/{NAME}/v2/")
