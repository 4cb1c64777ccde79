"""``python -m serving``: one release in one process, or in as many as ``MLOPS_WORKERS`` says.

``bentoml serve`` puts an arbiter before its worker, and both import all of BentoML. This runs the same application without either.
"""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.abc import MetaPathFinder
from typing import Any

from mlops_assets.core.errors import SpecError
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT
from mlops_assets.settings import HOST
from serving.configuration import Configuration

GRACE_SECONDS = int(GATEWAY_TIMEOUT.total_seconds())
"""How long requests under way may take after SIGTERM, before the log is shipped: nobody behind a gateway waits longer."""

PORT = 8080
Address = tuple[str, int]
Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class WithoutPandas(MetaPathFinder):
    """Where it is installed, pyarrow loads pandas to ask of each list whether it is one of its: half a second and 40 MB at the first
    shipment of the log. In the serving image it is not.
    """

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("a release does without pandas", name=name)


def main() -> None:
    """Serve until SIGTERM; exit with 2 if the environment is wrong."""
    parser = argparse.ArgumentParser(prog="python -m serving", description="Serve one release, which the environment names.")
    parser.add_argument("--host", default=HOST, help=f"the address to listen on; by default {HOST}, in a container 0.0.0.0")
    parser.add_argument("--port", type=int, default=PORT, help=f"the port to listen on; by default {PORT}")
    arguments = parser.parse_args()
    address = arguments.host, arguments.port
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # uvicorn raises the signal again when it is done: that must not look like a failure
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # a request waits for this long when the log's threads are at work, and by default for ten times as long
    sys.setswitchinterval(0.0005)
    sys.meta_path.insert(0, WithoutPandas())
    try:
        told = Configuration.from_environment()
    except SpecError as error:
        print(f"serving: {error}", file=sys.stderr)
        sys.exit(2)
    if told.workers > 1:
        _serve_by_workers(told, address)
    else:
        _serve(_application(), address)


def _application() -> Application:
    from serving.release import application

    return application


def _serve_by_workers(told: Configuration, address: Address) -> None:
    from prometheus_client import CollectorRegistry

    from serving import replica  # noqa: F401 : with all that it imports, so that the workers share it
    from serving.metrics import Metrics
    from serving.shared_numbers import Numbers
    from serving.workers import Workers

    numbers = Numbers(told.workers)
    metrics = Metrics(told.model, told.release, CollectorRegistry(), numbers.of(0))

    def ended(worker: int) -> None:
        metrics.workers.forget(worker)
        metrics.log.forget(worker)
        metrics.load.forget(worker)

    def serve(worker: int, listener: socket.socket) -> None:
        from serving.release import REPLICA, application

        REPLICA.start()
        # Whoever accepts a connection must answer it: only where nobody else can, one is told that the model is not loaded yet.
        if worker > 0 or REPLICA.metrics.workers.accepting:
            REPLICA.wait_loaded()
        _serve(application, address, listener)

    with socket.create_server(address, backlog=2048) as listener:
        Workers(told.workers, numbers, serve, ended).run(listener)


def _serve(application: Application, address: Address, listener: socket.socket | None = None) -> None:
    import uvicorn

    from serving.connection import Connection

    # what was imported stays: to look at it again and again takes milliseconds in which nobody is answered
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        application,
        host=address[0],
        port=address[1],
        loop="uvloop",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_SECONDS,
        # longer than a gateway keeps an idle connection, so that it is never the one to meet a closed one
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener] if listener else None)
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
