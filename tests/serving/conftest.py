"""A real object store, and releases that run as processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlops_assets import credentials
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_services import S3
from tests.servers import Answer, ask, eventually, free_base_port, free_port


@dataclass
class Served:
    """``python -m serving`` in a process of its own."""

    home: Path
    environment: dict[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *command: str, **environment: str) -> "Served":
        """Run it, or what else ``command`` says; ``{port}`` is where it is expected."""
        with (self.home / "release.log").open("ab") as log:
            command = [part.format(port=self.port) for part in command or (sys.executable, "-m", "serving", "--port", "{port}")]
            self.process = subprocess.Popen(command, env=self.environment | environment, stdout=log, stderr=log)
        eventually(lambda: self.process.poll() is not None or self._listens(), within=30)
        return self

    def wait_ready(self) -> "Served":
        eventually(lambda: self.get("/ready").status == 200, within=20)
        return self

    def get(self, path: str) -> Answer:
        return ask(self.port, path, method="GET")

    def predict(self, body: bytes, **headers: str) -> Answer:
        return ask(self.port, "/predict", {name.replace("_", "-"): value for name, value in headers.items()}, body=body)

    def stop(self) -> float:
        """SIGTERM; how many seconds the end took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(20)
        return time.monotonic() - began

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(5)

    def log(self) -> str:
        return (self.home / "release.log").read_text()

    def _listens(self) -> bool:
        try:
            return self.get("/health").status == 200
        except OSError:
            return False


@pytest.fixture(scope="session")
def running_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A SeaweedFS with the platform's buckets."""
    settings = Settings(tmp_path_factory.mktemp("s3"), free_base_port())
    stack = Stack(settings, services=(S3,))
    stack.up()
    yield settings
    stack.down()


@pytest.fixture
def object_store(running_store: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, S3ObjectStore]:
    """A SeaweedFS and where it is; its key is in the environment for no longer than a test, since other tests have a store of theirs."""
    for name, value in credentials.read(running_store.home).environment().items():
        monkeypatch.setenv(name, value)
    return running_store, S3ObjectStore(running_store.s3_url)


@pytest.fixture
def served(tmp_path: Path, object_store: tuple[Settings, S3ObjectStore]) -> Iterator[Callable[..., Served]]:
    """Processes that may be started; what still runs in the end is killed."""
    made: list[Served] = []

    def make(model: str, release: str, digest: str, **environment: str) -> Served:
        settings, _ = object_store
        told = {"MLOPS_MODEL": model, "MLOPS_RELEASE": release, "MLOPS_MODEL_DIGEST": digest, "MLOPS_HOME": str(tmp_path)}
        told |= {"MLOPS_S3_URL": settings.s3_url, "MLOPS_LOG_ROTATE_SECONDS": "0.3"}
        made.append(Served(tmp_path, {**os.environ, **told, **environment}))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.kill()
