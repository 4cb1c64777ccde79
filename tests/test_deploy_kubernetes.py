"""The manifests that install the gateway and what it needs."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from mlops_assets.adapters.kubernetes_api import PLURALS
from mlops_assets.adapters.kubernetes_manifests import ASKS_RELEASES, GATEWAY_LABELS
from mlops_assets.settings import Settings

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
RESOURCES = [path for path in sorted(FOLDER.glob("*/*.yaml")) if path.name != "kustomization.yaml"]
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def documents(*paths: Path) -> Iterator[dict]:
    for path in paths or RESOURCES:
        # as JSON has it: YAML's anchors make one object of several
        yield from json.loads(json.dumps(list(yaml.safe_load_all(path.read_text()))))


def find(kind: str, name: str) -> dict:
    [found] = [one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(manifests: Iterable[dict] | None = None) -> Iterator[tuple[str, dict]]:
    for one in documents() if manifests is None else manifests:
        if "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.name)
def test_every_manifest_is_valid_to_the_letter(path, version):
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_every_container_is_confined_has_bounds_and_knows_secrets_by_name_only():
    require_confined(pods())


def require_valid(every: Iterable[dict]) -> None:
    for document in every:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def require_confined(pods: Iterable[tuple[str, dict]]) -> None:
    for name, pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            for entry in container.get("env", ()):
                assert not ("value" in entry and re.search("SECRET|TOKEN|PASSWORD|KEY", entry["name"])), entry["name"]


def test_only_the_operators_pod_has_a_token_of_the_api():
    with_token = {name for name, pod in pods() if pod["automountServiceAccountToken"]}
    assert with_token == {"mlops-operator"}


def test_the_platform_may_do_what_its_adapter_does_and_may_not_read_secrets():
    rules = find("Role", "mlops-platform")["rules"]
    allowed = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert {"get", "list", "create", "patch", "delete"} <= allowed["deployments"]
    for plural in set(PLURALS.values()) - {"deployments"}:
        assert {"get", "create", "patch"} <= allowed[plural], plural
    assert "list" in allowed["pods"]
    assert "get" in allowed["pods/log"]
    assert not {"secrets", "pods/exec", "*"} & allowed.keys()


def test_who_may_roll_back_may_enter_the_operators_pod_and_do_no_more():
    rules = find("Role", "mlops-operator")["rules"]
    assert all(rule["resourceNames"] == ["mlops-operator-0"] for rule in rules)
    assert {resource for rule in rules for resource in rule["resources"]} == {"pods", "pods/exec"}


def test_the_gateway_is_found_under_the_names_that_the_platform_knows():
    gateway = find("Deployment", "mlops-gateway")
    assert gateway["spec"]["template"]["metadata"]["labels"] == GATEWAY_LABELS
    assert gateway["spec"]["replicas"] >= 2
    sidecars = find("Service", "mlops-gateway-sidecars")
    assert sidecars["spec"]["clusterIP"] == "None"
    [port] = [entry["port"] for entry in sidecars["spec"]["ports"]]
    assert Settings(Path()).gateways == (f"mlops-gateway-sidecars.mlops.svc.cluster.local:{port}",)
    [inward] = [rule for rule in find("NetworkPolicy", "mlops-gateway")["spec"]["ingress"] if rule["ports"][0]["port"] == port]
    assert {"podSelector": {"matchLabels": ASKS_RELEASES}} in inward["from"]
    assert ASKS_RELEASES.items() <= find("StatefulSet", "mlops-operator")["spec"]["template"]["metadata"]["labels"].items()


def rendered(old: bool = False, **told: str) -> list[dict]:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on PATH, whose kustomize renders the manifests: install it to run this test")
    # many lines after the one that is looked for, each written by itself: whoever stops reading ends the writer
    served = "policy/v1beta1" if old else "policy/v1"
    versions = f"echo {served}; for number in $(seq 500); do echo group-$number.example/v1; done"
    script = f'kubectl() {{ if [ "$1" = api-versions ]; then {versions}; else command kubectl "$@"; fi; }}; '
    script += f"export -f kubectl; bash {FOLDER / 'install.sh'}"
    environment = {**os.environ, "DRY_RUN": "1", **told}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def test_one_command_renders_all_of_it_with_the_images_that_are_given():
    every = rendered(SERVING_IMAGE="registry.example:5000/serving:7", PLATFORM_IMAGE=f"r.example/platform@sha256:{'a' * 64}", EPHEMERAL="1")
    require_valid(every)
    containers = [one for document in every for one in document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ())]
    images = {container["name"]: container["image"] for container in containers}
    assert images["sidecar"] == images["buckets"] == "registry.example:5000/serving:7"
    assert images["operator"] == f"r.example/platform@sha256:{'a' * 64}"
    assert images["envoy"].startswith("docker.io/envoyproxy/envoy:v")
    [config] = [one["data"] for one in every if one["kind"] == "ConfigMap"]
    assert config["MLOPS_S3_URL"] == "http://mlops-s3.mlops.svc.cluster.local:8333"
    assert config["MLOPS_SERVING_IMAGE"] == images["sidecar"]
    [store] = [one for one in every if one["metadata"]["name"] == "mlops-s3" and one["kind"] == "StatefulSet"]
    assert "volumeClaimTemplates" not in store["spec"]


def test_what_a_team_has_is_not_installed_and_an_old_cluster_gets_what_it_knows():
    every = rendered(old=True, SERVING_IMAGE="s:1", S3_URL="https://s3.example", ONLINE_URL="redis://r.example:6379/0")
    assert {one["metadata"]["name"] for one in every if one["kind"] in ("Deployment", "StatefulSet")} == {"mlops-gateway"}
    assert [one["apiVersion"] for one in every if one["kind"] == "PodDisruptionBudget"] == ["policy/v1beta1"]
    [config] = [one["data"] for one in every if one["kind"] == "ConfigMap"]
    assert config["MLOPS_S3_URL"] == "https://s3.example"


def test_mlflow_is_installed_on_a_database_of_yours_or_found_where_you_have_one():
    with_it = rendered(SERVING_IMAGE="s:1", PLATFORM_IMAGE="p:1", MLOPS_MLFLOW_DATABASE_URL="postgresql+psycopg2://u:hidden@db/mlflow")
    require_valid(with_it)
    assert "hidden" not in json.dumps(with_it)
    [config] = [one["data"] for one in with_it if one["kind"] == "ConfigMap"]
    [service] = [one for one in with_it if one["kind"] == "Service" and one["metadata"]["name"] == "mlops-mlflow"]
    assert config["MLFLOW_TRACKING_URI"] == f"http://mlops-mlflow.mlops.svc.cluster.local:{service['spec']['ports'][0]['port']}"
    require_migrated_first(with_it, "mlflow", {"mlops-mlflow"})
    yours = rendered(SERVING_IMAGE="s:1", PLATFORM_IMAGE="p:1", MLFLOW_URL="https://mlflow.example")
    assert not [one for one in yours if one["metadata"]["name"] == "mlops-mlflow"]
    [config] = [one["data"] for one in yours if one["kind"] == "ConfigMap"]
    assert config["MLFLOW_TRACKING_URI"] == "https://mlflow.example"


def test_a_kubectl_that_is_too_old_is_named_with_the_one_that_will_do(tmp_path):
    old = tmp_path / "kubectl"
    old.write_text("""#!/bin/sh\necho '{"clientVersion": {\n  "major": "1",\n  "minor": "20"\n}}'\n""")
    old.chmod(0o755)
    environment = {**os.environ, "SERVING_IMAGE": "s:1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(FOLDER / "install.sh")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "got kubectl 1.20, expected 1.21 or newer" in done.stderr


def test_installing_without_an_image_says_what_is_expected():
    environment = {name: value for name, value in os.environ.items() if name != "SERVING_IMAGE"}
    done = subprocess.run(["bash", str(FOLDER / "install.sh")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "SERVING_IMAGE: is not set, expected the serving image" in done.stderr


DAGSTER = {"mlops-assets", "dagster-webserver", "dagster-daemon"}


def test_dagster_is_installed_on_a_database_of_yours_unless_its_chart_does_that():
    told = {"SERVING_IMAGE": "s:1", "PLATFORM_IMAGE": "p:1", "MLOPS_DAGSTER_DATABASE_URL": "postgresql+psycopg2://u:hidden@db/dagster"}
    every = rendered(**told, SETTINGS="MLOPS_SENSOR_SECONDS=5 MLOPS_PACE=2")
    require_valid(every)
    assert "hidden" not in json.dumps(every)
    theirs = [one for one in every if one["kind"] == "Deployment" and one["metadata"]["name"] in DAGSTER]
    assert {one["metadata"]["name"] for one in theirs} == DAGSTER
    require_confined(pods(theirs))
    for _, pod in pods(theirs):
        assert pod["serviceAccountName"] == "dagster"
        for container in pod["containers"]:
            assert container["image"] == "p:1"
            assert {
                "name": "instance",
                "mountPath": "/var/lib/mlops/dagster/dagster.yaml",
                "subPath": "dagster.yaml",
                "readOnly": True,
            } in (container["volumeMounts"])
    config = {one["metadata"]["name"]: one["data"] for one in every if one["kind"] == "ConfigMap"}
    assert config["dagster-instance"].keys() == {"dagster.yaml"}
    assert config["mlops"].items() >= {"MLOPS_PLATFORM_IMAGE": "p:1", "MLOPS_SENSOR_SECONDS": "5", "MLOPS_PACE": "2"}.items()
    assert "dagster-webserver" in {one["metadata"]["name"] for one in every if one["kind"] == "NetworkPolicy"}
    require_migrated_first(every, "dagster", DAGSTER)
    by_chart = rendered(**told, DAGSTER="chart")
    assert not DAGSTER & {one["metadata"]["name"] for one in by_chart}


def require_migrated_first(every: Iterable[dict], whose: str, readers: set[str]) -> None:
    """A Job of its own does it, and what reads the database is what install.sh leaves for later."""
    [job] = [one for one in every if one["kind"] == "Job" and one["metadata"]["name"] == f"mlops-migrate-{whose}"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["mlops", "migrate", "--only", whose]
    assert container["image"] == "p:1"
    require_confined(pods([job]))
    # whoever loads Dagster's instance loads K8sRunLauncher, which does not start without a token
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is (whose == "dagster")
    later = [one for one in every if one["metadata"].get("labels", {}).get("mlops-assets/after") == "migration"]
    assert {(one["kind"], one["metadata"]["name"]) for one in later} == {("Deployment", name) for name in readers}
    assert not any(pod.get("initContainers") for _, pod in pods(later))


def test_a_cluster_with_another_domain_is_told_so_everywhere():
    every = rendered(
        SERVING_IMAGE="s:1", PLATFORM_IMAGE="p:1", CLUSTER_DOMAIN="cluster.example", MLOPS_MLFLOW_DATABASE_URL="postgresql://db/mlflow"
    )
    assert "cluster.local" not in json.dumps(every)
    assert "mlops-s3.mlops.svc.cluster.example:8333" in json.dumps(every)


def test_what_reads_a_setting_starts_anew_when_the_setting_is_another():
    told = {
        "PLATFORM_IMAGE": "p:1",
        "MLOPS_DAGSTER_DATABASE_URL": "postgresql+psycopg2://db/d",
        "MLOPS_MLFLOW_DATABASE_URL": "postgresql+psycopg2://db/m",
    }

    def started_with(serving_image: str) -> dict[str, str]:
        every = rendered(SERVING_IMAGE=serving_image, **told)
        reads = [one for one in every if one["kind"] in ("Deployment", "StatefulSet") and '"name": "mlops"' in json.dumps(one["spec"])]
        return {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"]["mlops-assets/started-with"] for one in reads}

    first, again, other = started_with("s:1"), started_with("s:1"), started_with("s:2")
    assert first.keys() >= {"mlops-gateway", "mlops-operator", "mlops-mlflow", *DAGSTER}
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_whoever_gets_no_answer_about_the_secrets_makes_no_others(tmp_path):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"""#!/bin/sh
echo "$*" >>{tmp_path}/asked
case "$*" in
*version*) echo '  "minor": "30"' ;;
*"get secret"*) echo "Unable to connect to the server: i/o timeout" >&2; exit 1 ;;
esac
""")
    kubectl.chmod(0o755)
    environment = {**os.environ, "SERVING_IMAGE": "s:1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(FOLDER / "install.sh")], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "i/o timeout" in done.stderr
    asked = (tmp_path / "asked").read_text()
    assert "get secret mlops-serving" in asked
    assert not re.search("--server-side|patch|--kustomize", asked)


def test_dagster_may_keep_releases_however_it_is_installed():
    binding = find("RoleBinding", "mlops-platform")
    assert {subject["name"] for subject in binding["subjects"]} == {"mlops-platform", "dagster"}
