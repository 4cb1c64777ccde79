"""Who may ask the gateway of a real cluster, as an operator says it."""

import http.client
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authority import Authority, context
from tests.cluster import Cluster, installed, kubectl, service_address

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FOLDER = "/etc/mlops-gateway/tls"
TOKEN = "of-this-test-and-no-secret"


def install(**more: str) -> None:
    """As ``make install-kubernetes`` does it again."""
    installed({**{name: value for name, value in os.environ.items() if name != "PLATFORM_IMAGE"}, **more})


@pytest.fixture
def authority(cluster: Cluster, tmp_path: Path) -> Iterator[Authority]:
    """Its certificate and the gateway's are in the secret; in the end everybody may ask again."""
    found = Authority()
    found.issue(tmp_path, "tls", service_address("mlops-gateway"))
    found.issue(tmp_path, "caller")
    (tmp_path / "ca.crt").write_bytes(found.pem)
    files = [f"--from-file={tmp_path / name}" for name in ("tls.crt", "tls.key", "ca.crt")]
    kubectl("create", "secret", "generic", "mlops-gateway-tls", *files)
    try:
        yield found
    finally:
        install(MLOPS_CLIENT_TOKENS="", MLOPS_GATEWAY_TLS="", MLOPS_GATEWAY_CLIENT_CA="")
        kubectl("delete", "secret", "mlops-gateway-tls")


def status(told: ssl.SSLContext, **headers: str) -> int:
    connection = http.client.HTTPSConnection(service_address("mlops-gateway"), 443, timeout=10, context=told)
    try:
        connection.request("GET", "/v2/models/nobody", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_callers_bring_a_certificate_and_a_token(cluster: Cluster, authority: Authority, tmp_path: Path) -> None:
    install(MLOPS_CLIENT_TOKENS=TOKEN, MLOPS_GATEWAY_TLS=FOLDER, MLOPS_GATEWAY_CLIENT_CA=f"{FOLDER}/ca.crt")
    caller = context(authority, tmp_path)

    def is_guarded() -> None:
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            status(context(authority))
        assert status(caller) == 401
        assert status(caller, authorization=f"Bearer {TOKEN}") == 404  # which says that there is no such model

    is_guarded()
    assert set(cluster.gateway.applied("nobody").values()) == {-1}  # the platform asks as before
    install()  # an update that does not speak of it
    is_guarded()


def test_a_setting_that_cannot_be_keeps_the_gateways_that_run(cluster: Cluster, authority: Authority) -> None:
    before = set(cluster.gateway_pods())
    with pytest.raises(subprocess.CalledProcessError):
        install(MLOPS_GATEWAY_TLS="/nowhere", TIMEOUT="60s")
    told = kubectl("logs", "-l", "app.kubernetes.io/name=mlops-gateway", "-c", "prepare", "--tail=3", check=False)
    assert "MLOPS_GATEWAY_TLS: got /nowhere without tls.crt and tls.key" in told
    assert before <= set(cluster.gateway_pods())
    connection = http.client.HTTPConnection(service_address("mlops-gateway"), 80, timeout=10)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200
