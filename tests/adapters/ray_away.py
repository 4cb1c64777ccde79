"""Prints what a process is told by a Ray that is killed under it, and started again: a word for each time that it asks.

``test_ray_serve`` runs this as a process of its own, which Ray might end when it is lost.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mlops_assets.adapters.ray_serve import RayServeDeployments
from mlops_assets.core.errors import Unavailable
from tests.servers import HOST, can_listen, eventually, free_port

PORT, AGENT, CLIENT = free_port(), free_port(), free_port()


def start(folder: str) -> subprocess.Popen[bytes]:
    """A head of a cluster, which listens when this returns."""
    ports = ["--port", PORT, "--dashboard-agent-listen-port", AGENT, "--ray-client-server-port", CLIENT]
    small = ["--num-cpus", 1, "--object-store-memory", 100_000_000, "--include-dashboard", "false", "--temp-dir", folder]
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--node-ip-address", HOST, *ports, *small]
    process = subprocess.Popen([str(part) for part in command], stdout=sys.stderr, stderr=sys.stderr)
    eventually(lambda: not can_listen(PORT), within=90)
    time.sleep(3)  # the port listens before the node is known
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(10)
    psutil.wait_procs(family, 10)


def ask(deployments: RayServeDeployments) -> None:
    began = time.monotonic()
    try:
        said = "empty" if deployments.running("any") == [] else "something"
    except Unavailable as error:
        said = "unavailable"
        print(error, file=sys.stderr)
    assert time.monotonic() - began < 60
    print(said, flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        head = start(folder)
        try:
            deployments = RayServeDeployments(f"{HOST}:{PORT}", f"{HOST}:{free_port()}", {})
            ask(deployments)
            kill(head)
            ask(deployments)
            ask(deployments)
            head = start(folder)
            ask(deployments)
        finally:
            kill(head)


if __name__ == "__main__":
    main()
