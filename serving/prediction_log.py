"""The first writer of the prediction log: what was answered goes to a local file at once, and to the object store when it can.

Answers are written in groups, ``COMMIT_SECONDS`` apart, and so that many seconds of answers are lost if the process is killed; if the
machine fails it is ``SYNC_SECONDS``. A stop loses nothing.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.adapters.prediction_log import Answer, LoggedInput
from mlops_assets.ports import ObjectStore
from serving.metrics import LogMetrics
from serving.segments import Header, Lease, lines
from serving.shipper import Shipper

COMMIT_SECONDS = 0.05
SYNC_SECONDS = 1.0
MAX_QUEUED = 100_000
MAX_SEGMENT_BYTES = 4 * 2**20
"""A segment is turned into Parquet in one go, beside requests that wait for the interpreter meanwhile."""

_COMPLAIN_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a segment collects answers, in seconds, and how many bytes may wait on disk."""

    rotate_seconds: float = 60.0
    max_bytes: int = 2**30


class PredictionLog:
    """The prediction log of one process.

    Args:
        home: the folder under which ``predictions/<model>/<release>`` lies. What ended processes left there is shipped too.
        model: the model's name.
        release: the release that answers.
        inputs: the model's inputs, in the order of :attr:`Answer.features`.
        objects: where it is shipped to.
        metrics: what became of the answers.
        limits: of time and space.
    """

    def __init__(
        self,
        home: Path,
        model: str,
        release: str,
        inputs: tuple[LoggedInput, ...],
        objects: ObjectStore,
        metrics: LogMetrics,
        limits: Limits,
    ) -> None:
        self._model, self._release, self._inputs = model, release, inputs
        self._metrics, self._limits = metrics, limits
        self._left = [*Lease.left(home)]
        self._lease = Lease.new(home / "predictions" / model / release)
        self._shipper = Shipper(objects, metrics)
        self._queue: deque[Answer] = deque()
        self._segment: _OpenSegment | None = None
        self._sequence = 0
        self._complained = -_COMPLAIN_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-predictions", daemon=True)

    def start(self) -> None:
        """Begin to write and ship, with what earlier processes have left."""
        for lease in self._left:
            for segment in lease.segments():
                self._shipper.add(segment)
        self._shipper.start()
        self._thread.start()

    def append(self, answers: Iterable[Answer]) -> None:
        """Log answers. It never waits and never fails; what cannot be logged is counted."""
        if len(self._queue) < MAX_QUEUED:
            self._queue.extend(answers)
        else:
            self._lose("queue", len([*answers]), f"{MAX_QUEUED} answers wait to be written: the disk does not follow")

    def close(self, within: float = 5.0) -> None:
        """Write and ship everything, for at most ``within`` seconds. What is left is shipped by the next process."""
        deadline = time.monotonic() + within
        self._stop.set()
        self._thread.join(within)
        ended = self._shipper.close(max(0.1, deadline - time.monotonic()))
        if self._shipper.pending_bytes:
            _log.warning("prediction log: %d bytes are left on disk for the next process", self._shipper.pending_bytes)
        if ended:  # otherwise an upload is still under way, and nobody may begin another before this process has ended
            for lease in (*self._left, self._lease):
                lease.give_up()

    def _run(self) -> None:
        while not self._stop.wait(COMMIT_SECONDS):
            self._commit()
        self._commit()
        if self._queue:
            self._lose("disk", len(self._queue), "the disk did not take them before the stop")
        self._rotate()

    def _commit(self) -> None:
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            if batch:
                self._write(batch)
                batch = []
            if self._segment is not None and self._segment.is_full(self._limits.rotate_seconds):
                self._rotate()
            elif self._segment is not None:
                self._segment.sync_if_due()
        except OSError as error:
            self._queue.extendleft(reversed(batch))
            self._complain(f"{len(self._queue)} answers wait to be written: {error}")
        pending = self._shipper.pending_bytes
        self._metrics.pending_bytes.set(pending + (self._segment.size if self._segment is not None else 0))

    def _write(self, batch: list[Answer]) -> None:
        if self._segment is None:
            self._sequence += 1
            header = Header(self._model, self._release, self._lease.replica, self._sequence, self._inputs)
            self._segment = _OpenSegment(self._lease.segment(self._sequence), lines([header]))
        data = lines(batch)
        if self._shipper.pending_bytes + self._segment.size + len(data) > self._limits.max_bytes:
            self._lose(
                "space", len(batch), f"{self._limits.max_bytes} bytes wait to be shipped (MLOPS_LOG_MAX_BYTES): is the object store up?"
            )
        else:
            self._segment.write(data)

    def _rotate(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        try:
            segment.close()
        except OSError as error:
            self._complain(f"segment {segment.path.name} may not be whole: {error}")
        self._shipper.add(segment.path)

    def _lose(self, reason: str, count: int, why: str) -> None:
        self._metrics.lose(reason, count)
        self._complain(f"{count} answers are lost: {why}")

    def _complain(self, message: str) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_SECONDS:
            self._complained = now
            _log.error("prediction log: %s (said once a minute, counted always)", message)


class _OpenSegment:
    """The segment that is being written."""

    def __init__(self, path: Path, header: bytes) -> None:
        self.path = path
        self._file = path.open("xb", buffering=0)
        self._header, self.size = header, 0
        self._opened = self._synced = time.monotonic()

    def write(self, data: bytes) -> None:
        """Add lines, after the header if they are the first; all of them or, with an :class:`OSError`, none."""
        rest = memoryview(self._header + data)
        try:
            while rest:  # an unbuffered file may take only a part
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            self._file.seek(self._file.truncate(self.size))
            raise
        self._header = b""
        self.size = self._file.tell()

    def is_full(self, seconds: float) -> bool:
        return time.monotonic() - self._opened >= seconds or self.size >= MAX_SEGMENT_BYTES

    def sync_if_due(self) -> None:
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        with self._file:
            os.fsync(self._file.fileno())
