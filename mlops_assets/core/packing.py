"""Whole numbers as a short text, for documents that hold many of them."""

import base64
import zlib
from collections.abc import Sequence

import numpy as np


def pack(numbers: Sequence[int] | np.ndarray) -> str:
    """Numbers as base64 of deflated little-endian int64; mostly small ones take about a byte each.

    >>> unpack(pack([3, -1, 5_000_000_000])).tolist()
    [3, -1, 5000000000]
    """
    return base64.b64encode(zlib.compress(np.asarray(numbers, dtype="<i8").tobytes(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    """What :func:`pack` packed, shape (numbers,)."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8").astype(np.int64)
