"""Dagster past one machine, as far as it can be told without a cluster: what is configured, and what Dagster makes of it."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_k8s import K8sRunLauncher, k8s_job_executor
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job, get_user_defined_k8s_config
from kubernetes.client import ApiClient

from mlops_assets.adapters.databases import PostgresDatabase
from mlops_assets.adapters.kubernetes_manifests import ASKS_RELEASES
from mlops_assets.assets import keys
from mlops_assets.assets.release import build_release_assets
from mlops_assets.assets.training import build_training_assets
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.training_resources import Resources
from mlops_assets.definitions import load_specs
from mlops_assets.executors import executor
from mlops_assets.own_pods import asks_for_a_pod, own_pods
from mlops_assets.schedules import TRAINING_NOUNS
from tests.world import World

DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "dagster"
KUBERNETES = ("1.30", "1.37")


@pytest.fixture
def instance(tmp_path: Path, databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> dg.DagsterInstance:
    """That of ``deploy/dagster/dagster.yaml``, on a real Postgres."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("MLOPS_NAMESPACE", "mlops")
    monkeypatch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return next(spec for spec in load_specs() if spec.name == "flight-delay")


def with_resources(spec: ModelSpec, resources: Resources | None) -> ModelSpec:
    return replace(spec, training=replace(spec.training, resources=resources))


def trains(spec: ModelSpec) -> dg.AssetsDefinition:
    return next(asset for asset in build_training_assets(spec) if keys.key(spec, "model") in asset.keys)


def valid(manifest: Any, version: str) -> bool:
    kubernetes_validate.validate(manifest, version, strict=True)
    return True


def test_the_instance_is_postgres_and_pods_that_are_taken_up_again(instance: dg.DagsterInstance) -> None:
    assert instance.get_runs_count() == 0
    database = PostgresDatabase("dagster", os.environ["MLOPS_DAGSTER_DATABASE_URL"], ())
    assert database.ask("SELECT count(*) FROM runs") == [(0,)]
    launcher = instance.run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    assert (launcher.job_namespace, launcher.supports_resume_run) == ("mlops", True)
    assert (instance.run_monitoring_enabled, instance.run_monitoring_max_resume_run_attempts) == (True, 3)
    pools = instance.get_concurrency_config().pool_config
    assert (pools.default_pool_limit, pools.pool_granularity.value) == (1, "run")


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pod_of_a_run_passes_what_kubernetes_asks(instance: dg.DagsterInstance, version: str) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    context = K8sContainerContext.create_for_run(dg.DagsterRun("training"), launcher, include_run_tags=False)
    job = rendered(context, launcher)
    assert valid(job, version)
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    secrets = [source["secretRef"]["name"] for source in pod["containers"][0]["envFrom"] if "secretRef" in source]
    assert secrets == ["mlops-serving", "mlops-platform"]
    assert ASKS_RELEASES.items() <= job["spec"]["template"]["metadata"]["labels"].items()


def rendered(context: K8sContainerContext, launcher: K8sRunLauncher) -> dict[str, Any]:
    """The Job that Dagster would submit."""
    config = context.get_k8s_job_config("mlops-assets/dagster:1", launcher)
    made = construct_dagster_k8s_job(config, ["dagster", "api"], "dagster-step-1", user_defined_k8s_config=context.run_k8s_config)
    return {"apiVersion": "batch/v1", "kind": "Job", **ApiClient().sanitize_for_serialization(made)}


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_training_step_gets_what_its_defs_yaml_asks_for(instance: dg.DagsterInstance, spec: ModelSpec, version: str) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    asked = Resources(cpu="3500m", memory="6Gi", gpu=2)
    tags = {
        name: json.dumps(value) if isinstance(value, dict) else value for name, value in trains(with_resources(spec, asked)).op.tags.items()
    }
    of_run = K8sContainerContext.create_for_run(dg.DagsterRun("training"), launcher, include_run_tags=False)
    job = rendered(of_run.merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(tags))), launcher)
    assert valid(job, version)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "3500m", "memory": "6Gi"},
        "limits": {"memory": "6Gi", "nvidia.com/gpu": "2"},
    }
    assert container["securityContext"]["readOnlyRootFilesystem"] is True, "and what every pod of a run has"


