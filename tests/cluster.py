"""A real cluster for tests: the one that KUBECONFIG names, with gateway, object store and online store installed as anybody would."""

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.adapters.gateway_sidecars import SidecarGateway
from mlops_assets.adapters.kubernetes import KubernetesDeployments
from mlops_assets.adapters.kubernetes_api import KubernetesApi
from mlops_assets.adapters.kubernetes_manifests import GATEWAY_LABELS, Target
from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore
from mlops_assets.credentials import Credentials
from tests.servers import eventually

NAMESPACE = "mlops"
INSTALL = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes" / "install.sh"
IMAGES = ("SERVING_IMAGE", "ENVOY_IMAGE", "SEAWEEDFS_IMAGE", "REDIS_IMAGE")


def kubectl(*arguments: str, check: bool = True) -> str:
    """What kubectl answers about our namespace."""
    done = subprocess.run(["kubectl", "-n", NAMESPACE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Cluster:
    """What was installed, as this machine reaches it. ``seconds`` is how long it took until the gateways were ready."""

    s3_url: str
    credentials: Credentials
    token: str
    seconds: float

    @property
    def api(self) -> KubernetesApi:
        return KubernetesApi(NAMESPACE)

    @property
    def target(self) -> Target:
        told = {"AWS_DEFAULT_REGION": "us-east-1", "MLOPS_LOG_ROTATE_SECONDS": "2"}
        return Target(NAMESPACE, os.environ["SERVING_IMAGE"], self.s3_url, environment=told)

    @property
    def deployments(self) -> KubernetesDeployments:
        return KubernetesDeployments(self.target, self.api)

    @property
    def objects(self) -> S3ObjectStore:
        return S3ObjectStore(self.s3_url, self.credentials)

    @property
    def policies(self) -> S3PolicyStore:
        return S3PolicyStore(self.s3_url, self.credentials)

    def gateway_pods(self) -> Mapping[str, str]:
        """The address of each gateway that is ready, by its name: this machine does not ask the cluster's DNS."""
        pods = self.api.pods(GATEWAY_LABELS)
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods if is_ready(pod)}

    @property
    def sidecars(self) -> list[str]:
        return [f"{address}:9902" for address in self.gateway_pods().values()]

    @property
    def gateway(self) -> SidecarGateway:
        return SidecarGateway(self.sidecars, self.token)

    @property
    def gateway_address(self) -> str:
        """The one address of all gateways, ``host:port``."""
        return f"{service_address('mlops-gateway')}:80"


def is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return "deletionTimestamp" not in pod["metadata"] and {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()


def service_address(name: str) -> str:
    return kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")


def secret(name: str) -> dict[str, str]:
    data = json.loads(kubectl("get", "secret", name, "-o", "json"))["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def require_cluster(*more: str) -> None:
    """Skip the test, with a clear word, where there is no cluster for it, or it is not told of the images ``more``.

    A cluster that is given and must not be used fails it.
    """
    if "KUBECONFIG" not in os.environ or shutil.which("kubectl") is None:
        pytest.skip("there is no cluster: set KUBECONFIG, and have kubectl on PATH")
    missing = [name for name in (*IMAGES, *more) if name not in os.environ]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} is not set: name images that the cluster has or can pull ('make images' builds serving and platform)"
        )
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        pytest.fail(f"the cluster has a namespace {NAMESPACE} already, and this test would delete it: use another cluster")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster with all of ``deploy/kubernetes`` that serves: neither operator's pod nor MLflow nor Dagster; deleted in the end."""
    require_cluster()
    try:
        yield installed({name: value for name, value in os.environ.items() if name != "PLATFORM_IMAGE"})
    finally:
        delete_all()


def installed(environment: Mapping[str, str]) -> Cluster:
    """Install what the environment asks for, and wait until it answers."""
    began = time.monotonic()
    subprocess.run(["bash", str(INSTALL)], env={**environment, "EPHEMERAL": "1"}, check=True)
    kubectl("wait", "--for=condition=complete", "job/mlops-buckets", "--timeout=180s")
    serving, platform = secret("mlops-serving"), secret("mlops-platform")
    found = Cluster(
        f"http://{service_address('mlops-s3')}:8333",
        Credentials(serving["AWS_ACCESS_KEY_ID"], serving["AWS_SECRET_ACCESS_KEY"]),
        platform["MLOPS_GATEWAY_TOKEN"],
        time.monotonic() - began,
    )
    _require_routed(found)
    eventually(lambda: len(found.gateway_pods()) == 2, 60)
    return found


def delete_all() -> None:
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s", check=False)


def _require_routed(found: Cluster) -> None:
    host, _, port = found.s3_url.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        pytest.skip(f"Service addresses of the cluster are not routed to this machine ({host}: {error}): run the tests on a node of it")
