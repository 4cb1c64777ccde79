"""Segments: the files in which answers wait on disk until they are shipped.

``<home>/predictions/<model>/<release>/<replica>-<sequence>.frames``. A frame is what was written at once: a mark, its length, its number
of answers, a checksum, and MessagePack; the first one is the :class:`Header`. Beside it lies ``.key`` once a name in the object store was
chosen for it, and ``<replica>.lock``, which its process holds: whose lock is free has ended, and another process may ship what he left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import msgspec

from mlops_assets.adapters.prediction_log import Answer, LoggedInput
from mlops_assets.core.errors import BadData

SUFFIX = ".frames"
_EARLIER_SUFFIX = ".jsonl"

_MARK = b"\xc1PL2"
"""0xC1 is in no MessagePack and in no UTF-8, so what follows a damaged frame is found again."""

_PREFIX = struct.Struct("<4sIII")
_encode = msgspec.msgpack.Encoder().encode
_decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode


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
    """A segment as it was read. ``torn`` answers, or more, were cut off or damaged and cannot be read."""

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
        return self._path.with_name(f"{self.replica}-{sequence:06d}{SUFFIX}")

    def segments(self) -> list[Path]:
        """Those that lie there now, oldest first; an earlier version's too, which :func:`read` refuses."""
        found = self._path.parent.glob(f"{self.replica}-*")
        return sorted(path for path in found if path.suffix in (SUFFIX, _EARLIER_SUFFIX))

    def give_up(self) -> None:
        """Leave what is not shipped to the next process."""
        if not self.segments():
            for kept in self._path.parent.glob(f"{self.replica}-*.key"):  # of a process that was killed when it had just shipped
                kept.unlink()
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def header_frame(header: Header) -> bytes:
    """The first frame of a segment."""
    return _frame(_encode(header), 0)


def answers_frame(answers: Sequence[Answer]) -> bytes:
    """Answers that are written at once, and are all there or none."""
    return _frame(_encode(answers), len(answers))


def read(path: Path) -> Segment:
    """Read a segment; what is damaged, such as a frame that was being written at a crash, is left out and counted.

    Raises:
        BadData: if its first frame cannot be read, so that nobody knows what it holds.
    """
    data = path.read_bytes()
    if path.suffix == _EARLIER_SUFFIX:
        raise BadData(
            f"segment {path.name}: an earlier version wrote it and did not ship it: start a release of that version, then stop it"
        )
    header, answers, torn = None, [], 0
    try:
        for payload, count in _payloads(data):
            if payload is None:
                torn += count
            elif header is None:
                header = msgspec.msgpack.decode(payload, type=Header)
            else:
                answers += _decode_answers(payload)
    except msgspec.MsgspecError as error:
        raise BadData(
            f"segment {path.name}: its frames are not of this version ({error}): ship it with the version that wrote it"
        ) from error
    if header is None:
        raise BadData(f"segment {path.name}: its first frame is damaged, so its {len(data)} bytes cannot be told")
    return Segment(header, answers, torn)


def _frame(payload: bytes, answers: int) -> bytes:
    return _PREFIX.pack(_MARK, len(payload), answers, crc32(payload, answers)) + payload


def _payloads(data: bytes) -> Iterator[tuple[memoryview | None, int]]:
    """The frames' payloads, each with its number of answers; None for what is damaged, with how many it seems to have held."""
    view, place = memoryview(data), 0
    while place < len(data):
        count = 1
        if data.startswith(_MARK, place) and place + _PREFIX.size <= len(data):
            _, length, count, checksum = _PREFIX.unpack_from(data, place)
            end = place + _PREFIX.size + length
            payload = view[place + _PREFIX.size : end]
            if len(payload) == length and crc32(payload, count) == checksum:
                yield payload, count
                place = end
                continue
        after = data.find(_MARK, place + 1)
        after = len(data) if after < 0 else after
        yield None, max(1, min(count, after - place))
        place = after
