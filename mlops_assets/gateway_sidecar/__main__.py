"""``python -m mlops_assets.gateway_sidecar``: beside an Envoy, until SIGTERM.

``prepare`` writes what Envoy needs to start and ends; ``drain`` has Envoy tell its callers to go elsewhere, and waits until they have.

The environment: ``MLOPS_S3_URL`` and AWS credentials that may read the policies; ``MLOPS_GATEWAY_HOME``, the folder that Envoy follows;
``MLOPS_NAMESPACE`` and ``MLOPS_CLUSTER_DOMAIN``, where releases run; ``MLOPS_GATEWAY_NAME``; ``MLOPS_GATEWAY_TOKEN``;
for ``prepare`` what :class:`~mlops_assets.adapters.envoy_access.Access` reads.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mlops_assets.adapters.envoy import EnvoyGateway, prepare
from mlops_assets.adapters.envoy_access import Access
from mlops_assets.adapters.envoy_admin import EnvoyAdmin
from mlops_assets.adapters.kubernetes_manifests import endpoint_in
from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.core.errors import SpecError
from mlops_assets.gateway_sidecar.follower import Follower
from mlops_assets.gateway_sidecar.server import Face, server

_DRAIN_SECONDS = 8.0


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.gateway_sidecar", description="Keep an Envoy as the policies say.")
    parser.add_argument("what", nargs="?", choices=["follow", "prepare", "drain"], default="follow")
    parser.add_argument("--host", default="0.0.0.0", help="the address that gateway and sidecar listen on")  # noqa: S104 : of a pod
    parser.add_argument("--port", type=int, default=9902, help="of this process")
    parser.add_argument("--gateway-port", type=int, default=8080, help="of the gateway, for prepare")
    parser.add_argument("--health-port", type=int, default=8081, help="where probes ask for the gateway's health, for prepare")
    parser.add_argument("--admin-port", type=int, default=9901, help="of Envoy's own interface, on loopback")
    parser.add_argument("--poll-seconds", type=float, default=0.5, help="how often the policies are looked at")
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    home, admin = Path(os.environ.get("MLOPS_GATEWAY_HOME", "/var/lib/gateway")), f"127.0.0.1:{told.admin_port}"
    if told.what == "prepare":
        _prepare(home, told)
    elif told.what == "drain":
        drain(admin, _DRAIN_SECONDS)
    else:
        follow(home, admin, told.host, told.port, told.poll_seconds)


def _prepare(home: Path, told: argparse.Namespace) -> None:
    try:
        access = Access.from_environment()
    except SpecError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(2)
    prepare(home, told.gateway_port, told.admin_port, told.host, access, told.health_port)


def follow(home: Path, admin: str, host: str, port: int, poll_seconds: float) -> None:
    """Follow the policies and answer the platform until SIGTERM."""
    name, ended = os.environ.get("MLOPS_GATEWAY_NAME", "gateway"), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    gateway = EnvoyGateway(home, {name: f"http://{admin}"})
    namespace, domain = os.environ.get("MLOPS_NAMESPACE", "mlops"), os.environ.get("MLOPS_CLUSTER_DOMAIN", "cluster.local")

    def endpoint(model: str, release: str) -> str:
        return endpoint_in(namespace, domain, model, release)

    objects = S3ObjectStore(os.environ.get("MLOPS_S3_URL") or None)
    follower = Follower(objects, gateway, endpoint, lambda: datetime.now(UTC))
    face = Face(name, follower, gateway, EnvoyAdmin(name, f"http://{admin}").metrics, os.environ.get("MLOPS_GATEWAY_TOKEN", ""))
    listening = server(face, host, port)
    threading.Thread(target=listening.serve_forever, args=(0.1,), daemon=True).start()
    follower.follow(ended, poll_seconds)
    listening.shutdown()


def drain(admin: str, seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Have Envoy close each connection with its next answer, for as long as the cluster needs to send nobody here any more."""
    try:
        ask(admin, "POST", "/healthcheck/fail", 2.0)
        ask(admin, "POST", "/drain_listeners?graceful&skip_exit", 2.0)
    except NoAnswer as error:
        print(f"Envoy at {admin} does not answer ({error}): it is gone already", file=sys.stderr)
    sleep(seconds)


if __name__ == "__main__":
    main()
