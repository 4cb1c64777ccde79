"""Segments: the files in which answers wait on disk until they are shipped.

``<home>/predictions/<model>/<release>/<replica>-<sequence>.jsonl``: a line is a checksum and JSON, the first one a :class:`Header`.
Beside it lies ``.key`` once a name in the object store was chosen for it, and ``<replica>.lock``, which its process holds: whose lock
is free has ended, and another process may ship what he left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from mlops_assets.adapters.prediction_log import Answer, LoggedInput
from mlops_assets.core.errors import BadData

_CHECKSUM_LENGTH = 8


@dataclass(frozen=True)
class Header:
    """What all answers of a segment have in common."""

    model: str
    release: str
    replica: str
    sequence: int
    inputs: tuple[LoggedInput, ...]


@dataclass(frozen=True)
class Segment:
    """A segment as it was read. ``torn`` lines were cut off or damaged and cannot be read."""

    header: Header
    answers: Sequence[Answer]
    torn: int


class Lease:
    """The right to a replica's segments, for as long as the process lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def new(cls, directory: Path) -> Lease:
        """A lease under a name that nobody had before."""
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            lease = cls._take(directory / f"{secrets.token_hex(4)}.lock")
            if lease is not None:
                return lease

    @classmethod
    def left(cls, home: Path) -> Iterator[Lease]:
        """The leases of processes that ended, of whichever release of this home."""
        for path in sorted(home.glob("predictions/*/*/*.lock")):
            lease = cls._take(path)
            if lease is not None:
                yield lease

    @classmethod
    def _take(cls, path: Path) -> Lease | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @property
    def replica(self) -> str:
        return self._path.stem

    def segment(self, sequence: int) -> Path:
        """Where this replica's segment of this number lies."""
        return self._path.with_name(f"{self.replica}-{sequence:06d}.jsonl")

    def segments(self) -> list[Path]:
        """Those that lie there now, oldest first."""
        return sorted(self._path.parent.glob(f"{self.replica}-*.jsonl"))

    def give_up(self) -> None:
        """Leave what is not shipped to the next process."""
        if not self.segments():
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def lines(records: Iterable[Header | Answer]) -> bytes:
    """Records as they are written, each on a line that can be checked on its own."""
    payloads = map(msgspec.json.encode, records)
    return b"".join(b"%08x %b\n" % (crc32(payload), payload) for payload in payloads)


def read(path: Path) -> Segment:
    """Read a segment; what is damaged, such as the last line after a crash, is left out and counted.

    Raises:
        BadData: if its first line cannot be read, so that nobody knows what it holds.
    """
    header, *answers = path.read_bytes().split(b"\n")
    if answers and not answers[-1]:
        answers.pop()
    try:
        known = _decode(header, Header)
        read_answers = [answer for line in answers if (answer := _decode(line, Answer, strict=False)) is not None]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadData(
            f"segment {path.name}: its lines are not of this version ({error}): ship it with the version that wrote it"
        ) from error
    if known is None:
        raise BadData(f"segment {path.name}: its first line is damaged, so its {len(answers)} answers cannot be told")
    return Segment(known, read_answers, len(answers) - len(read_answers))


def _decode(line: bytes, kind: type[Any], strict: bool = True) -> Any:
    """The record of a line, or None if its checksum says that it is damaged."""
    checksum, payload = line[:_CHECKSUM_LENGTH], line[_CHECKSUM_LENGTH + 1 :]
    return msgspec.json.decode(payload, type=kind, strict=strict) if checksum == b"%08x" % crc32(payload) else None
