"""Dagster's code server, with runs that start at once.

Dagster begins each run in a fresh interpreter, which imports Dagster, pandas and the definitions first: four and a half seconds of a
core for a step that takes a tenth of one. Here a process without threads imports them once, and each run is forked from it
(``forkserver`` of :mod:`multiprocessing`). Dagster has no setting for it.
"""

import multiprocessing
from multiprocessing.forkserver import ensure_running
from typing import Any

from dagster._cli.api import grpc_command
from dagster._grpc import server

PRELOADED = ("dagster._cli.api", "dagster._grpc.server", "mlops_assets.preloaded")


class ForkingApiServer(server.DagsterApiServer):
    """The server's answers to Dagster, with another way to begin a process."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._mp_ctx = multiprocessing.get_context("forkserver")
        self._mp_ctx.set_forkserver_preload(list(PRELOADED))
        ensure_running()


if __name__ == "__main__":
    server.DagsterApiServer = ForkingApiServer  # type: ignore[misc]
    grpc_command()
