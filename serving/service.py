"""The BentoML service: a release's own application, with BentoML's probes, ``/metrics`` and page beside it.

Importing it reads the environment (:class:`serving.configuration.Configuration`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from importlib.abc import MetaPathFinder
from typing import Any

import bentoml
from bentoml._internal.container import BentoMLContainer  # type: ignore[attr-defined]
from bentoml._internal.server.metrics.prometheus import PrometheusClient

from mlops_assets.adapters.s3 import S3ObjectStore
from serving.app import App
from serving.configuration import Configuration
from serving.metrics import Metrics
from serving.replica import Replica

Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class _WithoutPandas(MetaPathFinder):
    """pyarrow loads pandas to ask of each list whether it is one of its: half a second and 40 MB at the first shipment of the log."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("a release does without pandas", name=name)


sys.meta_path.insert(0, _WithoutPandas())

# a release is one process, and needs no files to add up the metrics of several
BentoMLContainer.metrics_client.set(PrometheusClient(multiproc=False))

_told = Configuration.from_environment()
OBJECTS = S3ObjectStore(_told.s3_url)
REPLICA = Replica(_told, OBJECTS, Metrics(_told.model, _told.release))
APP = App(REPLICA)


class FrontedService(bentoml.Service):  # type: ignore[misc]
    """A service whose own paths do not pass BentoML's middlewares, which take fifteen times as long as the rest of a request (ADR 13)."""

    def to_asgi(self, is_main: bool = True) -> Application:
        """What ``bentoml serve`` runs: our application for its paths, BentoML's for all others."""
        bento: Application = super().to_asgi(is_main=is_main)

        async def application(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            is_ours = scope["type"] == "http" and APP.serves(scope["path"])
            await (APP if is_ours else bento)(scope, receive, send)

        return application


@bentoml.service(
    name="release",
    service_class=FrontedService,
    workers=1,
    http={"host": "127.0.0.1"},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    traffic={"timeout": 60},
)
class Release:
    """One release of one model."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Begin to load the model; ``/ready`` says when it is done."""
        with suppress(ValueError):  # of an address that is none: the model's loading will say so
            OBJECTS.prepare()
        REPLICA.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Ship what is left of the prediction log. By now no request is under way."""
        await asyncio.to_thread(REPLICA.stop)
