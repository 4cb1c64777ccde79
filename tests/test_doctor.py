"""``mlops doctor`` finds what is broken, says how to mend it, and is not stopped by it."""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console

from mlops_assets import credentials
from mlops_assets.adapters.local import local_platform, wall_clock
from mlops_assets.adapters.memory import MemoryObjectStore, MemoryPolicyStore, MemoryRegistry
from mlops_assets.adapters.memory_deployments import MemoryDeployments, onnx_predictors
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore
from mlops_assets.core.errors import NotFound
from mlops_assets.core.policy import Policy
from mlops_assets.core.verdict import Outcome
from mlops_assets.doctor import Doctor, Finding, show
from mlops_assets.ports import ObjectInfo, Platform, model_key
from mlops_assets.settings import Settings
from tests.redis_server import PASSWORD, running_redis
from tests.servers import free_base_port


class Overwriting(MemoryObjectStore):
    """A store that heeds no condition, and whose clock is slow."""

    def create(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        return [replace(info, modified=info.modified - timedelta(minutes=2)) for info in super().list(prefix, after)]


def in_memory(objects: MemoryObjectStore | None = None) -> Platform:
    kept = objects or MemoryObjectStore()
    deployments, log = MemoryDeployments(onnx_predictors(kept)), MemoryPredictionLog()
    parts = {"policies": MemoryPolicyStore(), "registry": MemoryRegistry(), "features": MemoryFeatureStore(), "predictions": log}
    gateway = MemoryGateway(deployments, log, wall_clock)
    return Platform(clock=wall_clock, objects=kept, deployments=deployments, gateway=gateway, **parts)


def found(doctor: Doctor) -> dict[str, Finding]:
    return {finding.what: finding for finding in doctor.examine()}


def outcomes(doctor: Doctor) -> dict[str, Outcome]:
    return {what: finding.outcome for what, finding in found(doctor).items()}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a stack of which nothing runs."""
    return Settings(tmp_path, free_base_port())


def test_on_a_real_store_nothing_has_to_be_mended_and_nothing_is_left_behind(empty_s3: Settings) -> None:
    doctor = Doctor(empty_s3, lambda: local_platform(empty_s3))
    told = outcomes(doctor)
    well = {"Python", "packages", "disk", "credentials", "object store", "write once", "clock", "compare and swap", "online store"}
    assert {what for what, outcome in told.items() if outcome is Outcome.PASS} >= well
    assert {what for what, outcome in told.items() if outcome is Outcome.FAIL} == {"MLflow", "Dagster", "gateway"}  # which do not run here
    objects = S3ObjectStore(empty_s3.s3_url, credentials.read(empty_s3.home))
    assert not objects.list("tables/doctor/")
    assert S3PolicyStore(empty_s3.s3_url, credentials.read(empty_s3.home)).models() == ()


def test_a_store_that_heeds_no_condition_and_a_wrong_clock_are_found(settings: Settings) -> None:
    platform = in_memory(Overwriting())
    told = found(Doctor(settings, lambda: platform))
    assert told["write once"].outcome is Outcome.FAIL
    assert "If-None-Match" in told["write once"].mend
    assert (told["clock"].outcome, "NTP" in told["clock"].mend) == (Outcome.FAIL, True)


def test_before_the_first_start_it_looks_at_what_there_is(tmp_path: Path) -> None:
    def never() -> Platform:
        raise NotFound("there are no credentials: 'mlops up' makes them")

    told = found(Doctor(Settings(tmp_path / "not yet", free_base_port()), never))
    assert told["home"].outcome is Outcome.INCONCLUSIVE
    assert told["packages"].outcome is Outcome.PASS
    assert "mlops up" in told["object store"].got


def test_a_champion_whose_file_is_lost_and_a_policy_that_cannot_be_read_are_named(settings: Settings, s3: Settings) -> None:
    platform = in_memory()
    platform.policies.write(Policy("fraud", 1, ("v1",), digests={"v1": "d"}, weights={"v1": 100}), 0)
    told = found(Doctor(settings, lambda: platform))["policy of fraud"]
    assert (told.outcome, "no file of v1" in told.got) == (Outcome.FAIL, True)
    platform.objects.put(model_key("fraud", "v1"), b"model")
    assert found(Doctor(settings, lambda: platform))["policy of fraud"].outcome is Outcome.PASS
    objects = S3ObjectStore(s3.s3_url, credentials.read(s3.home))
    objects.put("policies/torn.json", b"{")
    try:
        assert found(Doctor(s3, lambda: local_platform(s3)))["policy of torn"].outcome is Outcome.FAIL
    finally:
        objects.delete("policies/torn.json")


def test_credentials_that_others_may_read_are_found(s3: Settings) -> None:
    file = s3.home / credentials.FILE
    file.chmod(0o644)
    try:
        told = found(Doctor(s3, lambda: local_platform(s3)))["credentials"]
    finally:
        file.chmod(0o600)
    assert (told.outcome, told.mend) == (Outcome.FAIL, f"chmod 600 {file}")


def test_a_redis_that_forgets_is_found_and_no_password_is_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_redis() as server:
        server.client.config_set("maxmemory", "100mb")
        server.client.config_set("maxmemory-policy", "allkeys-lru")
        monkeypatch.setenv("MLOPS_ONLINE_URL", server.url)
        doctor = Doctor(settings, in_memory)
        told = found(doctor)["online store"]
        assert (told.outcome, "noeviction" in told.mend) == (Outcome.FAIL, True)
        console = Console(file=io.StringIO(), width=200)
        assert show(doctor, console) is False
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "allkeys-lru" in written
    assert PASSWORD not in written


def test_each_postgres_is_looked_at_and_no_password_is_shown(
    databases: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {finding.what: finding for finding in Doctor(settings, in_memory).databases()}
    assert {finding.outcome for finding in told.values()} == {Outcome.PASS}
    assert {"Postgres of Dagster", "tables of Dagster", "clock of MLflow's Postgres", "pg_dump"} <= set(told)
    assert told["Postgres of Dagster"].got.startswith("16.")
    monkeypatch.setenv("MLOPS_MLFLOW_DATABASE_URL", "postgresql+psycopg2://me:very-secret@127.0.0.1:1/mlflow")
    monkeypatch.setenv("PATH", "")
    told = {finding.what: finding for finding in Doctor(settings, in_memory).databases()}
    assert told["Postgres of Dagster"].outcome is Outcome.PASS
    assert (told["Postgres of MLflow"].outcome, told["pg_dump"].outcome) == (Outcome.FAIL, Outcome.FAIL)
    assert "very-secret" not in str(told)


def test_files_need_no_look_at_a_server(settings: Settings) -> None:
    assert list(Doctor(settings, in_memory).databases()) == []
