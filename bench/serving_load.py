"""Starts a server on one core, loads it with ``wrk`` from another, and reads what that cost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

HOST = "127.0.0.1"
SERVER_CORE, CLIENT_CORE = 0, 1
START_SECONDS = 90

_SCRIPT = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout + summary.errors.status
  io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "failed": %%d, "p50": %%f, "p99": %%f}\\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Point:
    """What one load showed. Latencies are in milliseconds; CPU is the server's, in microseconds a request."""

    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int


class Running:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = psutil.Process(process.pid), port

    def memory_mb(self) -> float:
        """Of all its processes; what they share is counted once."""
        return sum(each.memory_full_info().pss for each in self._all()) / 1e6

    def cpu_seconds(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in self._all())

    def load(self, script: Path, path: str, connections: int, seconds: int) -> Point:
        cpu = self.cpu_seconds()
        found = wrk(self.port, script, path, connections, seconds)
        spent = self.cpu_seconds() - cpu
        done = max(1, found["requests"])
        return Point(connections, done / found["seconds"], found["p50"], found["p99"], 1e6 * spent / done, int(found["failed"]))

    def _all(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def wrk(port: int, script: Path, path: str, connections: int, seconds: int) -> dict[str, float]:
    """What ``wrk`` saw; a request that is not answered with 2xx or 3xx is a failed one."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: run deploy/bench_tools.sh, or install the Debian package wrk")
    command = ["taskset", "-c", str(CLIENT_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script)]
    told = subprocess.run([*command, f"http://{HOST}:{port}{path}"], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(told.stdout.strip().splitlines()[-1])
    return found


def write_script(folder: Path, body: Mapping[str, object], name: str) -> Path:
    script = folder / f"{name.replace(' ', '-').replace('@', '')}.lua"
    script.write_text(_SCRIPT % json.dumps(body))
    return script


@contextmanager
def running(
    command: Sequence[str],
    ready: str,
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    core: int = SERVER_CORE,
    port: int | None = None,
) -> Iterator[Running]:
    """The server on its core, from when it is ready until the end."""
    port = port or free_port()
    told = {name: value.format(port=port) for name, value in environment.items()}
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *(part.replace("{port}", str(port)) for part in command)],
            cwd=folder,
            env={**os.environ, **told},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port, ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not get ready; its log ends: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
        yield Running(process, port)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=10)
        for each in left:
            each.kill()
    process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def free_base_port(span: int = 40) -> int:
    """The first of ``span`` free ports, below those that connections take."""
    for base in range(20_000, 30_000, 100):
        if all(_is_free(base + offset) for offset in range(span)):
            return base
    raise SystemExit(f"no {span} ports in a row are free from 20000 to 30000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
