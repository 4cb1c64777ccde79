"""Everything is lost, and comes back: policies, releases, Dagster's history and MLflow's registry."""

import hashlib
import io
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.test_utils import create_run_for_test
from rich.console import Console
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

from mlops_assets import stack_backup
from mlops_assets.adapters.databases import PostgresDatabase, SqliteFiles
from mlops_assets.adapters.envoy_state import Entry, write_state
from mlops_assets.adapters.local import local_platform, wall_clock
from mlops_assets.adapters.memory import MemoryDeployments, MemoryGateway, MemoryObjectStore, MemoryPredictionLog
from mlops_assets.adapters.s3 import policy_key
from mlops_assets.backup import BUCKETS, MANIFEST, Manifest, back_up, read, restore
from mlops_assets.cli import app
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.errors import BadData, IllegalChange
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.routing import Route
from mlops_assets.gateway_sidecar.follower import Follower
from mlops_assets.gateway_sidecar.server import Face, server
from mlops_assets.migrate import migrate
from mlops_assets.ports import Platform, model_key
from mlops_assets.reconcile import converge_traffic, differences, reconcile
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_backup import back_up_stack, databases_of, restore_stack
from mlops_assets.stack_processes import left_behind
from mlops_assets.status import show_models
from tests.postgres_server import PostgresServer
from tests.servers import eventually, free_base_port, free_port
from tests.test_doctor import in_memory

ADA, MODEL, HOUR = Author("ada", "a test"), "fraud-detector", timedelta(hours=1)
LATER = "gift-returns"
"""A model that was made after the backup."""

KEY, RELEASES = dg.AssetKey(["fraud_detector", "production"]), "fraud_detector_release"


def promote(platform: Platform, release: str, model: str = MODEL, data: bytes = b"") -> None:
    """A release with its file, in production."""
    data = data or release.encode()
    platform.objects.create(model_key(model, release), data)
    policy, now = platform.policies.read(model), platform.clock()
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


def assert_nothing_is_live(policy: Policy, generation: int) -> None:
    (change,) = policy.log
    assert policy == Policy(policy.model, generation, log=(change,))
    assert (change.action, change.author.why) == ("restore", f"a test, which knows no {policy.model}")


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


@dataclass
class Cluster:
    """What is restored into, and two gateways: one has outlived its store at generation 50, the other does not answer."""

    platform: Platform
    alive: str
    gone: str
    monkeypatch: pytest.MonkeyPatch

    def restore(self, folder: Path, gateways: Sequence[str], *options: str) -> Result:
        self.monkeypatch.setenv("MLOPS_GATEWAYS", ",".join(gateways))
        return CliRunner().invoke(app, ["restore", str(folder), *options])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    gateway, made = in_memory().gateway, in_memory()
    gateway.apply(Route(MODEL, 50, (), None, {}))
    follower = Follower(MemoryObjectStore(), gateway, lambda model, release: "", wall_clock)  # type: ignore[arg-type]
    listening = server(Face("gateway-a", follower, gateway, bytes), "127.0.0.1", 0)  # type: ignore[arg-type]
    threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    where = {"MLOPS_HOME": str(tmp_path / "home"), "MLOPS_BASE_PORT": str(free_base_port()), "MLOPS_S3_URL": "http://127.0.0.1:1"}
    for name, value in {"MLOPS_TARGET": "kubernetes", **where}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stack_backup, "local_platform", lambda settings: replace(made, gateway=local_platform(settings).gateway))
    monkeypatch.setattr("mlops_assets.migrate.migrate", lambda settings, progress: None)
    yield Cluster(made, f"127.0.0.1:{listening.server_port}", f"127.0.0.1:{free_port()}", monkeypatch)
    listening.shutdown()
    listening.server_close()


def test_nothing_is_restored_while_a_clusters_gateway_does_not_tell_what_it_follows(cluster: Cluster, kept: Path, tmp_path: Path) -> None:
    for gateways in ([cluster.alive, cluster.gone], ["nowhere.invalid:9902"]):
        done = cluster.restore(kept, gateways)
        assert done.exit_code == 1
        assert "error: nothing was restored" in done.stderr
        assert "--seen" in done.stderr
        assert cluster.platform.policies.models() == ()
        assert [info.key for bucket in BUCKETS for info in cluster.platform.objects.list(f"{bucket}/")] == []
        assert not (tmp_path / "home").exists()  # Dagster's and MLflow's databases


