"""Container images for tests, where an engine and a base image are at hand."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.docker.build import BASE, RECIPES, Build, find_engine
from mlops_assets.core.errors import NotFound
from tests.servers import Answer, ask, eventually, free_port

BASES = (os.environ.get("MLOPS_TEST_BASE_IMAGE", ""), BASE, "localhost/python:3.11")
TAG = "under-test"


def engine_run(engine: str, *command: str) -> str:
    done = subprocess.run([engine, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{engine} {' '.join(command)}\n{done.stderr}"
    return done.stdout


@dataclass
class Container:
    """A container that runs as production would run it: root file system read-only, no privileges."""

    engine: str
    image: str
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    name: str = field(default_factory=lambda: f"mlops-test-{uuid4().hex[:12]}")

    def start(self) -> "Container":
        told = [part for name, value in self.environment.items() for part in ("--env", f"{name}={value}")]
        hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"]
        command = ["python", "-m", "serving", "--port", str(self.port)]
        engine_run(self.engine, "run", "--detach", "--name", self.name, *hardened, *told, self.image, *command)
        return self

    def wait_ready(self) -> "Container":
        eventually(self._is_ready, within=60)
        return self

    def _is_ready(self) -> bool:
        try:
            return self.ask("/ready", method="GET").status == 200
        except OSError:
            return False

    def ask(self, path: str, method: str = "POST", body: bytes = b"") -> Answer:
        return ask(self.port, path, method=method, body=body)

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended."""
        engine_run(self.engine, "stop", "--time", "20", self.name)

    def log(self) -> str:
        return subprocess.run([self.engine, "logs", self.name], capture_output=True, text=True, check=False).stderr

    def remove(self) -> None:
        subprocess.run([self.engine, "rm", "--force", "--volumes", self.name], capture_output=True, check=False)


@dataclass(frozen=True)
class Images:
    """Images that are built once a session."""

    build: Build
    made: dict[str, str] = field(default_factory=dict)

    @property
    def engine(self) -> str:
        return self.build.engine

    def get(self, name: str) -> str:
        if name not in self.made:
            self.made[name] = self.build.image(RECIPES[name])
        return self.made[name]

    def run(self, image: str, *command: str) -> str:
        """What a command of an image prints."""
        return engine_run(self.engine, "run", "--rm", "--read-only", "--network", "none", image, *command)

    def python(self, image: str, code: str) -> object:
        """What Python in an image prints, as JSON."""
        return json.loads(self.run(image, "python", "-c", code).splitlines()[-1])

    def config(self, image: str) -> Mapping[str, object]:
        return json.loads(engine_run(self.engine, "image", "inspect", image))[0]["Config"]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    try:
        engine = find_engine(known=("docker", "podman"))
    except NotFound:
        pytest.skip("needs a docker or podman that works, to build images and run them")
    base = next((name for name in BASES if name and _has(engine, name)), None)
    if base is None:
        pytest.skip(f"needs a base image at hand: {engine} pull {BASE}, or name one in MLOPS_TEST_BASE_IMAGE")
    tried = subprocess.run([engine, "run", "--rm", "--network", "host", base, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"{engine} cannot run a container here: {tried.stderr.strip()[-200:]}")
    out = Path(__file__).resolve().parents[1] / "build" / "images"
    return Images(Build(engine, base, TAG, "https://example.org/mlops-assets", out))


@pytest.fixture
def container(images: Images) -> Iterator[Callable[..., Container]]:
    """Containers that may be started; all are removed in the end."""
    made: list[Container] = []

    def make(image: str, **environment: str) -> Container:
        made.append(Container(images.engine, image, environment))
        return made[-1]

    yield make
    for each in made:
        each.remove()


def _has(engine: str, image: str) -> bool:
    return subprocess.run([engine, "image", "inspect", image], capture_output=True, check=False).returncode == 0
