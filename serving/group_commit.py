"""Lets the answers of an event loop wait together until they are logged: one write for all that have queued."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mlops_assets.adapters.prediction_log import Answer
from serving.prediction_log import PredictionLog, Unlogged

_log = logging.getLogger(__name__)


class _Group(asyncio.Future[str]):
    """Answers that are written at once. Its result is why they were not logged and must not be given, in most cases nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.answers: list[Answer] = []

    def cancel(self, msg: object = None) -> bool:
        """Who stops waiting does not stop the others."""
        return False


class GroupCommit:
    """The way of one event loop to its prediction log.

    A write to the kernel takes a few microseconds, less than it costs to hand it to a thread: it is made at the end of the loop's
    turn, for all that came in it. One that reaches the disk takes a millisecond: a thread makes it, for all that came during the last.
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, "sync-predictions") if log.durability == "fdatasync" else None
        self._group: _Group | None = None
        self._is_writing = False

    async def commit(self, answers: Iterable[Answer]) -> None:
        """Return when the answers may be sent.

        Raises:
            Unlogged: if they must not be.
        """
        group = self._group
        if group is None:
            loop = asyncio.get_running_loop()
            group = self._group = _Group(loop)
            if not self._is_writing:
                loop.call_soon(self._flush)
        group.answers.extend(answers)
        if why := await group:
            raise Unlogged(why)

    def _flush(self) -> None:
        group, self._group = self._group, None
        assert group is not None  # who began it had this called
        if self._thread is None:
            group.set_result(self._write(group))
            return
        self._is_writing = True
        writing = group.get_loop().run_in_executor(self._thread, self._write, group)
        writing.add_done_callback(lambda done: self._thread_wrote(group, done.result()))

    def _thread_wrote(self, group: _Group, why: str) -> None:
        self._is_writing = False
        if self._group is not None:
            self._flush()
        group.set_result(why)

    def _write(self, group: _Group) -> str:
        try:
            self._log.write(group.answers)
        except Unlogged as error:
            return str(error)
        except Exception as error:  # those who wait must hear of it
            _log.exception("answers were not logged")
            return f"the answer could not be logged ({type(error).__name__}): see the release's log"
        return ""
