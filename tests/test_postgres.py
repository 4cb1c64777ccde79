"""Dagster and MLflow on a real Postgres, chosen by the environment alone."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import create_engine, inspect
from typer.testing import CliRunner

from mlops_assets.cli import app
from mlops_assets.core.errors import MlopsError, Unavailable
from mlops_assets.dagster_instance import instance_config
from mlops_assets.migrate import migrate
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_services import build, supervisord_conf, write_files
from tests.servers import free_base_port

SECRET = "postgresql+psycopg2://me:very-secret@db.example:5432/dagster"


def instance_of(settings: Settings) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(settings.dagster_home))


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, free_base_port())


def test_migrate_makes_both_databases_and_does_no_harm_a_second_time(settings: Settings, databases: tuple[str, str]) -> None:
    told: list[str] = []
    migrate(settings, told.append)
    dagster, mlflow = databases
    assert {"runs", "event_logs", "instigators", "concurrency_limits"} <= tables(dagster)
    assert {"experiments", "registered_models", "model_versions"} <= tables(mlflow)
    with instance_of(settings) as instance:
        create_run_for_test(instance, job_name="kept", status=DagsterRunStatus.SUCCESS)
    migrate(settings, told.append)
    with instance_of(settings) as instance:
        assert [run.job_name for run in instance.get_runs()] == ["kept"]
    assert not list(settings.dagster_home.rglob("*.db")), "Dagster's storage is in Postgres, not beside it"
    assert told[-1].startswith("MLflow's database")


def test_without_a_postgres_both_databases_are_files(settings: Settings) -> None:
    migrate(settings, lambda _: None)
    assert (settings.home / "mlflow" / "mlflow.db").exists()
    assert list(settings.dagster_home.rglob("*.db"))


def test_one_of_both_is_migrated_where_the_other_is_somebody_elses(settings: Settings) -> None:
    done = CliRunner().invoke(app, ["migrate", "--only", "mlflow"], env={"MLOPS_HOME": str(settings.home)})
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "MLflow's database is as this version wants it")
    assert "Dagster" not in done.stdout
    assert (settings.home / "mlflow" / "mlflow.db").exists()
    assert not settings.dagster_home.exists()


def test_a_database_that_does_not_answer_is_named_without_its_password(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", "postgresql+psycopg2://me:very-secret@127.0.0.1:1/dagster")
    with pytest.raises(Unavailable, match="127.0.0.1:1/dagster") as raised:
        migrate(settings, lambda _: None)
    assert "very-secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["mysql://a:very-secret@b/c", "very-secret", "postgresql+psycopg2://me:very-secret@db", "postgresql://me:very-secret@db/c"]
)
def test_an_address_of_no_postgres_database_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, settings: Settings, url: str) -> None:
    monkeypatch.setenv("MLOPS_MLFLOW_DATABASE_URL", url)
    with pytest.raises(MlopsError, match="MLOPS_MLFLOW_DATABASE_URL: .*expected postgresql.psycopg2://") as raised:
        _ = settings.mlflow_database
    assert "very-secret" not in str(raised.value)


def test_no_file_of_the_stack_has_a_password(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_assets import credentials

    monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", SECRET)
    monkeypatch.setenv("MLOPS_MLFLOW_DATABASE_URL", SECRET)
    write_files(settings, credentials.ensure(settings.home))
    (settings.home / "supervisord.conf").write_text(supervisord_conf(settings, build(settings, "mlops_assets.definitions")))
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"very-secret" in path.read_bytes()]
    assert yaml.safe_load(instance_config(settings))["storage"]["postgres"]["postgres_url"] == {"env": "MLOPS_DAGSTER_DATABASE_URL"}


def test_a_registry_on_postgres_keeps_what_it_promises(databases: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    from mlops_assets.adapters.mlflow import MlflowRegistry
    from tests.adapters.test_contracts import DIGEST, TestRegistry

    settings = Settings(tmp_path_factory.mktemp("mp"), free_base_port())
    stack = Stack(settings, ("s3", "mlflow"))
    try:
        stack.up()
        registry, contract = MlflowRegistry(settings.mlflow_url), TestRegistry()
        for number, name in enumerate(dir(contract)):
            if name.startswith("test_") and name != "test_a_release_that_does_not_exist_is_not_found":
                getattr(contract, name)(registry, f"model-{number}")
        contract.test_a_release_that_does_not_exist_is_not_found(registry, "model", "v9")
        assert registry.release("model", "v1").digest == DIGEST
        assert "model_versions" in tables(databases[1])
        assert not list((settings.home / "mlflow").glob("*.db"))
    finally:
        stack.down()
