"""Online features from Redis, by one connection that all requests of a process share.

hiredis speaks the protocol; what is here is the way of a command through the event loop. redis-py's asyncio client takes as long for
a read of which nothing is decoded as all that is done here, and nobody else is answered meanwhile (ADR 16).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from mlops_assets.adapters.online_layout import Held, read_redis, redis_fields, redis_key
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.feature_views import View
from serving.online_features import Key

CONNECT_SECONDS = 2.0


class RedisStore:
    """A :class:`serving.online_features.OnlineStore`.

    Args:
        url: ``redis://[user:password@]host:port/db``; ``rediss`` with TLS.
        views: what is read.
    """

    def __init__(self, url: str, views: Sequence[View]) -> None:
        self._url = urlsplit(url)
        self._fields: dict[str, tuple[bytes, ...]] = {}
        self._slices: dict[str, list[slice]] = {}
        for view in views:
            fields, before = redis_fields(view), self._fields.get(view.entity, ())
            self._fields[view.entity] = before + fields
            self._slices.setdefault(view.entity, []).append(slice(len(before), len(before) + len(fields)))
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def read(self, keys: Sequence[Key]) -> Sequence[Sequence[Held | None]]:
        connection = self._connection
        if connection is None or connection.lost:
            connection = await self._connected()
        asked = b"".join([hiredis.pack_command(("HMGET", redis_key(kind, value), *self._fields[kind])) for kind, value in keys])
        replies = await connection.ask(asked, len(keys))
        return [self._read(kind, reply) for (kind, _), reply in zip(keys, replies, strict=True)]

    def _read(self, kind: str, reply: Any) -> list[Held | None]:
        if not isinstance(reply, list) or len(reply) != len(self._fields[kind]):
            raise Unavailable(f"got {str(reply)[:60]!r} for an entity, expected {len(self._fields[kind])} fields: is this a Redis?")
        return [read_redis(reply[part]) for part in self._slices[kind]]

    def give_up(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    async def _connected(self) -> _Connection:
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())  # maybe nobody waits any more
        self._connection = await asyncio.shield(self._connecting)
        return self._connection

    async def _connect(self) -> _Connection:
        host, port = self._url.hostname, self._url.port
        context = ssl.create_default_context() if self._url.scheme == "rediss" else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port, ssl=context)
                greetings = self._greetings()
                if greetings:
                    await connection.ask(b"".join(map(hiredis.pack_command, greetings)), len(greetings))
        except OSError as error:  # a timeout is one
            raise Unavailable(f"Redis at {host}:{port} cannot be reached ({error or 'timeout'}): see that it runs") from error
        return connection

    def _greetings(self) -> list[tuple[str, ...]]:
        user, password, database = self._url.username, self._url.password, self._url.path.strip("/")
        secret = (*([unquote(user)] if user else []), unquote(password)) if password else ()
        return [*([("AUTH", *secret)] if secret else []), *([("SELECT", database)] if database not in ("", "0") else [])]


class _Connection(asyncio.Protocol):
    """Commands out, replies in, in the same order."""

    def __init__(self) -> None:
        self.lost = False
        self._reader = hiredis.Reader()
        self._waiting: deque[_Asked] = deque()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        """The replies to so many commands; :class:`Unavailable` if one is an error, or the connection is lost."""
        asked = _Asked(count)
        if self.lost or not count:
            asked.settle(Unavailable("Redis closed the connection") if self.lost else None)
            return asked.replies
        self._waiting.append(asked)
        self._transport.write(commands)
        return asked.replies

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if self._waiting[0].take(reply):
                    self._waiting.popleft()
        except (hiredis.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        while self._waiting:
            self._waiting.popleft().settle(Unavailable(f"Redis closed the connection ({exc or 'it ended'})"))

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()


class _Asked:
    """Commands whose replies are awaited together."""

    __slots__ = ("_count", "_found", "replies")

    def __init__(self, count: int) -> None:
        self._count, self._found = count, list[Any]()
        self.replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def take(self, reply: Any) -> bool:
        """One more reply; whether it is the last."""
        self._found.append(reply)
        if len(self._found) < self._count:
            return False
        errors = [found for found in self._found if isinstance(found, hiredis.ReplyError)]
        self.settle(Unavailable(f"Redis refuses: {errors[0]}") if errors else None)
        return True

    def settle(self, error: Exception | None) -> None:
        if self.replies.done():  # nobody waits for it any more
            return
        if error is None:
            self.replies.set_result(self._found)
        else:
            self.replies.set_exception(error)
