"""What a stack of its own is told of the environment that it was started in."""

import argparse
import os
from pathlib import Path

import pytest

from mlops_assets.model_ci import __main__ as model_ci
from mlops_assets.settings import Settings

PRODUCTION = {
    "MLOPS_TARGET": "kubernetes",
    "MLOPS_S3_URL": "https://s3.example",
    "MLFLOW_TRACKING_URI": "https://mlflow.example",
    "MLOPS_MLFLOW_DATABASE_URL": "postgresql+psycopg2://u:secret@db.example/mlflow",
    "MLOPS_DAGSTER_DATABASE_URL": "postgresql+psycopg2://u:secret@db.example/dagster",
    "MLOPS_ONLINE_URL": "redis://redis.example:6379/0",
    "MLOPS_EXECUTOR": "kubernetes",
    "MLOPS_GATEWAYS": "gateways.example:9902",
    "MLOPS_PACE": "1440",
    "DAGSTER_HOME": "/var/lib/dagster",
    "AWS_PROFILE": "production",
    "MLOPS_ALERTMANAGER_URL": "",
}


def test_a_stack_of_its_own_reaches_nothing_of_production(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in model_ci._foreign():
        monkeypatch.delenv(name)  # and brings it back
    for name, value in (PRODUCTION | {"MLOPS_PII_KEY": "one-key-for-both"}).items():
        monkeypatch.setenv(name, value)
    seen: list[dict[str, str]] = []
    read: list[dict[str, str]] = []

    def run(spec: object, base: str, told: argparse.Namespace, production: object) -> bool:
        seen.append(dict(os.environ))
        settings = Settings(tmp_path, 14_000)
        assert settings.target == "processes"
        addresses = (settings.s3_url, settings.mlflow_url, settings.mlflow_database, settings.dagster_database, settings.online_url)
        assert not [address for address in addresses if "example" in str(address)]
        return True

    monkeypatch.setattr(model_ci, "_run", run)
    monkeypatch.setattr(model_ci, "_production", lambda: read.append(dict(os.environ)))
    assert model_ci.main(["flight-delay"]) == 0
    named = {name: value for name, value in PRODUCTION.items() if value}
    assert named.items() <= read[0].items()
    assert "MLOPS_ALERTMANAGER_URL" not in read[0]
    assert not PRODUCTION.keys() & seen[0].keys()
    assert seen[0]["MLOPS_PII_KEY"] == "one-key-for-both"
