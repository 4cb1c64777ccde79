"""What is served, watched: one report over a release that answers as ever, and over orders of another kind."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mlops_assets.adapters import hours
from mlops_assets.assets.baseline import baseline_key
from mlops_assets.core.baseline import Baseline
from mlops_assets.core.errors import NotFound
from mlops_assets.core.margins import Margin, Margins
from mlops_assets.core.verdict import Outcome
from mlops_assets.drift_file import compare, show
from tests.assets.gifts import NAME, Gifts
from tests.world import World


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves."""
    return shop.copy(shop.with_first_release())[0]


def report(world: World) -> dict:
    assert world.materialize(NAME, "predictions", "prediction_profile", "drift_report").success
    return {
        name: getattr(value, "records", value.value) for name, value in world.materializations(NAME, "drift_report")[-1].metadata.items()
    }


def table(found: dict) -> pd.DataFrame:
    return pd.DataFrame([record.data for record in found["verdicts"]]).set_index("column")


def test_a_baseline_knows_what_matters_to_its_model_and_what_a_score_means(shop: Gifts, world: World) -> None:
    base = Baseline.from_json(world.objects.get(baseline_key(NAME, "v1")).decode())
    assert set(base.importance) == set(shop.spec.features.names)
    assert sum(base.importance.values()) == pytest.approx(1)
    assert base.calibration is not None
    assert len(base.blocks.counts[0]) == 6  # training days
    assert base.profile.names[-1] == "score"


def test_orders_of_another_kind_are_named_by_how_much_they_matter(shop: Gifts, world: World) -> None:
    asked = shop.requests(3000, seed=5)
    world.send(NAME, asked.assign(amount=asked["amount"] * 3, items=asked["items"] + 1))
    found = report(world)
    assert world.checks(NAME, "drift_report")["feature_drift"] is False
    assert {"amount", "items"} <= set(found["drifted"].split(", "))
    shown = table(found)
    drifted = shown[shown["outcome"] == "fail"]
    assert drifted["matters"].is_monotonic_decreasing
    assert list(shown.index[: len(drifted)]) == list(drifted.index)  # those come first
    assert found["matters_most"] == drifted.index[0]
    assert found["largest_psi"] == pytest.approx(shown.drop(index="score")["psi"].max())
    assert found["psi_amount"] == shown.loc["amount", "psi"]
    assert shown.loc["amount", "wasserstein_normed"] > 0.2


def test_what_to_expect_of_the_champion_is_told_before_labels_come(shop: Gifts, world: World) -> None:
    shop.serve(world, 2000)
    found = report(world)
    assert 0.5 < found["expected_auc"] < 1
    assert found["expected_performance"].startswith(f"auc {found['expected_auc']:.3f} (")
    assert 0 <= found["expected_recall"] <= 1
    hours.write_margins(world.objects, NAME, Margins({"auc": Margin(0.3)}, datetime(2024, 3, 1, tzinfo=UTC)))
    lower = report(world)["expected_performance"].split("(")[1].split(" ")[0]
    assert float(lower) <= found["expected_auc"] - 0.3 + 1e-3


def test_a_file_of_rows_is_held_against_the_same_baseline(shop: Gifts, world: World, tmp_path: Path) -> None:
    asked = shop.requests(3000, seed=5)
    asked.assign(amount=asked["amount"] * 3)[list(shop.spec.features.names)].to_parquet(tmp_path / "rows.parquet")
    ranked = {entry.verdict.name: entry for entry in compare(world.platform, shop.spec, tmp_path / "rows.parquet")}
    world.send(NAME, asked.assign(amount=asked["amount"] * 3))
    shown = table(report(world))
    assert ranked["amount"].verdict.outcome is Outcome.FAIL
    assert ranked["amount"].verdict.value == pytest.approx(shown.loc["amount", "psi"], rel=0.1)  # which is of the newest day
    assert ranked["channel"].verdict.outcome is Outcome.PASS
    console = Console(record=True, width=200)
    show(tuple(ranked.values()), console)
    assert "PSI of amount is" in console.export_text()


def test_a_model_without_a_champion_has_nothing_to_be_held_against(shop: Gifts, tmp_path: Path) -> None:
    world, _ = shop.world()
    with pytest.raises(NotFound, match="no release in production"):
        compare(world.platform, shop.spec, tmp_path / "rows.parquet")


def test_with_nothing_served_nothing_is_claimed(shop: Gifts, world: World) -> None:
    found = report(world)
    assert world.checks(NAME, "drift_report") == {"feature_drift": False, "prediction_drift": False}
    assert (found["drifted"], found["until"]) == ("", "nothing was served")
    assert found["expected_performance"] == "0 rows, 20 are needed"
    assert "matters_most" not in found


def test_the_calibrated_policy_judges_by_the_days_of_the_baseline(shop: Gifts) -> None:
    spec = replace(shop.spec, drift=replace(shop.spec.drift, policy="calibrated", window=timedelta(days=1), min_rows=50))
    world, _ = shop.world(spec)
    shop.first_release(world)
    shop.serve(world, 400)
    found = report(world)
    limits = table(found)["limit"].dropna()
    assert len(limits) > 0
    assert set(limits) != {spec.drift.max_psi}
