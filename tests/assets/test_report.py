"""The report page of a model that lives."""

import re

import pytest

from mlops_assets.assets.report import report_key
from mlops_assets.assets.report_facts import gather
from mlops_assets.core.errors import Unavailable
from mlops_assets.settings import Settings
from tests.assets.gifts import HOUR, NAME, Gifts
from tests.world import World


@pytest.fixture
def world(shop: Gifts) -> World:
    """v1 serves, v2 gets copies, and everything was looked at once."""
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    world.settle()
    asked = shop.requests(2000, seed=5)
    world.send(NAME, asked.assign(amount=asked["amount"] * 3))
    world.tick("release")
    world.materialize(NAME, "predictions", "prediction_profile", "drift_report")
    world.materialize(NAME, "rollback_drill")
    return world


def page(world: World) -> str:
    assert world.materialize(NAME, "report").success
    return world.objects.get(report_key(NAME)).decode()


def test_a_page_tells_what_is_live_and_how_it_does(shop: Gifts, world: World) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page(world), flags=re.S))
    assert "champion v1, challenger v2 at shadow" in text
    assert "v2 gets copies" in text
    assert "v1 100 % of the units 2,000 0.00 %" in text
    assert "amount ✕ fail" in text
    assert "champion v1, served of late" in text
    assert "challenger v2, in this step" in text
    assert "there is no release before the champion to go back to" in text
    assert f"{shop.spec.slug}_customers" in text


def test_what_is_gathered_are_the_figures_of_the_assets(shop: Gifts, world: World) -> None:
    facts = gather(world.instance, world.platform, shop.spec, Settings.from_environment())
    metadata = world.materializations(NAME, "drift_report")[-1].metadata
    assert {row.column: row.psi for row in facts.drift.columns} == {
        name: metadata[f"psi_{name}"].value for name in (*shop.spec.features.names, "score")
    }
    assert [one.release for one in facts.scores] == [None, "v1", "v2"]
    assert sum(facts.scores[2].counts) == 2000
    assert [(row.release, row.gate, row.stage) for row in facts.releases] == [("v2", "pass", "Staging"), ("v1", "pass", "Production")]
    assert {metric.name for metric in facts.metrics} == {"auc", "accuracy", "precision", "recall"}
    assert [row["feature"] for row in facts.features] == list(shop.spec.features.names)


def test_sparklines_go_back_over_earlier_reports(shop: Gifts, world: World) -> None:
    world.clock.advance(HOUR)
    world.materialize(NAME, "predictions", "prediction_profile", "drift_report")
    facts = gather(world.instance, world.platform, shop.spec, Settings.from_environment())
    assert {len(row.history) for row in facts.drift.columns} == {2}
    assert all(row.history[-1] == row.psi for row in facts.drift.columns)


def test_plots_stand_in_the_metadata_with_their_colours_inside(world: World) -> None:
    page(world)
    metadata = world.materializations(NAME, "report")[-1].metadata
    for name in ("traffic", "scores"):
        assert metadata[name].value.startswith(f"![{name}](data:image/svg+xml;base64,")


def test_a_page_is_made_though_mlflow_and_the_gateway_are_down(world: World) -> None:
    world.gateway.take_down()

    def down(model: str, release: str) -> object:
        raise Unavailable("MLflow does not answer")

    world.platform.registry.release = down  # type: ignore[method-assign]
    text = page(world)
    assert "The gateways have counted nothing of this model" in text
    assert "champion v1" in text


def test_a_model_that_has_nothing_yet_has_a_page_that_says_so(shop: Gifts) -> None:
    world, _ = shop.world()
    assert "No release was registered yet" in page(world)
