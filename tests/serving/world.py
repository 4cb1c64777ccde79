"""A replica behind a real HTTP server, in this process: what ``python -m serving`` runs, without BentoML."""

import threading
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from prometheus_client import CollectorRegistry

from serving.app import App
from serving.configuration import Configuration
from serving.connection import Connection
from serving.metrics import Metrics
from serving.prediction_log import Limits
from serving.replica import Replica
from tests.servers import HOST, eventually, free_port
from tests.serving.models import ModelFile, tiny_model
from tests.serving.stores import CuttableObjectStore


class _Impatient(Connection):
    head_seconds = 0.5


class Server:
    """An application that is served from a thread."""

    def __init__(self, application: object) -> None:
        self.port = free_port()
        quiet: dict[str, object] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
        config = uvicorn.Config(application, HOST, self.port, loop="uvloop", http=_Impatient, **quiet)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started)
        self.client = httpx.Client(base_url=f"http://{HOST}:{self.port}", timeout=20)

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(5)


class World:
    """A replica, its object store and a client of it."""

    def __init__(self, home: Path, replay: bool = False, body_seconds: float = 10.0, timeout: float = 5.0, **told: Any) -> None:
        self.objects, self.registry = CuttableObjectStore(), CollectorRegistry()
        self.model, self.home, self.replay, self.body_seconds, self.timeout = tiny_model(), home, replay, body_seconds, timeout
        self.replica: Replica | None = None
        self.told = told
        self._servers: list[Server] = []

    def serve(self, stored: ModelFile | None = None, digest: str | None = None, name: str = "tiny") -> httpx.Client:
        if stored is not None:
            self.objects.kept.put(f"models/{name}/v1/model.onnx", stored.data)
        told = Configuration(
            *(name, "v1", digest or self.model.digest, self.home, ""),
            **{"timeout": self.timeout, "replay": self.replay, "limits": Limits(0.1)} | self.told,
        )
        self.replica = Replica(told, self.objects, Metrics(name, "v1", self.registry))
        self.replica.start()
        self._servers.append(Server(App(self.replica, self.body_seconds)))
        return self._servers[-1].client

    def ready(self, model: ModelFile | None = None) -> httpx.Client:
        client = self.serve(model or self.model, (model or self.model).digest)
        eventually(lambda: client.get("/ready").status_code == 200)
        return client

    @property
    def client(self) -> httpx.Client:
        return self._servers[-1].client

    @property
    def port(self) -> int:
        return self._servers[-1].port

    def counted(self, outcome: str, role: str = "live") -> float:
        labels = {"model": "tiny", "release": "v1", "role": role, "outcome": outcome}
        return self.registry.get_sample_value("mlops_predictions_total", labels) or 0.0

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.objects.down = False
        if self.replica is not None:
            self.replica.stop()
