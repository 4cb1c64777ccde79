"""The segment that is being written."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

from serving import segments
from serving.segments import Header

SYNC_SECONDS = 1.0
MAX_SEGMENT_BYTES = 4 * 2**20
"""A segment is turned into Parquet in one go, beside requests that wait for the interpreter meanwhile."""

# os.write hands the interpreter to the threads that wait for it, and a release then waits for it in turn: for 0.5 to 4 ms if one of
# them ships, where the write takes 10 µs. PyDLL is ctypes' own way to call without doing so.
_libc_write = ctypes.PyDLL(None, use_errno=True).write
_libc_write.argtypes, _libc_write.restype = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t), ctypes.c_ssize_t

_SHORT_BYTES = 2**17


class SegmentFile:
    """A new segment, with its header.

    Args:
        path: of a file that does not exist.
        header: what its answers have in common.
        is_synced: whether each write reaches the disk before it returns, and not only the kernel.

    Raises:
        OSError: if it cannot be written; then there is no file.
    """

    def __init__(self, path: Path, header: Header, is_synced: bool) -> None:
        self.path, self.size, self.answers = path, 0, 0
        self._is_synced = is_synced
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._opened = self._synced = time.monotonic()
        try:
            self.write(segments.header_frame(header), 0)
            sync_directory(path.parent)
        except OSError:
            os.close(self._descriptor)
            path.unlink()
            raise

    def write(self, frame: bytes, answers: int) -> None:
        """Add a frame with so many answers; all of it or, with an :class:`OSError`, nothing."""
        try:
            is_short = not self._is_synced and len(frame) <= _SHORT_BYTES
            write, written = _write_at_once if is_short else os.write, 0
            while written < len(frame):  # the kernel may take only a part, and say why at the next one
                written += write(self._descriptor, frame[written:])
            if self._is_synced:
                os.fdatasync(self._descriptor)
        except OSError:
            os.truncate(self._descriptor, self.size)
            raise
        self.size += len(frame)
        self.answers += answers

    def is_full(self, seconds: float) -> bool:
        """Whether it has answers, and collected them for as long as it may, or as many."""
        return self.answers > 0 and (time.monotonic() - self._opened >= seconds or self.size >= MAX_SEGMENT_BYTES)

    def sync_if_due(self) -> None:
        """Bring to the disk what the kernel has had for ``SYNC_SECONDS``."""
        if not self._is_synced and time.monotonic() - self._synced >= SYNC_SECONDS:
            self._synced = time.monotonic()
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Bring it to the disk, and write no more."""
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def _write_at_once(descriptor: int, data: bytes) -> int:
    """``os.write`` that keeps the interpreter."""
    written: int = _libc_write(descriptor, data, len(data))
    if written >= 0:
        return written
    code = ctypes.get_errno()
    if code == errno.EINTR:
        return 0
    raise OSError(code, os.strerror(code))


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut, as ``fsync`` does with what is in a file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(directory: Path, size: int) -> None:
    """:class:`OSError` if the disk has no room for ``size`` bytes now."""
    probe = directory / ".room"
    try:
        with probe.open("wb", buffering=0) as file:
            rest = memoryview(bytes(size))
            while rest:
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())  # some file systems look for the room only now
    finally:
        probe.unlink(missing_ok=True)
