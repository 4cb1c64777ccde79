"""Reads bodies without trusting who sends them: bounded in size, in time, and all together."""

from __future__ import annotations

import asyncio
from asyncio import Task, current_task, get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serving.errors import BadRequest
from serving.limits import BODY_SECONDS, MAX_BODY_BYTES, MAX_BYTES_AT_ONCE, NoRoom, TooSlow

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Disconnected(Exception):
    """Nobody waits for an answer any more."""


class TooLarge(BadRequest):
    """The body is larger than any may be."""

    def __init__(self) -> None:
        super().__init__("body", f"more than {MAX_BODY_BYTES} bytes", f"at most {MAX_BODY_BYTES}", "split the rows over several requests")


class BodyReader:
    """Reads the bodies of one process.

    A body that came with its headers, as nearly all do, costs no timer: the one sweep that runs while anything is read ends what has
    taken too long. (A timer for each request takes 2 µs, and ``asyncio.timeout`` 6; the whole request takes 50.)

    Args:
        seconds: how long one may take, give or take a quarter.
    """

    def __init__(self, seconds: float = BODY_SECONDS) -> None:
        self._seconds = seconds
        self._since: dict[Task[Any], float] = {}
        self._is_sweeping = False
        self.bytes = 0

    async def read(self, receive: Receive) -> bytes:
        """The body of the present request.

        Raises:
            TooLarge: if it is larger than ``MAX_BODY_BYTES``.
            NoRoom: if it has no room beside those under way.
            TooSlow: if it does not arrive in time.
            Disconnected: if the client went away.
        """
        task = current_task()
        assert task is not None
        self._since[task] = get_running_loop().time()
        if not self._is_sweeping:
            self._sweep_later()
        try:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                body: bytes = message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise TooLarge
                return body
            return await self._rest(message, receive)
        except asyncio.CancelledError:
            if task in self._since:  # somebody else's
                raise
            task.uncancel()
            raise TooSlow(f"the body did not arrive within {self._seconds:g} s: send it at once") from None
        finally:
            self._since.pop(task, None)

    async def _rest(self, message: Mapping[str, Any], receive: Receive) -> bytes:
        chunks, size = [], 0
        try:
            while True:
                if message["type"] != "http.request":
                    raise Disconnected
                chunk = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                self.bytes += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise TooLarge
                if self.bytes > MAX_BYTES_AT_ONCE:
                    raise NoRoom(f"bodies of {self.bytes} bytes are under way, at most {MAX_BYTES_AT_ONCE} fit")
                if not message.get("more_body"):
                    return b"".join(chunks)
                message = await receive()
        finally:
            self.bytes -= size

    def _sweep_later(self) -> None:
        self._is_sweeping = True
        get_running_loop().call_later(self._seconds / 4, self._sweep)

    def _sweep(self) -> None:
        now = get_running_loop().time()
        for task in [task for task, since in self._since.items() if now - since >= self._seconds]:
            del self._since[task]
            task.cancel()
        self._is_sweeping = False
        if self._since:
            self._sweep_later()
