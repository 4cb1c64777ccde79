"""uvicorn's connection, with an end to those that say too much or never finish to say what they want."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
MAX_HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers. Envoy lets 60 KiB through, so that behind it nobody meets a second, smaller limit."""

ARRIVED = "arrived"
"""The key of a request's ``state`` under which it is told when, on the clock of ``perf_counter``, it may have arrived."""

_PAUSE_SECONDS = 0.002
"""If nothing was answered for so long before a turn of the event loop, the loop had nothing to do."""

_CHUNK_BYTES = 16
"""What a piece of a chunked body may take beside its content."""


class HeadTooLarge(Exception):
    """The request's line and headers are larger than they may be."""


class Connection(HttpToolsProtocol):
    """Bounds what comes beside bodies, and closes itself if a request's head takes longer than ``head_seconds``, give or take a quarter.

    uvicorn waits for it for ever: who opens connections and sends a byte now and then would keep all descriptors of the process. One
    sweep looks after all connections, since a timer for each request would cost more than reading the head. It also keeps headers of
    any size, and those that follow a chunked body: what is neither counted as a body nor fits ``MAX_HEAD_BYTES`` is refused.

    It also tells the application since when a request may have waited. In a busy process that is longer than since it was read: what
    arrives while the event loop makes a turn lies in its socket until the next, and with hundreds of connections a turn may take longer
    than anybody waits.
    """

    head_seconds: ClassVar[float] = HEAD_SECONDS
    _sweeping: ClassVar[asyncio.AbstractEventLoop | None] = None
    _turn: ClassVar[float] = 0.0
    _turn_began: ClassVar[float] = 0.0
    _arrived: ClassVar[float] = 0.0
    _answered: ClassVar[float] = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._is_refused = False
        self._beside_body = self._in_read = 0
        self._wait_for_head()
        if type(self)._sweeping is not self.loop:
            type(self)._sweeping = self.loop
            self._sweep_later()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._in_read = len(data)
        self._beside_body = max(self._beside_body, 0) + len(data)
        super().data_received(data)
        if self._beside_body > MAX_HEAD_BYTES and not self._is_refused and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()
        # nothing of this read, if it began with the rest of another request
        self._beside_body = self._in_read
        if self._since != Connection._turn:  # the loop's own clock stands still during a turn
            Connection._next_turn(self._since)
        self.scope["state"][ARRIVED] = Connection._arrived

    def on_response_complete(self) -> None:
        Connection._answered = perf_counter()
        super().on_response_complete()

    @classmethod
    def _next_turn(cls, turn: float) -> None:
        now = perf_counter()
        is_busy = now - cls._answered < _PAUSE_SECONDS
        cls._arrived = cls._turn_began if is_busy else now
        cls._turn, cls._turn_began = turn, now

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._in_read = 0
        if self._beside_body > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES:
            self._is_refused = True
            raise HeadTooLarge  # which ends the parser, and uvicorn wants to answer 400
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._in_read = 0
        self._beside_body -= len(body) + _CHUNK_BYTES
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._is_refused:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _refuse(self) -> None:
        self._is_refused = True
        if self.cycle is not None and not self.cycle.response_complete:  # it is what follows a body
            self.transport.close()
            return
        self.transport.write(_TOO_LARGE)
        # closed now, with a part of the head unread, the connection would be reset and the answer lost: the sweep does it later
        self.transport.write_eof()
        self._wait_for_head()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

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


def _too_large() -> bytes:
    reason = f"got more than {MAX_HEAD_BYTES} bytes of request line and headers, expected at most that: send fewer or shorter ones"
    body = msgspec.json.encode({"error": {"what": "headers too large", "reason": reason}})
    head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


_TOO_LARGE = _too_large()
