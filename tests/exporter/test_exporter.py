"""What Prometheus is told of a platform in which one release serves and another is on its way."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mlops_assets.assets import keys
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.policy import Policy
from mlops_assets.exporter.families import AssetSeen, World, families
from mlops_assets.exporter.reader import PlatformCollector, Reader
from tests.assets.conftest import shop as shop
from tests.assets.gifts import NAME, Gifts
from tests.world import World as Life


class Scraped:
    """A registry that was read once."""

    def __init__(self, life: Life) -> None:
        self.registry = CollectorRegistry()
        self.collector = PlatformCollector(Reader(list(life.specs.values()), life.platform, life.instance), every=60)
        self.collector.look()
        self.registry.register(self.collector)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def labels(self, name: str) -> list[dict[str, str]]:
        return [sample.labels for family in self.registry.collect() for sample in family.samples if sample.name == name]


@pytest.fixture
def life(shop: Gifts) -> Life:
    """v1 serves, v2 is in the shadow step of its canary, and a report was made of each kind."""
    world, _ = shop.copy(shop.with_first_release())
    assert shop.train(world).success
    world.settle()
    shop.serve(world, 600)
    assert world.materialize(NAME, "predictions", "prediction_profile", "drift_report").success
    assert world.materialize(NAME, "slo_report").success
    figures = {"auc": 0.71, "rows": 400, "reason": "by labels"}
    world.instance.report_runless_asset_event(dg.AssetMaterialization(keys.key(shop.spec, "performance_report"), metadata=figures))
    return world


def test_releases_are_shown_as_the_policy_has_them(life: Life) -> None:
    scraped, policy = Scraped(life), life.policy(NAME)
    assert scraped.labels("mlops_release_role") == [
        {"model": NAME, "release": "v1", "role": "champion"},
        {"model": NAME, "release": "v2", "role": "challenger"},
    ]
    assert scraped.value("mlops_release_weight_ratio", model=NAME, release="v1") == 1
    assert scraped.value("mlops_release_mirror_ratio", model=NAME, release="v2") == 1
    assert scraped.value("mlops_canary_step", model=NAME, release="v2", step="shadow") == 0
    assert (
        scraped.value("mlops_canary_step_entered_timestamp_seconds", model=NAME, release="v2") == policy.challenger.entered_at.timestamp()
    )
    assert scraped.value("mlops_policy_generation", model=NAME) == policy.generation
    assert scraped.value("mlops_policy_changed_timestamp_seconds", model=NAME) == policy.log[-1].at.timestamp()


def test_assets_are_shown_with_their_last_success_and_how_long_it_took(life: Life) -> None:
    scraped = Scraped(life)
    shown = {labels["asset"] for labels in scraped.labels("mlops_asset_last_success_timestamp_seconds")}
    assert {"training_set", "model", "registered_model", "evaluation", "canary", "production", "drift_report", "slo_report"} <= shown
    now = datetime.now(UTC).timestamp()
    assert now - 120 < scraped.value("mlops_asset_last_success_timestamp_seconds", model=NAME, asset="drift_report") <= now
    assert 0 < scraped.value("mlops_asset_last_run_duration_seconds", model=NAME, asset="drift_report") < 60


def test_checks_are_shown_with_what_they_said_last(life: Life) -> None:
    scraped = Scraped(life)
    outcomes = {(at["asset"], at["check"]): at["outcome"] for at in scraped.labels("mlops_check_outcome")}
    assert outcomes["evaluation", "quality_gate"] == "pass"
    assert outcomes["slo_report", "slo"] == "inconclusive"
    assert outcomes["drift_report", "feature_drift"] in ("pass", "fail", "inconclusive")
    assert len(outcomes) == len(scraped.labels("mlops_check_outcome"))  # one each


def test_a_check_that_is_being_evaluated_still_says_what_it_said_last(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(list(life.specs.values()), life.platform, life.instance)
    before = reader.read().checks
    storage = type(life.instance.event_log_storage)
    monkeypatch.setattr(storage, "get_latest_asset_check_execution_by_key", lambda self, keys, partition_filter=None: {})
    assert reader.read().checks == before


def test_the_figures_of_the_newest_reports_are_shown(life: Life, shop: Gifts) -> None:
    scraped = Scraped(life)
    assert {at["feature"] for at in scraped.labels("mlops_feature_psi")} == {*shop.spec.features.names, "score"}
    assert 0.5 < scraped.value("mlops_expected_performance", model=NAME, metric="auc") < 1
    assert scraped.value("mlops_performance", model=NAME, metric="auc") == 0.71
    assert {at["metric"] for at in scraped.labels("mlops_performance")} == {"auc", "rows"}


def test_the_log_s_newest_shipment_is_shown_and_kept_when_nothing_new_comes(life: Life) -> None:
    reader = Reader(list(life.specs.values()), life.platform, life.instance)
    first = reader.read().logged[NAME]
    life.clock.advance(timedelta(days=30))
    assert reader.read().logged[NAME] == first


def test_a_policy_that_cannot_be_read_keeps_nothing_else_away(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: str) -> Policy:
        raise Unavailable("S3 is down")

    monkeypatch.setattr(life.platform.policies, "read", fail)
    scraped = Scraped(life)
    assert scraped.labels("mlops_release_role") == []
    assert scraped.labels("mlops_check_outcome")


def test_a_scrape_reads_nothing(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    scraped = Scraped(life)
    monkeypatch.setattr(Reader, "read", lambda self: pytest.fail("a scrape waits for nobody"))
    assert scraped.value("mlops_exporter_read_seconds") > 0


@pytest.mark.parametrize(
    ("partition", "began"),
    [("2024-01-02", "2024-01-02T00:00"), ("2024-01-02-03:00", "2024-01-02T03:00"), ("v12", None), (None, None)],
)
def test_a_partition_of_time_is_shown_as_when_it_begins(partition: str | None, began: str | None) -> None:
    seen = AssetSeen("fraud", "events", 1.0, partition, None, {})
    [family] = [each for each in families(World([seen])) if each.name == "mlops_asset_last_partition_timestamp_seconds"]
    wanted = [] if began is None else [datetime.fromisoformat(f"{began}+00:00").timestamp()]
    assert [sample.value for sample in family.samples] == wanted


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: bash deploy/monitoring_tools.sh")
def test_names_and_units_are_as_prometheus_wants_them(life: Life) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=generate_latest(Scraped(life).registry), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