@pytest.mark.parametrize(
    ("gateways", "seen", "generation"),
    [
        pytest.param(["alive"], [], 51, id="they-answer"),
        pytest.param(["alive"], ["--seen", "9"], 51, id="they-answer-and-follow-more-than-was-said"),
        pytest.param(["alive", "gone"], ["--seen", "60"], 61, id="not-all-answer-and-it-is-said"),
        pytest.param(["gone"], ["--seen", "0"], 6, id="they-are-gone-for-good"),
    ],
)
def test_what_a_cluster_is_restored_to_its_gateways_follow(
    cluster: Cluster, platform: Platform, kept: Path, gateways: list[str], seen: list[str], generation: int
) -> None:
    assert platform.policies.read(MODEL).generation == 5
    done = cluster.restore(kept, [getattr(cluster, name) for name in gateways], *seen)
    assert done.exit_code == 0, done.stderr
    assert cluster.platform.policies.read(MODEL).generation == generation


def test_what_a_gateway_of_this_machine_follows_is_read_from_its_files_while_it_is_down(
    cluster: Cluster, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_TARGET", "processes")
    (tmp_path / "home" / "envoy").mkdir(parents=True)
    write_state(tmp_path / "home" / "envoy", {MODEL: Entry(active=Route(MODEL, 50, (), None, {}))})
    assert cluster.restore(kept, []).exit_code == 0
    assert cluster.platform.policies.read(MODEL).generation == 51


SCORES = {hashlib.sha256(data).hexdigest(): score for data, score in ((b"v1", 0.1), (b"v2", 0.2), (b"trained again", 0.9))}


@pytest.mark.parametrize("followed", [0, 40])
def test_a_model_that_the_backup_does_not_know_is_live_no_more_and_is_begun_anew(kept: Path, followed: int) -> None:
    deployments = MemoryDeployments(lambda model, release, digest: lambda matrix: np.full(len(matrix), SCORES[digest]))
    made = in_memory()
    made = replace(made, deployments=deployments, gateway=MemoryGateway(deployments, MemoryPredictionLog(), made.clock))
    for release in ("v1", "v2"):
        promote(made, release, LATER)
        converge_traffic(made, LATER)
    assert asked(made) == (200, 0.2)
    before = made.policies.read(LATER).generation

    brought_back(made, kept, force=True, followed=followed)
    assert_nothing_is_live(made.policies.read(LATER), max(before, followed) + 1)
    told = io.StringIO()
    assert not show_models(made, Console(file=told, width=300))
    assert f"a test, which knows no {LATER}" in told.getvalue()
    reconcile(made, LATER)
    assert differences(made, LATER) == ()
    assert (list(made.deployments.running(LATER)), asked(made)[0]) == ([], 404)

    promote(made, "v1", LATER, b"trained again")
    converge_traffic(made, LATER)
    assert asked(made) == (200, 0.9)


def asked(platform: Platform) -> tuple[int, float]:
    """What the gateway answers who asks the later model: status and score."""
    rows = pd.DataFrame({"request_id": ["a"], "unit": ["a"], "event_time": [wall_clock()], "amount": [1.0]})
    (answer,) = platform.gateway.send(LATER, rows).to_dict("records")  # type: ignore[attr-defined]
    return answer["status"], answer["score"]


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
        promote(target, "v1", LATER)
        made = target.policies.read(LATER).generation
        target.objects.put(policy_key("damaged-model"), b"{ half")
        promote(target, "v1")
        promote(target, "v2")
        target.objects.put(policy_key(MODEL), b"{ half")
        brought_back(target, kept, force=True)
        assert target.policies.models() == ("damaged-model", MODEL, LATER)
        assert target.policies.read(MODEL).champions == ("v1",)
        assert_nothing_is_live(target.policies.read("damaged-model"), 1)
        assert_nothing_is_live(target.policies.read(LATER), made + 1)
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
