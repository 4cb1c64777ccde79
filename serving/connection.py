"""uvicorn's connection, with an end to those that never finish to say what they want."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0


class Connection(HttpToolsProtocol):
    """Closes itself if a request's head takes longer than ``head_seconds``, give or take a quarter.

    uvicorn waits for it for ever: who opens connections and sends a byte now and then would keep all descriptors of the process. One
    sweep looks after all connections, since a timer for each request would cost more than reading the head.
    """

    head_seconds: ClassVar[float] = HEAD_SECONDS
    _sweeping: ClassVar[asyncio.AbstractEventLoop | None] = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if type(self)._sweeping is not self.loop:
            type(self)._sweeping = self.loop
            self._sweep_later()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        self._is_in_head, self._since = True, self.loop.time()

    def _sweep_later(self) -> None:
        self.loop.call_later(self.head_seconds / 4, self._sweep)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in [*self.connections]:
            if isinstance(connection, Connection) and connection._is_in_head and now - connection._since >= self.head_seconds:
                connection.transport.close()
        if self.connections:
            self._sweep_later()
        else:
            type(self)._sweeping = None
