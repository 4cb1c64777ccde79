"""The BentoML service, for ``bentoml build`` and ``bentoml serve``: a release's own application, and BentoML's probes, metrics and page.

The environment that names the release is read when it is served: a Bento is built without one, and serves any release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import bentoml
from bentoml._internal.container import BentoMLContainer  # type: ignore[attr-defined]
from bentoml._internal.server.metrics.prometheus import PrometheusClient

Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]

# the workers of a release add up what they count in memory that they share, and need no files for it
BentoMLContainer.metrics_client.set(PrometheusClient(multiproc=False))


class FrontedService(bentoml.Service):  # type: ignore[misc]
    """A service whose own paths do not pass BentoML's middlewares, which take fifteen times as long as the rest of a request (ADR 13)."""

    def to_asgi(self, is_main: bool = True) -> Application:
        """What ``bentoml serve`` runs: our application for its paths, BentoML's for all others."""
        from serving.release import APP

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
        from serving.release import REPLICA

        REPLICA.start()
        REPLICA.metrics.workers.accepts(True)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Ship what is left of the prediction log. By now no request is under way."""
        from serving.release import REPLICA

        REPLICA.metrics.workers.accepts(False)
        await asyncio.to_thread(REPLICA.stop)
