"""``mlops doctor`` finds what is broken, says how to mend it, and is not stopped by it."""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._daemon.types import DaemonHeartbeat
from rich.console import Console

from mlops_assets import credentials
from mlops_assets.adapters.kubernetes import KubernetesDeployments
from mlops_assets.adapters.kubernetes_api import PLURALS
from mlops_assets.adapters.kubernetes_manifests import Manifest, Offer, Target
from mlops_assets.adapters.local import local_platform, wall_clock
from mlops_assets.adapters.memory import MemoryObjectStore, MemoryPolicyStore, MemoryRegistry
from mlops_assets.adapters.memory_deployments import MemoryDeployments, onnx_predictors
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore
from mlops_assets.core.errors import NotFound, Unavailable
from mlops_assets.core.policy import Author, Change, Policy
from mlops_assets.core.routing import Route
from mlops_assets.core.verdict import Outcome
from mlops_assets.dagster_instance import instance_config
from mlops_assets.doctor import _PODS, FOLLOWED_WITHIN, Doctor, Finding, show
from mlops_assets.ports import ObjectInfo, Platform, model_key
from mlops_assets.settings import Settings
from tests.adapters.kubernetes_objects import MemoryKubernetes
from tests.redis_server import PASSWORD, running_redis
from tests.servers import Upstream, free_base_port
from tests.test_postgres import tables

NOBODY = "127.0.0.1:1"
SECRET = "very-secret"


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


def away(monkeypatch: pytest.MonkeyPatch, password: str = SECRET) -> None:
    """Everything has an address with a password, and nobody listens there."""
    for name in ("MLOPS_DAGSTER_DATABASE_URL", "MLOPS_MLFLOW_DATABASE_URL"):
        monkeypatch.setenv(name, f"postgresql+psycopg2://me:{password}@{NOBODY}/{name.split('_')[1].lower()}")
    for name in ("MLFLOW_TRACKING_URI", "MLOPS_DAGSTER_URL", "MLOPS_S3_URL"):
        monkeypatch.setenv(name, f"http://me:{password}@{NOBODY}")
    monkeypatch.setenv("MLOPS_ONLINE_URL", f"redis://me:{password}@{NOBODY}/0")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MLOPS_GATEWAYS", NOBODY)
    monkeypatch.setenv("MLOPS_GATEWAY_TOKEN", f"{SECRET}\n")  # as in a Secret that was made from a file
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")


@pytest.mark.parametrize("password", [SECRET, f"{SECRET}/1", f"pa:{SECRET}?", f"[{SECRET}"])
@pytest.mark.parametrize("target", ["processes", "kubernetes"])
def test_when_all_is_away_each_look_ends_in_a_finding_without_a_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, target: str, password: str
) -> None:
    away(monkeypatch, password)
    monkeypatch.setenv("MLOPS_TARGET", target)
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text("storage: {postgres: {postgres_url: {env: MLOPS_DAGSTER_DATABASE_URL}}}")
    told = found(Doctor(settings, lambda: local_platform(settings)))
    everywhere = {"object store", "policies", "Postgres of Dagster", "Postgres of MLflow", "MLflow", "daemon", "gateway", "online store"}
    broken = everywhere | ({"Kubernetes", "routes"} if target == "kubernetes" else {"Dagster"})
    assert broken <= {what for what, finding in told.items() if finding.outcome is Outcome.FAIL}
    assert SECRET not in str(told)


