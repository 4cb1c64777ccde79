"""How each server of bench/serving.py is installed and started, and what it is asked: the same row of the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

APPS = Path(__file__).parent / "serving_apps"
ENVIRONMENTS = Path(__file__).parent / ".envs"
BIN = Path(sys.executable).parent
WITH = ("fdatasync",)
"""What ours can do on top: answer when the log is on the disk."""

PARTS = (*WITH, "log", "metrics", "joining", "types")
"""What is taken out of ours, or added, one at a time."""


@dataclass(frozen=True)
class Server:
    """A server to be measured.

    Args:
        command: what starts it, with ``{port}`` where the port goes.
        path: where it is asked.
        body: what it is asked.
        ready: a path that answers 200 when it is ready.
        environment: beside the bench's own.
        folder: where it is started.
    """

    name: str
    command: Sequence[str]
    path: str
    body: Mapping[str, object]
    ready: str
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = APPS


def bare(model: Path, row: Sequence[float]) -> Server:
    return Server("bare ASGI", [sys.executable, str(APPS / "bare.py"), str(model), "{port}"], "/predict", _ours_asks(row), "/ready")


def ours(part: str, environment: Mapping[str, str], row: Sequence[float]) -> Server:
    """Ours without a part, or with one on top, or whole if that is ``nothing``."""
    name = "ours" if part == "nothing" else f"ours {'with' if part in WITH else 'without'} {part}"
    command = [sys.executable, str(APPS / "ours.py"), part, "--port", "{port}"]
    return Server(name, command, "/predict", _ours_asks(row), "/ready", {**environment, "PYTHONPATH": str(APPS.parents[1])})


def bento(model: Path, row: Sequence[float], work: Path) -> Server:
    told = {"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(work / "bentoml")}
    command = [str(BIN / "bentoml"), "serve", "bento_api:Peer", "-p", "{port}", "--host", "127.0.0.1"]
    return Server("BentoML @api", command, "/predict", {"rows": [row]}, "/readyz", told)


def mlflow(model: Path, row: Sequence[float], work: Path) -> Server:
    folder = work / "mlflow"
    subprocess.run([sys.executable, str(APPS / "mlflow_model.py"), str(model), str(folder)], check=True, capture_output=True)
    command = [
        str(BIN / "mlflow"),
        "models",
        "serve",
        "-m",
        str(folder),
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        "{port}",
        "-w",
        "1",
    ]
    told = {"UVICORN_ACCESS_LOG": "false", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return Server("mlflow models serve", command, "/invocations", {"inputs": [row]}, "/ping", told)


def mlserver(model: Path, row: Sequence[float], work: Path) -> Server:
    python = mlserver_python()
    folder = work / "mlserver"
    folder.mkdir()
    (folder / "mlserver_model.py").write_text((APPS / "mlserver_model.py").read_text())
    (folder / "model-settings.json").write_text(json.dumps({"name": "bench", "implementation": "mlserver_model.Peer"}))
    tensor = {"name": "features", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    told = {"MODEL": str(model), "MLSERVER_HTTP_PORT": "{port}", "MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false"}
    told |= {"MLSERVER_GRPC_PORT": "0", "MLSERVER_METRICS_PORT": "0", "MLSERVER_HOST": "127.0.0.1"}
    command = [str(python.with_name("mlserver")), "start", "."]
    return Server("MLServer", command, "/v2/models/bench/infer", {"inputs": [tensor]}, "/v2/models/bench/ready", told, folder)


def kserve(model: Path, row: Sequence[float], _work: Path) -> Server:
    python = kserve_python()
    command = [str(python), "kserve_model.py", "--http_port", "{port}", "--enable_grpc", "false", "--enable_latency_logging", "false"]
    return Server("KServe", command, "/v1/models/bench:predict", {"instances": [row]}, "/v1/models/bench", {"MODEL": str(model)})


PEERS: Mapping[str, Callable[[Path, Sequence[float], Path], Server]] = {
    "bentoml": bento,
    "mlflow": mlflow,
    "mlserver": mlserver,
    "kserve": kserve,
}


def mlserver_python() -> Path:
    """The interpreter of MLServer's environment."""
    return _installed("mlserver", "mlserver==1.7.1", "onnxruntime")


def kserve_python() -> Path:
    """The interpreter of KServe's environment."""
    return _installed("kserve", "kserve==0.21.0", "onnxruntime")


def _ours_asks(row: Sequence[float]) -> Mapping[str, object]:
    return {"inputs": {f"f{place:02}": value for place, value in enumerate(row)}}


def _installed(name: str, *packages: str) -> Path:
    """The interpreter of an environment with these packages, made if it is not there yet."""
    python = ENVIRONMENTS / name / "bin" / "python"
    done = ENVIRONMENTS / name / ".installed"
    if not done.exists():
        uv = str(BIN / "uv")
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(ENVIRONMENTS / name)], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *packages], check=True)
        done.touch()
    return python
