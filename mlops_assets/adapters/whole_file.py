"""Files that others may read at any moment: they see the old one or the new one, and never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A scratch file beside ``path``, whose folder is made; it takes its place when the block has ended well, and is gone if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)  # of an earlier process with our number
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace_file(path: Path, data: str | bytes, *, durable: bool = False, private: bool = False) -> None:
    """Write a file anew.

    Args:
        durable: whether it is to survive a loss of power.
        private: whether only its owner may read it.
    """
    with replaced(path) as scratch:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