def test_a_refusal_is_told_by_its_status(settings: Settings, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    port = upstream("mlflow", status=401).port
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{port}")
    told = found(Doctor(settings, in_memory))["MLflow"]
    assert (told.outcome, told.got) == (Outcome.FAIL, f"http://127.0.0.1:{port}/version answered 401")


def test_what_answers_at_an_address_and_is_not_what_we_look_for_is_a_finding(settings: Settings, upstream: Callable[..., Upstream]) -> None:
    for name, port in {"dagster": settings.dagster_port, "envoy": settings.gateway_admin_port}.items():
        upstream(name, port=port, body=b"<html>a page</html>")
    told = found(Doctor(settings, in_memory))
    for what, field in {"Dagster": "dagster_version", "gateway": "state"}.items():
        assert (told[what].outcome, f"answered without {field}" in told[what].got) == (Outcome.FAIL, True)
    assert told["online store"].outcome is Outcome.PASS


def test_a_postgres_that_is_down_under_a_dagster_that_answers_is_a_finding(
    settings: Settings, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream("dagster", port=settings.dagster_port, body=json.dumps({"dagster_version": version("dagster")}).encode())
    monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", f"postgresql+psycopg2://me:{SECRET}@{NOBODY}/dagster")
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text(instance_config(settings))
    told = found(Doctor(settings, in_memory))
    assert [told[what].outcome for what in ("Dagster", "daemon", "online store")] == [Outcome.PASS, Outcome.FAIL, Outcome.PASS]
    assert "Connection refused" in told["daemon"].got


def test_an_error_that_nobody_thought_of_is_shown_as_it_is_and_stops_no_other_look(settings: Settings) -> None:
    def broken() -> Platform:
        raise RuntimeError("[/red] closed by http://me:very-secret@db/x")

    doctor, console = Doctor(settings, broken), Console(file=io.StringIO(), width=200)
    assert show(doctor, console) is False
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "RuntimeError: [/red] closed by http://db/x" in written
    assert SECRET not in written
    assert outcomes(doctor)["packages"] is Outcome.PASS
    assert outcomes(doctor)["online store"] is Outcome.PASS


def test_a_database_without_dagsters_tables_is_told_and_none_are_made(
    databases: tuple[str, str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text(instance_config(settings))
    for target in ("processes", "kubernetes"):
        monkeypatch.setenv("MLOPS_TARGET", target)
        told = found(Doctor(settings, in_memory))["daemon"]
        assert (told.outcome, "daemon_heartbeats" in told.got) == (Outcome.FAIL, True)
    assert tables(databases[0]) == set()


def test_the_daemons_heartbeats_are_read_from_files_that_are_there_and_none_are_made(settings: Settings) -> None:
    settings.dagster_home.mkdir()
    (settings.dagster_home / "dagster.yaml").write_text(instance_config(settings))
    assert list(Doctor(settings, in_memory).daemon()) == []
    assert not list(settings.dagster_home.rglob("*.db"))
    with dg.DagsterInstance.from_config(str(settings.dagster_home)):
        [told] = Doctor(settings, in_memory).daemon()
    assert (told.outcome, "SENSOR" in told.got) == (Outcome.FAIL, True)


class DryRuns(MemoryKubernetes):
    """A cluster that is asked for dry runs alone, and refuses one kind."""

    def __init__(self, refused: str = "") -> None:
        super().__init__(Offer({"policy/v1", "autoscaling/v2"}))
        self._refused = refused

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Mapping[str, Any]:
        assert dry_run
        if manifest["kind"] == self._refused:
            raise Unavailable(f"{manifest['kind']} is refused")
        made = super().apply(manifest)
        self.objects.clear()
        return made


def doctor_of(cluster: MemoryKubernetes, settings: Settings, platform: Platform | None = None) -> Doctor:
    deployments = KubernetesDeployments(Target("mlops", "serving:1", settings.s3_url), cluster)  # type: ignore[arg-type]
    made = replace(platform or in_memory(), deployments=deployments)
    return Doctor(settings, lambda: made, lambda _: cluster)  # type: ignore[arg-type, return-value]


@pytest.fixture
def pod(settings: Settings, upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an operator's pod, which does not reach Dagster's webserver and has no Postgres client."""
    mlflow = upstream("mlflow", body=version("mlflow").encode())
    told = {"MLOPS_TARGET": "kubernetes", "MLOPS_S3_URL": "http://mlops-s3:8333", "MLOPS_SERVING_IMAGE": "serving:1"}
    told |= {"MLOPS_DAGSTER_URL": f"http://{NOBODY}", "MLFLOW_TRACKING_URI": f"http://{mlflow.endpoint}", "PATH": ""}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    return settings


def test_in_a_pod_nothing_has_to_be_mended_of_a_cluster_that_is_well(pod: Settings) -> None:
    cluster, platform = DryRuns(), in_memory()
    platform.policies.write(Policy("fraud", 1), 0)
    platform.gateway.apply(Route("fraud", 1, (), None, {}))
    doctor = doctor_of(cluster, pod, platform)
    told = outcomes(doctor)
    assert {what for what, outcome in told.items() if outcome is Outcome.INCONCLUSIVE} == {"Dagster", "daemon"}
    assert {what for what, outcome in told.items() if outcome is Outcome.FAIL} == set()
    assert {"Kubernetes", "start a release", "gateway", "routes", "MLflow"} <= set(told)
    assert set(cluster.applied) == set(PLURALS)
    assert "NetworkPolicy" in found(doctor)["Dagster"].got
    assert show(doctor, Console(file=io.StringIO())) is True


def test_in_a_cluster_what_is_broken_is_mended_by_its_own_commands(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    away(monkeypatch)
    monkeypatch.setenv("MLOPS_TARGET", "kubernetes")
    told = found(Doctor(settings, lambda: local_platform(settings)))
    assert "mlops up" not in str(told)
    assert "Bearer ***" in told["gateway"].got
    assert "mlops status" not in str([finding.mend for finding in told.values()])
    for what in ("object store", "MLflow", "Dagster", "daemon", "gateway", "online store"):
        assert told[what].mend.startswith("see that it runs: 'kubectl -n mlops get pods"), told[what]
    assert "kubectl -n mlops describe role mlops-platform" in told["Kubernetes"].mend


def test_a_cluster_whose_object_store_nobody_named_is_told_so(pod: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_S3_URL")
    told = found(Doctor(pod, lambda: local_platform(pod)))["object store"]
    assert (told.outcome, "MLOPS_S3_URL is not set" in told.got) == (Outcome.FAIL, True)


def test_the_pods_that_a_mend_names_have_these_labels() -> None:
    deploy = Path(__file__).parents[1] / "deploy"
    files = [file for file in deploy.glob("*/**/*.yaml") if file.name != "kustomization.yaml"]
    pods = [one["spec"]["template"] for file in files for one in yaml.safe_load_all(file.read_text()) if "template" in one.get("spec", {})]
    labels = {f"{name}={value}" for one in pods for name, value in one.get("metadata", {}).get("labels", {}).items()}
    assert set(_PODS.values()) <= labels


@pytest.mark.parametrize("refused", ["Deployment", "NetworkPolicy"])
def test_rights_that_a_release_needs_and_we_do_not_have_are_told(pod: Settings, refused: str) -> None:
    told = found(doctor_of(DryRuns(refused), pod))
    assert told["Kubernetes"].outcome is Outcome.PASS
    assert (told["start a release"].outcome, told["start a release"].got) == (Outcome.FAIL, f"{refused} is refused")
    assert "kubectl -n mlops describe role mlops-platform" in told["start a release"].mend


def test_a_cluster_without_a_serving_image_starts_no_release(pod: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_SERVING_IMAGE")
    told = found(doctor_of(DryRuns(), pod))["start a release"]
    assert (told.outcome, "SERVING_IMAGE" in told.mend) == (Outcome.FAIL, True)


@pytest.mark.parametrize(("age", "outcome"), [(timedelta(0), Outcome.INCONCLUSIVE), (FOLLOWED_WITHIN, Outcome.FAIL)])
def test_a_gateway_that_is_behind_is_named_once_it_had_its_time(pod: Settings, age: timedelta, outcome: Outcome) -> None:
    platform = in_memory()
    change = Change(2, wall_clock() - age, "promote", "v1", Author("ada", "better"))
    platform.policies.write(Policy("churn", 1), 0)
    platform.policies.write(Policy("fraud", 2, log=(change,)), 0)
    platform.gateway.apply(Route("fraud", 1, (), None, {}))
    told = found(doctor_of(DryRuns(), pod, platform))
    assert (told["routes of fraud"].outcome, told["routes of fraud"].got.endswith("local follows 1")) == (outcome, True)
    assert (told["routes of churn"].outcome, told["routes of churn"].got) == (Outcome.FAIL, "generation 1, local follows none")
    assert "kubectl -n mlops logs -l app.kubernetes.io/name=mlops-gateway -c sidecar" in told["routes of churn"].mend


def test_a_gateway_of_a_cluster_that_does_not_answer_is_told(pod: Settings) -> None:
    platform = in_memory()
    platform.gateway.take_down()  # type: ignore[attr-defined]
    told = found(doctor_of(DryRuns(), pod, platform))["gateway"]
    assert (told.outcome, "app.kubernetes.io/name=mlops-gateway" in told.mend) == (Outcome.FAIL, True)


def test_an_operators_pod_reads_the_daemons_heartbeats_from_postgres(databases: tuple[str, str], pod: Settings, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "dagster.yaml").write_text(instance_config(pod))
    with dg.DagsterInstance.from_config(str(tmp_path / "theirs")) as instance:
        kinds = instance.get_required_daemon_types()
        silent = found(doctor_of(DryRuns(), pod))["daemon"]
        for kind in kinds:
            instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), kind, "one", []))
        heard = found(doctor_of(DryRuns(), pod))["daemon"]
    assert (silent.outcome, all(kind in silent.got for kind in kinds)) == (Outcome.FAIL, True)
    assert "kubectl -n mlops logs -l component=dagster-daemon" in silent.mend
    assert heard.outcome is Outcome.PASS
    assert not pod.dagster_home.exists()


def test_on_a_cluster_postgres_client_is_missed_by_backups_alone(databases: tuple[str, str], pod: Settings) -> None:
    told = {finding.what: finding for finding in doctor_of(DryRuns(), pod).databases()}["pg_dump"]
    assert (told.outcome, "mlops backup" in told.got) == (Outcome.INCONCLUSIVE, True)
