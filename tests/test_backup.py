"""Everything is lost, and comes back: policies, releases, Dagster's history and MLflow's registry."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from mlops_assets.adapters.databases import PostgresDatabase, SqliteFiles
from mlops_assets.adapters.local import local_platform, wall_clock
from mlops_assets.adapters.s3 import policy_key
from mlops_assets.backup import MANIFEST, Manifest, back_up, read, restore
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.errors import BadData, IllegalChange
from mlops_assets.core.policy import Author, Policy
from mlops_assets.migrate import migrate
from mlops_assets.ports import Platform, model_key
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_backup import back_up_stack, databases_of, restore_stack
from mlops_assets.stack_processes import left_behind
from tests.postgres_server import PostgresServer
from tests.servers import eventually, free_base_port
from tests.test_doctor import in_memory

ADA, MODEL, HOUR = Author("ada", "a test"), "fraud-detector", timedelta(hours=1)
KEY, RELEASES = dg.AssetKey(["fraud_detector", "production"]), "fraud_detector_release"


def promote(platform: Platform, release: str) -> None:
    """A release with its file, in production."""
    data = release.encode()
    platform.objects.create(model_key(MODEL, release), data)
    policy, now = platform.policies.read(MODEL), platform.clock()
    changed = policy_changes.register(policy, release, hashlib.sha256(data).hexdigest(), ADA, now)
    changed = policy_changes.accept(policy_changes.stage(changed, release, ADA, now), release, ADA, now)
    changed = policy_changes.promote(policy_changes.begin(changed, release, Step("first", HOUR, weight=5), ADA, now), ADA, now, HOUR)
    platform.policies.write(changed, policy.generation)


@dataclass
class Told:
    """A database that tells when it is copied and brought back."""

    name: str
    on_copy: Callable[[], None] = lambda: None
    full: bool = False
    loaded: list[str] = field(default_factory=list)

    def copy(self, folder: Path) -> None:
        self.on_copy()
        folder.mkdir()
        (folder / "rows").write_text(self.name)

    def load(self, folder: Path) -> None:
        self.loaded.append((folder / "rows").read_text())

    def is_empty(self) -> bool:
        return not self.full

    def users(self) -> int:
        return 0


@pytest.fixture
def platform() -> Platform:
    made = in_memory()
    promote(made, "v1")
    made.objects.put(f"evidence/{MODEL}/a.json", b"{}")
    return made


@pytest.fixture
def kept(platform: Platform, tmp_path: Path) -> Path:
    """A backup of ``platform``."""
    back_up(platform, [Told("dagster"), Told("mlflow")], tmp_path / "kept")
    return tmp_path / "kept"


def brought_back(platform: Platform, folder: Path, force: bool = False, followed: int = 0) -> Manifest:
    return restore(platform, [Told("dagster"), Told("mlflow")], folder, ADA, lambda model: followed, force)


def same_but_the_last(restored: Policy, before: Policy) -> bool:
    return (restored.champions, restored.digests, restored.log[:-1]) == (before.champions, before.digests, before.log)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    if request.param == "postgres":
        request.getfixturevalue("databases")
    settings = Settings(tmp_path_factory.mktemp("bk"), free_base_port())
    yield settings
    Stack(settings, ("s3",)).down()


def registry_of(settings: Settings):
    from mlflow import MlflowClient

    return MlflowClient(settings.mlflow_database)


def stored(settings: Settings, query: str) -> list[tuple]:
    """What is in MLflow's database now: its own client would go on reading a file that was deleted."""
    with create_engine(settings.mlflow_database, poolclass=NullPool).connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def fill(settings: Settings) -> None:
    """A champion, its records in Dagster, and its version in MLflow."""
    platform, client = local_platform(settings), registry_of(settings)
    promote(platform, "v1")
    promote(platform, "v2")
    platform.objects.put(f"evidence/{MODEL}/a.json", b"{}")
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        run = create_run_for_test(instance, job_name="training", status=DagsterRunStatus.SUCCESS)
        instance.report_engine_event("it went well", run)
        instance.add_dynamic_partitions(RELEASES, ["v1", "v2"])
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, metadata={"generation": 10}))
    client.create_registered_model(MODEL)
    for number in ("1", "2"):
        client.create_model_version(MODEL, source=f"mlflow-artifacts:/{number}", tags={"digest": number})
    client.set_registered_model_alias(MODEL, "champion", "2")


def assert_all_is_there(settings: Settings, before: Policy) -> None:
    platform = local_platform(settings)
    restored = platform.policies.read(MODEL)
    assert same_but_the_last(restored, before)
    assert (restored.champion, restored.previous, restored.log[-1].action) == ("v2", "v1", "restore")
    assert platform.objects.get(model_key(MODEL, "v2")) == b"v2"
    assert platform.objects.get(f"evidence/{MODEL}/a.json") == b"{}"
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        (run,) = instance.get_runs()
        assert (run.job_name, run.status) == ("training", DagsterRunStatus.SUCCESS)
        assert [entry.message for entry in instance.all_logs(run.run_id)] == ["it went well"]
        assert instance.get_dynamic_partitions(RELEASES) == ["v1", "v2"]
        event = instance.get_latest_materialization_event(KEY)
        assert event is not None
        assert event.asset_materialization.metadata["generation"].value == 10
    assert stored(settings, "SELECT alias, version FROM registered_model_aliases") == [("champion", 2)]
    assert stored(settings, "SELECT version, value FROM model_version_tags ORDER BY version") == [(1, "1"), (2, "2")]


