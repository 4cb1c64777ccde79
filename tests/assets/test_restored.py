"""A model that a restored backup does not know: nothing of it is to be live, and its records are gone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest
from prometheus_client.core import Metric

from mlops_assets.adapters.memory import MemoryRegistry
from mlops_assets.assets.hourly_monitoring import REPORTS
from mlops_assets.assets.report_facts import gather
from mlops_assets.backup import back_up, restore
from mlops_assets.core.errors import IllegalChange
from mlops_assets.core.policy import Author, describe
from mlops_assets.doctor import Doctor
from mlops_assets.exporter.families import families
from mlops_assets.exporter.reader import Reader
from mlops_assets.operations import Operator
from mlops_assets.reconcile import differences
from mlops_assets.retention import apply
from mlops_assets.settings import Settings
from tests.assets.gifts import HOUR, NAME, Gifts, assert_settled
from tests.test_doctor import in_memory
from tests.world import World

ADA = Author("ada", "restored from kept")


@dataclass
class NoRows:
    """A database of which the backup has nothing."""

    name: str

    def copy(self, folder: Path) -> None:
        folder.mkdir()

    def load(self, folder: Path) -> None: ...

    def is_empty(self) -> bool:
        return False

    def users(self) -> int:
        return 0


@pytest.fixture
def world(shop: Gifts, tmp_path: Path) -> World:
    """v1 serves still, and nobody but the gateway knows of it: what was restored is from before it."""
    world = shop.copy(shop.with_first_release())[0]
    databases = [NoRows("dagster"), NoRows("mlflow")]
    back_up(in_memory(), databases, tmp_path / "kept")
    restore(world.platform, databases, tmp_path / "kept", ADA, lambda model: max(world.gateway.applied(model).values()), force=True)
    world.platform = replace(world.platform, registry=MemoryRegistry())
    world.instance, world.cursors = dg.DagsterInstance.ephemeral(), dict.fromkeys(world.sensors)
    assert (shop.serve(world)["release"] == "v1").all()
    return world


def test_it_is_ended_and_trained_and_released_anew(shop: Gifts, world: World) -> None:
    ended = world.policy(NAME).generation
    world.tick("reconcile")
    assert_settled(world)
    assert world.deployments.running(NAME) == []
    assert (shop.serve(world)["status"] == 404).all()

    world.clock.advance(HOUR)
    world.settle()
    assert describe(world.policy(NAME)) == "champion none, challenger v1 at first"
    shop.serve(world, 200)
    world.clock.advance(3 * HOUR)
    world.settle()
    assert (world.policy(NAME).champion, world.policy(NAME).log[0].generation) == ("v1", ended)
    assert (shop.serve(world)["release"] == "v1").all()
    assert_settled(world)


def test_who_watches_models_can_show_it_and_alerts_nobody(world: World, tmp_path: Path) -> None:
    spec, generation = world.specs[NAME], world.policy(NAME).generation
    world.tick("reconcile")
    shown = samples(list(families(Reader([spec], world.platform, world.instance).read())))
    assert shown["mlops_policy_generation"] == [generation]
    assert not {name for name in shown if name.startswith(("mlops_release", "mlops_canary", "mlops_candidate"))}
    facts = gather(world.instance, world.platform, spec, Settings(tmp_path, 4000))
    assert (facts.champion, facts.live, facts.spans, facts.releases) == (None, "champion none", (), ())
    told = {found.what: found for found in Doctor(Settings(tmp_path, 4000), lambda: world.platform).policies()}
    assert told[f"policy of {NAME}"].got == f"generation {generation}, the files of no release"
    assert world.tick("monitoring", "slo") == 0
    for nouns in (["production"], ["slo_report"], ["rollback_drill"], ["training_serving_skew"], [report.noun for report in REPORTS]):
        made = world.materialize(NAME, *nouns)
        assert made.success, nouns
    assert differences(world.platform, NAME) == ()


def test_nothing_of_it_is_kept_or_brought_back(world: World) -> None:
    found, wrong = apply(world.platform, [world.specs[NAME]])
    assert (found[0].releases, wrong) == ((), {})
    operator = Operator(world.platform, NAME, ADA)
    for act in (operator.rollback, operator.abort, lambda: operator.rollback("v1"), lambda: operator.restart("v1")):
        with pytest.raises(IllegalChange):
            act()
    operator.retire()  # as one does where no defs.yaml is left, and so no reconciler
    assert world.deployments.running(NAME) == []


def samples(metrics: Sequence[Metric]) -> dict[str, list[float]]:
    return {metric.name: [sample.value for sample in metric.samples] for metric in metrics if metric.samples}
