"""Several processes that answer for one release on one port: one for each core that it may use.

They are forked from one that has imported everything and serves nothing itself: it begins a worker anew that has ended, and ends them all
with itself.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from serving.shared_numbers import Numbers

LIVED_SECONDS = 5.0
"""A worker that ends sooner is begun anew ever later ..."""

LONGEST_WAIT = 15.0
"""... up to this many seconds."""

_log = logging.getLogger(__name__)
_this: Numbers | None = None

Serve = Callable[[int, socket.socket], None]


class _Stopped(Exception):
    """Somebody asked for an end."""


def numbers_of_this_worker() -> Numbers | None:
    """Where this process counts; None if it is the only one."""
    return _this


class Workers:
    """The processes of a release.

    Args:
        count: how many.
        serve: what each does with its number and the socket that all listen on; it returns when it is to end.
        ended: is told the number of a worker that has ended.
    """

    def __init__(self, count: int, numbers: Numbers, serve: Serve, ended: Callable[[int], None]) -> None:
        self._count, self._numbers, self._serve, self._ended = count, numbers, serve, ended
        self._running: dict[int, int] = {}
        self._begun: dict[int, float] = {}
        self._waits: dict[int, float] = {}

    def run(self, listener: socket.socket) -> None:
        """Keep them running until SIGTERM or SIGINT, and return when all have ended."""
        self._alive, lifeline = os.pipe()  # a worker sees its end when this process is gone, however that went
        self._lifeline = lifeline
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        gc.freeze()  # or a collection would touch, and so copy, all memory that is shared now
        try:
            for worker in range(self._count):
                self._begin(worker, listener)
            while True:
                self._begin_anew(*os.wait(), listener)
        except _Stopped:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
        listener.close()
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
        for pid in self._running:
            os.waitpid(pid, 0)

    def _begin_anew(self, pid: int, status: int, listener: socket.socket) -> None:
        worker = self._running.pop(pid)
        self._ended(worker)
        lived = time.monotonic() - self._begun[worker]
        wait = 0.0 if lived >= LIVED_SECONDS else min(max(2 * self._waits.get(worker, 0.0), 0.25), LONGEST_WAIT)
        self._waits[worker] = wait
        _log.error(
            "worker %d ended with %d after %.1f s, it is begun anew in %.2g s", worker, os.waitstatus_to_exitcode(status), lived, wait
        )
        time.sleep(wait)
        self._begin(worker, listener)

    def _begin(self, worker: int, listener: socket.socket) -> None:
        pid = os.fork()
        if pid:
            self._running[pid], self._begun[worker] = worker, time.monotonic()
            return
        code = 1
        try:
            self._work(worker, listener)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            _log.exception("worker %d", worker)
        finally:
            logging.shutdown()
            os._exit(code)  # what the parent still has to do is not a worker's

    def _work(self, worker: int, listener: socket.socket) -> None:
        global _this
        _this = self._numbers.of(worker)
        os.close(self._lifeline)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Thread(target=_end_with_parent, args=(self._alive,), name="watch-parent", daemon=True).start()
        self._serve(worker, listener)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os.kill(os.getpid(), signal.SIGTERM)
