"""Offers requests at a rate that does not wait for the answers, and tells in one line of JSON what became of them.

``python -m bench.open_loop PORT PATH --rate R < BODY``. Arrivals are Poisson from a fixed seed, and a latency counts from the moment a
request was due, so that a slow server cannot slow its own load down. A request takes a free connection, or a new one up to
``--connections``; else it is given up at once, as by a gateway that has no more, or by k6 at a constant arrival rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from time import perf_counter

import uvloop

HOST = "127.0.0.1"
_TICK_SECONDS = 0.0005


@dataclass
class Offered:
    """What became of the requests. Latencies, in milliseconds, are of those answered with 200, late ones included."""

    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Load:
    """One run."""

    def __init__(self, port: int, request: bytes, rate: float, seconds: float, deadline: float, connections: int) -> None:
        self._port, self.request, self._rate, self._seconds = port, request, rate, seconds
        self._deadline, self._room = deadline, connections
        self.offered = Offered()
        self._free: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._under_way = 0

    async def run(self) -> Offered:
        chance, began = random.Random(0), perf_counter()
        due = began
        while due < began + self._seconds:
            await asyncio.sleep(max(_TICK_SECONDS, due - perf_counter()))
            now = perf_counter()
            while due <= now and due < began + self._seconds:
                self._ask(due)
                due += chance.expovariate(self._rate)
        end = perf_counter() + 10 * self._deadline + 1
        while (self._under_way or self._waiting) and perf_counter() < end:
            await asyncio.sleep(0.01)
        self.offered.outcomes["unanswered"] += self._under_way
        return self.offered

    def _ask(self, due: float) -> None:
        self.offered.outcomes["offered"] += 1
        if self._free:
            self._send(self._free.pop(), due)
            return
        if not self._room:
            self.offered.outcomes["given up"] += 1
            return
        self._room -= 1
        self._waiting.append(due)
        asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self), HOST, self._port)
        except OSError:
            self._room += 1
            if self._waiting:
                self._waiting.popleft()
                self.offered.outcomes["failed"] += 1

    def _send(self, connection: _Connection, due: float) -> None:
        self._under_way += 1
        connection.send(due)

    def free(self, connection: _Connection) -> None:
        """A connection can take a request: the oldest whose user still waits."""
        now = perf_counter()
        while self._waiting:
            due = self._waiting.popleft()
            if now - due < self._deadline:
                self._send(connection, due)
                return
            self.offered.outcomes["given up"] += 1
        self._free.append(connection)

    def lost(self, connection: _Connection) -> None:
        """A connection was closed by the server."""
        self._room += 1
        if connection in self._free:
            self._free.remove(connection)

    def answered(self, due: float, status: int) -> None:
        """A request was answered; with status 0 it never will be."""
        self._under_way -= 1
        spent = perf_counter() - due
        self.offered.statuses[status] += 1
        if status == 200:
            self.offered.latencies.append(1000 * spent)
            self.offered.outcomes["good" if spent <= self._deadline else "late"] += 1
        else:
            self.offered.outcomes["refused" if status == 503 else "failed"] += 1


class _Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._due: float | None = None
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._load.free(self)

    def send(self, due: float) -> None:
        self._due = due
        self._transport.write(self._load.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0]):
            return
        due, self._due, self._read = self._due, None, b""
        assert due is not None
        self._load.answered(due, int(head[9:12]))
        if not self._transport.is_closing():
            self._load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._due is not None:
            self._load.answered(self._due, 0)
        self._load.lost(self)


def told(offered: Offered, rate: float, seconds: float, connections: int) -> dict[str, object]:
    ordered = sorted(offered.latencies) or [float("nan")]
    return {
        "rate": rate,
        "seconds": seconds,
        "connections": connections,
        **{name: offered.outcomes[name] for name in ("offered", "good", "late", "refused", "given up", "failed", "unanswered")},
        "statuses": {str(status): count for status, count in sorted(offered.statuses.items())},
        "goodput": offered.outcomes["good"] / seconds,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(0.99 * len(ordered))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--rate", type=float, required=True, help="requests/s")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--deadline", type=float, default=0.25, help="in seconds, from when a request is due; it is sent along")
    parser.add_argument("--connections", type=int, default=512, help="at most")
    asked = parser.parse_args()
    body = sys.stdin.buffer.read()
    head = f"POST {asked.path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    told_deadline = f"x-request-timeout-ms: {1000 * asked.deadline:.0f}\r\ncontent-length: {len(body)}\r\n\r\n"
    request = (head + told_deadline).encode() + body
    load = Load(asked.port, request, asked.rate, asked.seconds, asked.deadline, asked.connections)
    print(json.dumps(told(uvloop.run(load.run()), asked.rate, asked.seconds, asked.connections)))


if __name__ == "__main__":
    main()