@pytest.mark.long
def test_all_is_lost_and_comes_back(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch) -> None:
    stack = Stack(settings, ("s3",))
    stack.up()
    migrate(settings, lambda _: None)
    fill(settings)
    before = local_platform(settings).policies.read(MODEL)
    back_up_stack(settings, tmp_path / "kept", False, lambda _: None)  # Dagster's and MLflow's databases are open still

    with pytest.raises(IllegalChange, match="the stack in .* runs: 'mlops down' first"):
        restore_stack(settings, tmp_path / "kept", ADA, True, lambda _: None)
    stack.down()
    shutil.rmtree(settings.home)
    if settings.dagster_database:
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", server.create(f"{settings.base_port}-dagster"))
        monkeypatch.setenv("MLOPS_MLFLOW_DATABASE_URL", server.create(f"{settings.base_port}-mlflow"))

    restore_stack(settings, tmp_path / "kept", ADA, False, lambda _: None)
    stack.up()
    assert_all_is_there(settings, before)
    assert settings.dagster_database or all(database.is_empty() is False for database in databases_of(settings)[:2])
    stack.down()
    with pytest.raises(IllegalChange, match="dagster, mlflow, the policy store, bucket models, .*--force replaces it"):
        restore_stack(settings, tmp_path / "kept", ADA, False, lambda _: None)


def test_nothing_is_restored_under_what_a_killed_stack_has_left_behind(tmp_path: Path, kept: Path) -> None:
    settings = Settings(tmp_path, free_base_port())
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"MLOPS_STACK": str(settings.home)})
    try:
        eventually(lambda: left_behind(settings.home))
        with pytest.raises(IllegalChange, match="the stack in .* runs: 'mlops down' first"):
            restore_stack(settings, kept, ADA, True, lambda _: None)
    finally:
        left.kill()
        left.wait()


def test_what_changes_while_it_is_copied_does_no_harm(platform: Platform, tmp_path: Path) -> None:
    dagster = Told("dagster", lambda: promote(platform, "v2"))  # Dagster has no record of v2 then, which it is given again
    mlflow = Told("mlflow", lambda: promote(platform, "v3"))  # and v3 is registered, and in no policy
    back_up(platform, [dagster, mlflow], tmp_path / "kept")
    fresh = in_memory()
    restore(fresh, [dagster, mlflow], tmp_path / "kept", ADA, lambda model: 0)
    restored = fresh.policies.read(MODEL)
    assert restored.champions == ("v1", "v2")
    assert set(restored.digests) == {"v1", "v2"}
    assert fresh.objects.get(model_key(MODEL, "v2")) == b"v2"
    assert fresh.objects.get(model_key(MODEL, "v3")) == b"v3"


def test_answers_that_are_counted_while_it_is_copied_are_counted_again(platform: Platform, tmp_path: Path, monkeypatch) -> None:
    """An hour may have more than its backup's progress says, and never less: what is read again counts once."""
    hour = f"monitoring/{MODEL}/outcomes/v1/20130101T00.parquet"
    progress = f"monitoring/{MODEL}/progress.json"
    platform.objects.put(hour, b"ten answers")
    platform.objects.put(progress, b"at ten")
    get = platform.objects.get

    def get_and_count(key: str) -> bytes:
        found = get(key)
        if key == hour:
            platform.objects.put(hour, b"twenty answers")
            platform.objects.put(progress, b"at twenty")
        return found

    monkeypatch.setattr(platform.objects, "get", get_and_count)
    back_up(platform, [Told("dagster"), Told("mlflow")], tmp_path / "kept")
    kept = tmp_path / "kept" / "objects" / "monitoring" / MODEL
    assert (kept / "progress.json").read_bytes() == b"at ten"


@pytest.mark.parametrize(("stored", "followed"), [(0, 0), (0, 90), (40, 3)])
def test_a_restored_policy_is_newer_than_any_that_a_gateway_follows(platform: Platform, kept: Path, stored: int, followed: int) -> None:
    before, target = platform.policies.read(MODEL), in_memory()
    if stored:
        target.policies.write(Policy(MODEL, stored), 0)
    brought_back(target, kept, force=True, followed=followed)
    restored = target.policies.read(MODEL)
    assert restored.generation == max(before.generation, stored, followed) + 1
    assert same_but_the_last(restored, before)


