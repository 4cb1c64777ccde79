"""The BentoML service: the replica's application, mounted beside BentoML's own probes and ``/metrics``.

Importing it reads the environment (:class:`serving.configuration.Configuration`).
"""

from __future__ import annotations

import asyncio

import bentoml

from mlops_assets.adapters.s3 import S3ObjectStore
from serving.app import create_app
from serving.configuration import Configuration
from serving.metrics import Metrics
from serving.replica import Replica

_told = Configuration.from_environment()
REPLICA = Replica(_told, S3ObjectStore(_told.s3_url), Metrics(_told.model, _told.release))
APP = create_app(REPLICA)


@bentoml.service(
    name="release",
    workers=1,
    http={"host": "127.0.0.1"},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    traffic={"timeout": 60},
)
@bentoml.asgi_app(APP, path="/")
class Release:
    """One release of one model."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def start(self) -> None:
        """Begin to load the model; ``/ready`` says when it is done."""
        REPLICA.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Ship what is left of the prediction log. By now no request is under way."""
        await asyncio.to_thread(REPLICA.stop)
