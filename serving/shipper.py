"""Ships closed segments to the object store, each once, however often it is tried."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlops_assets.adapters.prediction_log import TOMBSTONE, encode_table, object_key, shipped_at, to_table
from mlops_assets.core.errors import AlreadyExists, BadData, MlopsError
from mlops_assets.ports import Clock, ObjectStore
from serving import segments
from serving.metrics import LogMetrics
from serving.segment_file import sync_directory

FRESH = timedelta(seconds=5)
"""A name that is older is not used any more: the log's readers may have gone past it."""

BACKOFF_SECONDS = (0.5, 30.0)
"""The first wait after a failure, and the longest."""

_log = logging.getLogger(__name__)


class Shipper:
    """A thread that ships what it is given, in this order.

    A name is written down beside the segment before the upload, which does not overwrite: a repeated upload under the same name
    changes nothing. When the name has become too old, an empty object takes it, so that it is known that the upload did not and
    will not succeed, and the segment gets a new one.

    Args:
        objects: where to.
        metrics: what became of the answers.
        clock: the present time, of which names are made.
        shipped: is given the columns of each segment that was shipped, with its header.
    """

    def __init__(
        self,
        objects: ObjectStore,
        metrics: LogMetrics,
        clock: Clock = lambda: datetime.now(UTC),
        shipped: Callable[[segments.Header, Any], None] = lambda header, table: None,
    ) -> None:
        self._objects, self._metrics, self._clock, self._shipped = objects, metrics, clock, shipped
        self._pending: deque[Path] = deque()
        self._sizes: dict[Path, int] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="ship-predictions", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        # some 0.3 s in which Python does little else: better now than between two requests
        import pyarrow.parquet  # noqa: F401

        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        return sum(list(self._sizes.values()))

    def add(self, segment: Path) -> None:
        """Ship this segment, which nobody writes to any more."""
        size = segment.stat().st_size
        if size == 0:  # opened, and stopped before the first answer
            segment.unlink()
            return
        self._sizes[segment] = size
        self._pending.append(segment)
        self._wake.set()

    def close(self, within: float) -> bool:
        """Ship the rest, for ``within`` seconds or until the first failure; says whether nothing is under way any more."""
        self._closing.set()
        self._wake.set()
        self._thread.join(within)
        return not self._thread.is_alive()

    def _run(self) -> None:
        delay = BACKOFF_SECONDS[0]
        while True:
            if not self._pending:
                if self._closing.is_set():
                    return
                self._wake.wait()
                self._wake.clear()
            elif self._try(self._pending[0]):
                self._sizes.pop(self._pending.popleft())
                delay = BACKOFF_SECONDS[0]
            elif self._closing.wait(delay * random.uniform(0.5, 1)):  # noqa: S311 - no secret
                return
            else:
                delay = min(2 * delay, BACKOFF_SECONDS[1])

    def _try(self, path: Path) -> bool:
        """Whether this segment needs no further try."""
        try:
            self._ship(path)
        except BadData as error:
            aside = path.rename(path.with_suffix(".damaged"))
            _log.error("prediction log: %s; set aside as %s", error, aside.name)
            self._metrics.lose("damaged", 1)
        except MlopsError as error:
            _log.warning("prediction log: %s was not shipped, trying again: %s", path.name, error)
            return False
        except Exception:
            _log.exception("prediction log: %s was not shipped, trying again", path.name)
            return False
        return True

    def _ship(self, path: Path) -> None:
        segment = segments.read(path)
        header, sidecar = segment.header, path.with_suffix(".key")
        if segment.answers:
            table = to_table(header.model, header.release, header.inputs, segment.answers)
            data = encode_table(table)
            while (key := self._choose_key(sidecar, header)) is not None and not self._upload(key, data, sidecar):
                time.sleep(0.01)
            self._shipped(header, table)
        self._metrics.ship(len(segment.answers))
        self._metrics.lose("torn", segment.torn)
        path.unlink()  # before the name is forgotten: without it the segment would be shipped twice
        sidecar.unlink(missing_ok=True)

    def _choose_key(self, sidecar: Path, header: segments.Header) -> str | None:
        """The name to upload under, or None if the upload under an earlier one has succeeded after all."""
        now = self._clock()
        if sidecar.exists():
            earlier = sidecar.read_text()
            if timedelta(0) <= now - shipped_at(earlier) < FRESH:
                return earlier
            try:
                self._objects.create(earlier, TOMBSTONE)
            except AlreadyExists:
                return None
        key = object_key(header.model, now, header.release, header.replica, header.sequence)
        _write_durably(sidecar, key)
        return key

    def _upload(self, key: str, data: bytes, sidecar: Path) -> bool:
        """Whether the segment is in the object store now; otherwise its name was given up, and it needs another."""
        try:
            self._objects.create(key, data)
        except AlreadyExists:
            # the name holds this very segment, written by another version of pyarrow, or nothing
            if self._objects.get(key) == TOMBSTONE:
                sidecar.unlink()
                return False
        return True


def _write_durably(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)  # a name that a power cut takes back is chosen anew, and the segment shipped twice