def test_only_a_run_that_trains_asks_for_pods_of_its_steps(spec: ModelSpec) -> None:
    world = World([with_resources(spec, Resources())])
    job = world.job

    def selected(*nouns: str) -> dg.JobDefinition:
        return job.get_subset(asset_selection={keys.key(spec, noun) for noun in nouns})

    assert asks_for_a_pod(selected(*TRAINING_NOUNS))
    assert not asks_for_a_pod(selected("canary"))
    assert not asks_for_a_pod(selected("promotion", "production"))


def test_without_resources_nothing_has_a_tag_and_no_pod_is_asked_for(spec: ModelSpec) -> None:
    assert "dagster-k8s/config" not in trains(with_resources(spec, None)).op.tags


def test_what_is_declared_is_harmless_on_one_machine(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_EXECUTOR", raising=False)
    assert executor() is dg.in_process_executor
    monkeypatch.setenv("MLOPS_EXECUTOR", "kubernetes")
    assert executor() is own_pods
    assert own_pods.config_schema is k8s_job_executor.config_schema
    monkeypatch.setenv("MLOPS_EXECUTOR", "celery")
    with pytest.raises(MlopsError, match="MLOPS_EXECUTOR: got 'celery', expected 'kubernetes'"):
        executor()


def test_a_rollback_waits_in_no_pool_and_steps_of_a_canary_wait_for_each_other(spec: ModelSpec) -> None:
    pools = {
        asset.op.name: asset.op.pool
        for asset in build_release_assets(spec)
        if isinstance(asset, dg.AssetsDefinition) and asset.is_executable
    }
    slug = spec.slug
    assert (pools[f"{slug}__canary"], pools[f"{slug}__promotion"]) == (f"{slug}_release", f"{slug}_release")
    assert pools[f"{slug}__rollback"] is None
    assert trains(spec).op.pool == f"{slug}_training"


CHART: dict[str, Any] = {
    "global": {"postgresqlSecretName", "dagsterHome", "serviceAccountName"},
    "generatePostgresqlPasswordSecret": set(),
    "serviceAccount": {"create", "name"},
    "postgresql": {
        "enabled",
        "postgresqlHost",
        "postgresqlUsername",
        "postgresqlDatabase",
        "postgresqlScheme",
        "postgresqlParams",
        "service",
    },
    "rabbitmq": {"enabled"},
    "redis": {"enabled"},
    "flower": {"enabled"},
    "telemetry": {"enabled"},
    "migrate": {"enabled"},
    "ingress": {"enabled"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "deployments", "imagePullSecrets"},
    "dagsterWebserver": {"service", "workspace", "image", "resources", "podSecurityContext", "securityContext", "replicaCount"},
    "dagsterDaemon": {
        *("enabled", "image", "resources", "podSecurityContext", "securityContext"),
        *("runCoordinator", "runMonitoring", "runRetries", "sensors", "schedules"),
    },
    "concurrency": {"enabled", "runs", "pools"},
    "runLauncher": {"type", "config"},
    "computeLogManager": {"type", "config"},
    "retention": {"enabled", "schedule", "sensor", "autoMaterialize"},
}
"""The keys that the chart's own schema knows, of the sections that we use; it refuses others in most of them."""


def values() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "values.yaml").read_text())


def test_the_values_have_only_keys_that_the_chart_knows() -> None:
    for section, told in values().items():
        assert section in CHART
        assert set(told if isinstance(told, dict) else ()) <= CHART[section], section


def snake(value: Any) -> Any:
    """Keys as Dagster writes them, of keys as its chart does."""
    if isinstance(value, dict):
        return {re.sub(r"(?<=[a-z])([A-Z])", lambda found: f"_{found[1].lower()}", key): snake(item) for key, item in value.items()}
    return [snake(item) for item in value] if isinstance(value, list) else value


