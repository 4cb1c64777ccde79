"""The monitoring of the local stack: what is asked for, and where secrets go."""

from pathlib import Path

import pytest
import yaml

from mlops_assets import stack_monitoring
from mlops_assets.core.errors import MlopsError
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_monitoring import write_files


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("MLOPS_MONITORING", "MLOPS_PAGERDUTY_KEY", "MLOPS_PAGERDUTY_KEY_FILE", "MLOPS_ALERTMANAGER_URL", "MLOPS_PACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stack_monitoring.shutil, "which", lambda binary: f"/usr/bin/{binary}")
    return Settings(tmp_path, 14_000)


def alertmanager(settings: Settings) -> dict:
    return yaml.safe_load((settings.home / "monitoring" / "alertmanager.yml").read_text())


def test_it_is_part_of_the_stack_only_for_who_asks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {service.name for service in Stack(settings).status()}
    assert settings.alertmanager_url is None
    monkeypatch.setenv("MLOPS_MONITORING", "1")
    assert {service.name for service in Stack(settings).status()} - before == {"exporter", "prometheus", "alertmanager"}
    assert settings.alertmanager_url == "http://127.0.0.1:14015"
    monkeypatch.setenv("MLOPS_ALERTMANAGER_URL", "http://10.0.0.7:9093")
    assert settings.alertmanager_url == "http://10.0.0.7:9093"


def test_without_its_programs_it_says_how_to_get_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_monitoring.shutil, "which", lambda binary: None)
    with pytest.raises(MlopsError, match=r"prometheus, prometheus-alertmanager is not there: run 'bash deploy/monitoring_tools.sh'"):
        write_files(settings, "mlops_assets.definitions")


def test_a_routing_key_lies_in_a_file_of_its_owner_and_nowhere_else(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_PAGERDUTY_KEY", "s3cret-routing-key")
    write_files(settings, "mlops_assets.definitions")
    holding = [path for path in settings.home.rglob("*") if path.is_file() and "s3cret-routing-key" in path.read_text()]
    assert holding == [settings.home / "monitoring" / "pagerduty.key"]
    assert holding[0].stat().st_mode & 0o077 == 0
    assert alertmanager(settings)["receivers"][0]["pagerduty_configs"][0]["routing_key_file"] == str(holding[0])


def test_a_file_that_is_named_is_read_where_it_lies(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLOPS_PAGERDUTY_KEY_FILE", str(tmp_path / "mine"))
    write_files(settings, "mlops_assets.definitions")
    assert alertmanager(settings)["receivers"][0]["pagerduty_configs"][0]["routing_key_file"] == str(tmp_path / "mine")


def test_without_a_key_pagerduty_is_told_of_nothing(settings: Settings) -> None:
    write_files(settings, "mlops_assets.definitions")
    assert alertmanager(settings)["receivers"] == [{"name": "pages"}, {"name": "tickets"}]


def test_every_model_has_its_rules(settings: Settings) -> None:
    write_files(settings, "mlops_assets.definitions")
    assert (settings.rules_folder / "model-flight-delay.yml").exists()
