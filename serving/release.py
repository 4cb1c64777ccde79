"""The release that the environment names, as a whole ASGI application: what ``python -m serving`` runs.

Importing it reads the environment (:class:`serving.configuration.Configuration`). BentoML is not part of it: beside :mod:`serving.service`,
which is for its users, a release needs nothing of it but the names of its probes, and importing it takes 30 MB and two seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mlops_assets.adapters.s3 import S3ObjectStore
from serving.app import App
from serving.configuration import Configuration
from serving.metrics import Metrics
from serving.replica import Replica
from serving.workers import numbers_of_this_worker

_told = Configuration.from_environment()
_objects = S3ObjectStore(_told.s3_url)
REPLICA = Replica(_told, _objects, Metrics(_told.model, _told.release, numbers=numbers_of_this_worker()))
APP = App(REPLICA)

PROBES: Mapping[str, str] = {"/livez": "/health", "/healthz": "/health", "/readyz": "/ready"}
"""BentoML's probes, and ours that they are answered as: whoever probed the one goes on with the other."""

_METRICS_HEADERS = [(b"content-type", CONTENT_TYPE_LATEST.encode())]


async def application(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Ours, and what else BentoML would answer."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
        await send({"type": "http.response.start", "status": 200, "headers": _METRICS_HEADERS})
        await send({"type": "http.response.body", "body": generate_latest(REGISTRY)})
    else:
        scope["path"] = PROBES.get(scope["path"], scope["path"])
        await APP(scope, receive, send)


async def _live(receive: Any, send: Any) -> None:
    """Load the model while the server runs; ship what is left of the prediction log when no request is under way any more."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            with suppress(ValueError):  # of an address that is none: loading the model will say so
                _objects.prepare()
            REPLICA.start()
            REPLICA.metrics.workers.accepts(True)
            await send({"type": "lifespan.startup.complete"})
        else:
            REPLICA.metrics.workers.accepts(False)
            await asyncio.to_thread(REPLICA.stop)
            await send({"type": "lifespan.shutdown.complete"})
            return