def test_chart_and_plain_file_say_the_same() -> None:
    chart, plain = values(), yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    launcher = chart["runLauncher"]["config"]["k8sRunLauncher"]
    assert snake(launcher["runK8sConfig"]) == plain["run_launcher"]["config"]["run_k8s_config"]
    ours = plain["run_launcher"]["config"]
    assert [one["name"] for one in launcher["envSecrets"]] == ours["env_secrets"]
    assert [one["name"] for one in launcher["envConfigMaps"]] == ours["env_config_maps"]
    assert launcher["envVars"] == ours["env_vars"]
    (code,) = chart["dagster-user-deployments"]["deployments"]
    assert [f"{name}={value}" for name, value in code["env"].items()] == ours["env_vars"]
    assert code["labels"] == ASKS_RELEASES
    assert chart["serviceAccount"]["name"] == chart["global"]["serviceAccountName"] == ours["service_account_name"]
    assert snake(chart["dagsterDaemon"]["runMonitoring"]) == plain["run_monitoring"]
    assert snake({name: chart["concurrency"][name] for name in ("runs", "pools")}) == plain["concurrency"]
    assert chart["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"


def test_chart_and_own_deployments_are_found_under_the_same_names() -> None:
    """By the code server's address, by what the proxy asks, and by the labels that the NetworkPolicy and the gateways know."""
    chart = values()
    made = list(yaml.safe_load_all((DEPLOY / "deployments.yaml").read_text()))
    services = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in made if one["kind"] == "Service"}
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    (server,) = [entry["grpc_server"] for entry in workspace]
    (of_chart,) = chart["dagsterWebserver"]["workspace"]["servers"]
    assert {name: server[name] for name in ("host", "port")} == {name: of_chart[name] for name in ("host", "port")}
    assert server["location_name"] == of_chart["name"]
    (code,) = chart["dagster-user-deployments"]["deployments"]
    assert services == {code["name"]: code["port"], "dagster-dagster-webserver": chart["dagsterWebserver"]["service"]["port"]}
    proxy = next(one for one in yaml.safe_load_all((DEPLOY / "access.yaml").read_text()) if one["kind"] == "Deployment")
    upstream = f"--upstream=http://dagster-dagster-webserver.$(NAMESPACE).svc:{services['dagster-dagster-webserver']}"
    assert upstream in proxy["spec"]["template"]["spec"]["containers"][0]["args"]
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in made if one["kind"] == "Deployment"}
    policies = {one["metadata"]["name"]: one["spec"] for one in yaml.safe_load_all((DEPLOY / "network.yaml").read_text())}
    assert labels["dagster-webserver"] == policies["dagster-webserver"]["podSelector"]["matchLabels"]
    assert policies["dagster-code"]["podSelector"]["matchLabels"].items() <= labels["mlops-assets"].items()
    [allowed] = policies["dagster-code"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"]
    assert {labels[name][allowed["key"]] for name in ("dagster-webserver", "dagster-daemon")} == set(allowed["values"])
    assert ASKS_RELEASES.items() <= labels["mlops-assets"].items()


def test_no_secret_stands_in_a_file() -> None:
    for file in DEPLOY.iterdir():
        assert not re.search(r"(?im)^[^#\n]*(password|secret_?key|client-secret)\s*:\s*['\"]?[A-Za-z0-9+/]{6,}", file.read_text()), file


@pytest.mark.parametrize("version", KUBERNETES)
def test_what_is_applied_beside_dagster_passes_what_kubernetes_asks(version: str) -> None:
    files = ("access.yaml", "network.yaml", "runs.yaml")
    manifests = [one for name in files for one in yaml.safe_load_all((DEPLOY / name).read_text())]
    assert all(valid(manifest, version) for manifest in manifests)
    policy = next(manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy")
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "oauth2-proxy"}}}]}]
