"""Who may ask the gateway of a real cluster, as an operator says it."""

import http.client
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authority import Authority, context
from tests.cluster import Cluster, installed, kubectl, service_address
from tests.servers import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FOLDER = "/etc/mlops-gateway/tls"
TOKEN = "of-this-test-and-no-secret"


def install(**more: str) -> None:
    """As ``make install-kubernetes`` does it again, and new gateways by what it says."""
    installed({**{name: value for name, value in os.environ.items() if name != "PLATFORM_IMAGE"}, **more})
    kubectl("rollout", "restart", "deployment/mlops-gateway")


def rolled_out() -> None:
    kubectl("rollout", "status", "deployment/mlops-gateway", "--timeout=180s")


@pytest.fixture
def authority(cluster: Cluster, tmp_path: Path) -> Iterator[Authority]:
    """Its certificate and the gateway's are in the secret; in the end everybody may ask again."""
    found = Authority()
    found.issue(tmp_path, "tls", service_address("mlops-gateway"))
    found.issue(tmp_path, "caller")
    (tmp_path / "ca.crt").write_bytes(found.pem)
    kubectl(
        "create", "secret", "generic", "mlops-gateway-tls", *(f"--from-file={tmp_path / name}" for name in ("tls.crt", "tls.key", "ca.crt"))
    )
    try:
        yield found
    finally:
        kubectl("delete", "secret", "mlops-gateway-tls")
        kubectl(
            "patch",
            "secret",
            "mlops-gateway",
            "--type=json",
            '--patch=[{"op": "remove", "path": "/data/MLOPS_CLIENT_TOKENS"}]',
            check=False,
        )
        install()
        rolled_out()


def status(told: ssl.SSLContext, **headers: str) -> int:
    connection = http.client.HTTPSConnection(service_address("mlops-gateway"), 443, timeout=10, context=told)
    try:
        connection.request("GET", "/v2/models/nobody", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_callers_bring_a_certificate_and_a_token(cluster: Cluster, authority: Authority, tmp_path: Path) -> None:
    install(MLOPS_CLIENT_TOKENS=TOKEN, SETTINGS=f"MLOPS_GATEWAY_TLS={FOLDER} MLOPS_GATEWAY_CLIENT_CA={FOLDER}/ca.crt")
    rolled_out()
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        status(context(authority))
    caller = context(authority, tmp_path)
    assert status(caller) == 401
    assert status(caller, authorization=f"Bearer {TOKEN}") == 404  # which says that there is no such model
    eventually(lambda: len(cluster.gateway_pods()) == 2, 60)
    assert set(cluster.gateway.applied("nobody").values()) == {-1}  # the platform asks as before


def test_a_setting_that_cannot_be_keeps_the_gateways_that_run(cluster: Cluster, authority: Authority) -> None:
    before = set(cluster.gateway_pods())
    install(SETTINGS="MLOPS_GATEWAY_TLS=/nowhere")

    def told() -> str:
        return kubectl("logs", "-l", "app.kubernetes.io/name=mlops-gateway", "-c", "prepare", "--tail=3", check=False)

    eventually(lambda: "MLOPS_GATEWAY_TLS: got /nowhere without tls.crt and tls.key" in told(), 90)
    assert before <= set(cluster.gateway_pods())
    connection = http.client.HTTPConnection(service_address("mlops-gateway"), 80, timeout=10)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