def test_nothing_is_replaced_without_force_and_with_it_the_backup_alone_is_there(platform: Platform, kept: Path) -> None:
    before = platform.policies.read(MODEL)
    promote(platform, "v2")
    with pytest.raises(IllegalChange, match="the policy store, bucket models, bucket evidence holds something already: --force"):
        brought_back(platform, kept)
    assert platform.policies.read(MODEL).champion == "v2"
    brought_back(platform, kept, force=True)
    assert same_but_the_last(platform.policies.read(MODEL), before)
    assert [info.key for info in platform.objects.list("models/")] == [model_key(MODEL, "v1")]


def test_in_a_real_store_too_the_backup_alone_is_there(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(tmp_path_factory.mktemp("rs"), free_base_port())
    stack = Stack(settings, ("s3",))
    try:
        stack.up()
        target = replace(local_platform(settings), gateway=in_memory().gateway)
        target.policies.write(Policy("other-model", 1), 0)
        target.objects.put(policy_key("damaged-model"), b"{ half")
        promote(target, "v1")
        promote(target, "v2")
        target.objects.put(policy_key(MODEL), b"{ half")
        brought_back(target, kept, force=True)
        assert target.policies.models() == (MODEL,)
        assert target.policies.read(MODEL).champions == ("v1",)
        assert [info.key for info in target.objects.list("models/")] == [model_key(MODEL, "v1")]
        promote(target, "v2")  # its file may be written again, though one of this name was there
    finally:
        stack.down()


def test_a_database_that_holds_something_is_not_replaced(kept: Path) -> None:
    full = Told("dagster", full=True)
    with pytest.raises(IllegalChange, match="^dagster holds something already"):
        restore(in_memory(), [full, Told("mlflow")], kept, ADA, lambda model: 0)
    assert full.loaded == []


def test_a_backup_that_was_touched_brings_nothing_back(kept: Path) -> None:
    (kept / "objects" / "evidence" / MODEL / "a.json").write_bytes(b"[]")
    (kept / "policies" / f"{MODEL}.json").unlink()
    (kept / "dagster" / "more").write_bytes(b"")
    target = in_memory()
    with pytest.raises(BadData, match="3 files of .* are not as they were written"):
        brought_back(target, kept)
    assert list(target.objects.list("models/")) == []


def test_a_folder_without_a_manifest_is_no_backup(kept: Path) -> None:
    (kept / MANIFEST).unlink()
    with pytest.raises(BadData, match=f"no {MANIFEST}: it is no backup, or one that was not finished"):
        read(kept)


def test_a_release_without_its_file_is_found_when_it_is_backed_up(platform: Platform, tmp_path: Path) -> None:
    platform.objects.put(model_key(MODEL, "v1"), b"other bytes")
    with pytest.raises(BadData, match="model.onnx: got .*, expected sha256"):
        back_up(platform, [Told("dagster")], tmp_path / "kept")
    with pytest.raises(BadData, match="no backup, or one that was not finished"):
        read(tmp_path / "kept")


def test_a_backup_goes_into_a_folder_of_its_own(platform: Platform, kept: Path) -> None:
    with pytest.raises(IllegalChange, match="is not empty"):
        back_up(platform, [Told("dagster")], kept)


def test_a_copy_of_a_file_in_use_is_whole(tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "live").mkdir()
    writer = sqlite3.connect(tmp_path / "live" / "runs.db")
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE runs (id INTEGER)")
    writer.execute("INSERT INTO runs VALUES (1)")
    writer.commit()
    writer.execute("INSERT INTO runs VALUES (2)")  # and not committed
    files = SqliteFiles("dagster", tmp_path / "live", ("*.db",), ("runs",))
    files.copy(tmp_path / "copy")
    assert sqlite3.connect(tmp_path / "copy" / "runs.db").execute("SELECT id FROM runs").fetchall() == [(1,)]
    writer.close()
    shutil.rmtree(tmp_path / "live")
    assert files.is_empty()
    files.load(tmp_path / "copy")
    assert not files.is_empty()


def test_nothing_is_loaded_under_somebody_who_is_connected(databases: tuple[str, str], kept: Path) -> None:
    database = PostgresDatabase("dagster", databases[0], ("runs",))
    with create_engine(databases[0]).connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(IllegalChange, match="connections to the database of dagster are open: stop Dagster and MLflow first"):
            restore(in_memory(), [_Dumped(database), Told("mlflow")], kept, ADA, lambda model: 0)


class _Dumped(Told):
    """Told, with the users of a real database."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database.name)
        self._database = database

    def users(self) -> int:
        return self._database.users()


def test_a_backup_of_files_is_not_loaded_into_postgres(kept: Path) -> None:
    wanted = PostgresDatabase("dagster", "postgresql+psycopg2://nobody@127.0.0.1:1/none", ())
    with pytest.raises(IllegalChange, match="the backup of dagster is of SQLite, and Postgres is configured"):
        restore(in_memory(), [wanted, Told("mlflow")], kept, ADA, lambda model: 0)


def test_the_time_of_a_backup_is_told(kept: Path) -> None:
    assert abs(read(kept).made_at - wall_clock()) < HOUR
