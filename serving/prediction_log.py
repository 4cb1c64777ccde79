"""The first writer of the prediction log: an answer goes to a local file before it is sent, and to the object store when it can.

What was written survives the end of the process, however it ends. If the machine fails, the last ``SYNC_SECONDS`` of answers are lost,
unless every write waits for the disk (``fdatasync``). A stop loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_assets.adapters.prediction_log import Answer, LoggedInput
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.serving_spec import LogDurability, OnLogFull
from mlops_assets.ports import ObjectStore
from serving import segments
from serving.feature_metrics import FeatureMetrics
from serving.metrics import LogMetrics
from serving.segment_file import SegmentFile, require_room
from serving.segments import Header, Lease
from serving.shipper import Shipper

TEND_SECONDS = 0.05
RETRY_SECONDS = 0.5
"""How long a log that is full waits before it looks for room again."""

ROOM_BYTES = 2**20
"""How much room the disk must have before a log that was full goes on."""

_ROOM_SHARE = 0.9
_COMPLAIN_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a segment collects answers, in seconds, and how many bytes may wait on disk."""

    rotate_seconds: float = 60.0
    max_bytes: int = 2**30


@dataclass(frozen=True)
class Trouble:
    """Why nothing can be logged at present: in a word, for the metrics, and in a sentence."""

    kind: str
    why: str


class Unlogged(MlopsError):
    """The answer cannot be logged, and is not given for that reason."""


