"""The machine around the stack: who holds a port, and which processes a killed stack has left behind."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from mlops_assets.adapters.processes import can_listen
from mlops_assets.core.errors import MlopsError

MARKER = "MLOPS_STACK"
"""In the environment of everything the stack starts, with its home. Never set by people, unlike MLOPS_HOME."""


def require_free(ports: Iterable[int]) -> None:
    """Check that all ports of loopback are free.

    Raises:
        MlopsError: naming the ports that are not and, where it can be known, who holds them.
    """
    busy = [port for port in ports if not can_listen(port)]
    if not busy:
        return
    holders = ", ".join(f"{port} (held by {_holder(port)})" for port in busy)
    raise MlopsError(f"port {holders} is in use, expected it free: end that process, or choose other ports, e.g. MLOPS_BASE_PORT=14000")


def left_behind(home: Path) -> list[psutil.Process]:
    """The living processes of the stack in ``home``; never the caller or one that the caller runs under."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in spared and process.environ().get(MARKER) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Ended meanwhile, or somebody else's: not ours to end.
            continue
    return found


def end(processes: list[psutil.Process], patience: float = 10.0) -> None:
    """TERM, and KILL for those that are there after ``patience`` seconds."""
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=patience)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=5)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return "a process that cannot be seen"
    return "a process of another user"
