"""Real servers for tests: Envoy, supervisord, and a tiny release that answers as told."""

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlops_assets.adapters.envoy import EnvoyGateway, prepare
from mlops_assets.adapters.envoy_access import OPEN, Access
from mlops_assets.adapters.processes import can_listen
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def free_base_port(span: int = 40) -> int:
    """The first of ``span`` free ports for a stack of one's own.

    The ports 10,000 above, which SeaweedFS takes too, stay below those that the system gives to outgoing connections. Each worker of a
    test run has ports of its own: what is free in one moment another one may take in the next.
    """
    worker, workers = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    bases = range(10_000, 22_000, 100)[worker::workers]
    while True:
        base = random.choice(bases)
        if all(can_listen(base + above + offset) for offset in range(span) for above in (0, 10_000)):
            return base


def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until ``condition`` holds; fail after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not reached within {within} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def release(self) -> str | None:
        return self.headers.get("x-mlops-release")


def ask(port: int, path: str, headers: Mapping[str, str] | None = None, method: str = "POST", body: bytes = b"{}") -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(HOST, port, timeout=15)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class Upstream:
    """A release that answers ``status`` and ``body`` after ``delay`` seconds, is ready or not, and remembers what it was asked.

    It has no paths but those that begin with ``below``.
    """

    name: str
    status: int = 200
    delay: float = 0.0
    ready: bool = True
    port: int = 0
    body: bytes = b"{}"
    below: str = "/"
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    @property
    def endpoint(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> "Upstream":
        self._server = _Server((HOST, self.port), _handler(self))
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in self._server.connections:
                connection.close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: object) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*args)  # type: ignore[arg-type]

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was closed under a handler is how a release dies."""


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            ready = self.path.endswith("/ready")
            if not ready:
                upstream.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                time.sleep(upstream.delay)
            answer = (200 if upstream.ready else 503) if ready else upstream.status
            self.send_response(answer if self.path.startswith(upstream.below) else 404)
            self.send_header("content-length", str(len(upstream.body)))
            self.send_header("x-mlops-release", upstream.name)
            self.end_headers()
            self.wfile.write(upstream.body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """Start a tiny release by name; all are stopped in the end."""
    started: list[Upstream] = []

    def start(name: str, **how: object) -> Upstream:
        started.append(Upstream(name, **how).start())  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.stop()


class EnvoyServer:
    """A real Envoy that follows ``directory``."""

    def __init__(self, directory: Path, access: Access = OPEN) -> None:
        self.directory, self.access = directory, access
        self.port, self.admin_port, self.health_port = free_port(), free_port(), free_port()
        self.admin_url = f"http://{HOST}:{self.admin_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def gateway(self, **options: float) -> EnvoyGateway:
        return EnvoyGateway(self.directory, {"local": self.admin_url}, **options)

    def start(self) -> None:
        config = prepare(self.directory, self.port, self.admin_port, access=self.access, health_port=self.health_port)
        command = [str(Path(sys.executable).with_name("envoy")), "-c", str(config), "--disable-hot-restart", "--concurrency", "2"]
        with (self.directory / "envoy.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "-l", "warning"], stdout=log, stderr=log)
        eventually(lambda: not can_listen(self.admin_port) and ask(self.admin_port, "/ready", method="GET").status == 200)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def predict(self, model: str, unit: str | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | ({"x-unit": unit} if unit is not None else {})
        return ask(self.port, f"/models/{model}/predict", sent)


@pytest.fixture(scope="session")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyServer]:
    """One Envoy for the whole session: every test takes a model of its own."""
    server = EnvoyServer(tmp_path_factory.mktemp("envoy"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A running supervisord without services; the settings say where it lives."""
    # A unix socket's path must be short.
    home = tmp_path_factory.mktemp("sv")
    settings = Settings(home, free_base_port(60))
    stack = Stack(settings, services=())
    stack.up()
    yield settings
    stack.down()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