class PredictionLog:
    """The prediction log of one process. Any thread may write.

    Writers only write. Another thread opens the next segment, swaps it for the full one, closes that and hands it to the shipper, so that
    no answer waits for more than its own write.

    Args:
        home: the folder under which ``predictions/<model>/<release>`` lies. What ended processes left there is shipped too.
        model: the model's name.
        release: the release that answers.
        inputs: the model's inputs, in the order of :attr:`Answer.features`.
        objects: where it is shipped to.
        metrics: what became of the answers.
        limits: of time and space.
        durability: whether a write ends with the kernel or with the disk.
        on_full: what is done with an answer that cannot be logged.
        features: counts what this release was given.
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
        durability: LogDurability = "write",
        on_full: OnLogFull = "count",
        features: FeatureMetrics | None = None,
    ) -> None:
        self._model, self._release, self._inputs = model, release, inputs
        self._metrics, self._limits = metrics, limits
        self.durability, self.refuses = durability, on_full == "refuse"
        self._directory = home / "predictions" / model / release
        self._left = [*Lease.left(home)]
        self._lease = Lease.new(self._directory)
        self._features = features
        self._shipper = Shipper(objects, metrics, shipped=self._count_features)
        self._sequence = 0
        self._lock = threading.Lock()  # of what is below
        self._segment: SegmentFile | None = None
        self._spooled = 0
        told = f"{limits.max_bytes} bytes wait to be shipped, and no more may (MLOPS_LOG_MAX_BYTES): is the object store up?"
        self._no_space = Trouble("space", told)
        self._trouble: Trouble | None = Trouble("disk", "the log is not open yet")
        self._retry_at = 0.0
        self._complained = -_COMPLAIN_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tend-predictions", daemon=True)

    def start(self) -> None:
        """Begin to write and ship, with what earlier processes have left."""
        for lease in self._left:
            for segment in lease.segments():
                self._shipper.add(segment)
        self._spooled = self._shipper.pending_bytes
        self._shipper.start()
        self._recover()
        self._thread.start()

    @property
    def trouble(self) -> Trouble | None:
        """Why nothing can be logged at present, if that is so."""
        return self._trouble

    def require_room(self) -> None:
        """:class:`Unlogged` if an answer could not be given, since it cannot be logged."""
        if self._trouble is not None and self.refuses:
            raise Unlogged(self._trouble.why)

    def write(self, answers: Sequence[Answer]) -> None:
        """Log answers, all of them or none; they may be sent when this returns. What is given and cannot be logged is counted.

        Raises:
            Unlogged: if they must not be given, since they cannot be logged.
        """
        frame = segments.answers_frame(answers)
        with self._lock:
            trouble = self._trouble or self._try_write(frame, len(answers))
            self._trouble = trouble
        if trouble is None:
            return
        self._complain(f"answers are {'refused' if self.refuses else 'lost'}: {trouble.why}")
        if self.refuses:
            raise Unlogged(trouble.why)
        self._metrics.lose(trouble.kind, len(answers))

    def close(self, within: float = 5.0) -> None:
        """Ship everything, for at most ``within`` seconds. What is left is shipped by the next process."""
        deadline = time.monotonic() + within
        self._stop.set()
        self._thread.join(within)
        ended = self._shipper.close(max(0.1, deadline - time.monotonic()))
        if self._shipper.pending_bytes:
            _log.warning("prediction log: %d bytes are left on disk for the next process", self._shipper.pending_bytes)
        if ended:  # otherwise an upload is still under way, and nobody may begin another before this process has ended
            for lease in (*self._left, self._lease):
                lease.give_up()

    def _count_features(self, header: Header, table: Any) -> None:
        """What another release has left here is not of this one's features."""
        if self._features is None or (header.model, header.release) != (self._model, self._release):
            return
        try:
            self._features.count(table)
        except Exception:  # what is shipped must not be shipped again because it could not be counted
            _log.exception("prediction log: features were not counted")

    def _try_write(self, frame: bytes, answers: int) -> Trouble | None:
        assert self._segment is not None  # without trouble there is one
        if self._spooled + self._segment.size + len(frame) > self._limits.max_bytes:
            return self._no_space
        try:
            self._segment.write(frame, answers)
        except OSError as error:
            return Trouble("disk", f"the disk does not take the prediction log ({error}): make room under {self._directory}")
        return None

    def _run(self) -> None:
        while not self._stop.wait(TEND_SECONDS):
            try:
                self._tend()
            except Exception:
                _log.exception("prediction log: it is looked after again in a moment")
        self._swap(None, Trouble("disk", "the process is ending"))

    def _tend(self) -> None:
        segment = self._segment
        if self._trouble is not None:
            if time.monotonic() >= self._retry_at:
                self._recover()
        elif segment is not None and segment.is_full(self._limits.rotate_seconds):
            self._rotate()
        elif segment is not None:
            self._sync(segment)
        with self._lock:
            self._spooled = self._shipper.pending_bytes
            pending = self._spooled + (self._segment.size if self._segment is not None else 0)
            self._metrics.waits(pending, self._trouble is not None)

    def _rotate(self) -> None:
        try:
            self._swap(self._open(), None)
        except OSError as error:
            self._swap(None, Trouble("disk", f"no new segment can be opened ({error}): make room under {self._directory}"))

    def _recover(self) -> None:
        """Ship what is there, which makes room, and go on if there is some."""
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if self._segment is not None:
            self._swap(None, self._trouble)
        if self._shipper.pending_bytes > _ROOM_SHARE * self._limits.max_bytes:
            self._trouble = self._no_space
            return
        try:
            require_room(self._directory, ROOM_BYTES)
            self._swap(self._open(), None)
        except OSError as error:
            self._trouble = Trouble("disk", f"the disk has no room for the prediction log ({error}): make room under {self._directory}")
            self._complain(self._trouble.why)

    def _open(self) -> SegmentFile:
        self._sequence += 1
        header = Header(self._model, self._release, self._lease.replica, self._sequence, self._inputs)
        return SegmentFile(self._lease.segment(self._sequence), header, self.durability == "fdatasync")

    def _swap(self, segment: SegmentFile | None, trouble: Trouble | None) -> None:
        """From now on write to this segment, or to none; the one before it is shipped."""
        with self._lock:
            before, self._segment, self._trouble = self._segment, segment, trouble
            self._spooled += before.size if before is not None else 0
        if before is None:
            return
        try:
            before.close()
        except OSError as error:
            self._complain(f"segment {before.path.name} may not survive a power cut: {error}")
        if before.answers:
            self._shipper.add(before.path)
        else:
            before.path.unlink()

    def _sync(self, segment: SegmentFile) -> None:
        try:
            segment.sync_if_due()
        except OSError as error:  # what the kernel could not write it forgets, and only a new file is known to be sound
            self._complain(f"segment {segment.path.name} may not survive a power cut: {error}")
            self._rotate()

    def _complain(self, message: str) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_SECONDS:
            self._complained = now
            _log.error("prediction log: %s (said once a minute, counted always)", message)
