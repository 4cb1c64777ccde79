"""Validated data as Parquet in the object store: one object a day of a dataset, and content-addressed sets.

``tables/<model>/<dataset>/<YYYY-MM-DD>.parquet`` and ``tables/<model>/sets/<sha256>.parquet``.
"""

import hashlib
import io
from collections.abc import Iterable
from datetime import date

import pandas as pd

from mlops_assets.core.errors import DigestMismatch
from mlops_assets.ports import ObjectStore


def to_parquet(rows: pd.DataFrame) -> bytes:
    """Parquet with times in microseconds, which Feast and DuckDB agree on; the same rows give the same bytes."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False, coerce_timestamps="us", allow_truncated_timestamps=True, compression="zstd")
    return buffer.getvalue()


def write_day(objects: ObjectStore, model: str, dataset: str, day: date, rows: pd.DataFrame) -> str:
    """Replace one day of a dataset; returns the sha256 of its content."""
    data = to_parquet(rows)
    objects.put(_day_key(model, dataset, day), data)
    return hashlib.sha256(data).hexdigest()


def read_days(objects: ObjectStore, model: str, dataset: str, start: date, end: date) -> pd.DataFrame:
    """The rows of the days in ``[start, end]`` that exist, in order; an empty frame if none does."""
    frames = [
        pd.read_parquet(io.BytesIO(objects.get(info.key)))
        for info in objects.list(f"tables/{model}/{dataset}/")
        if start <= _day_of(info.key) <= end
    ]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def days(objects: ObjectStore, model: str, dataset: str) -> tuple[date, ...]:
    """The days of a dataset that were written, in order."""
    return tuple(_day_of(info.key) for info in objects.list(f"tables/{model}/{dataset}/"))


def write_set(objects: ObjectStore, model: str, rows: pd.DataFrame) -> str:
    """Keep rows under their own sha256, once and for ever; returns it."""
    data = to_parquet(rows)
    digest = hashlib.sha256(data).hexdigest()
    objects.create(_set_key(model, digest), data)
    return digest


def read_set(objects: ObjectStore, model: str, digest: str) -> pd.DataFrame:
    """The rows kept under ``digest``.

    Raises:
        DigestMismatch: if the stored bytes are not those that were written.
    """
    data = objects.get(_set_key(model, digest))
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise DigestMismatch(
            f"{_set_key(model, digest)}: got sha256 {found}, expected {digest}: restore the object from its earlier version"
        )
    return pd.read_parquet(io.BytesIO(data))


def digests(frames: Iterable[str]) -> str:
    """One digest of several, in order."""
    return hashlib.sha256("\n".join(frames).encode()).hexdigest()


def _day_key(model: str, dataset: str, day: date) -> str:
    return f"tables/{model}/{dataset}/{day.isoformat()}.parquet"


def _set_key(model: str, digest: str) -> str:
    return f"tables/{model}/sets/{digest}.parquet"


def _day_of(key: str) -> date:
    return date.fromisoformat(key.rsplit("/", 1)[1].removesuffix(".parquet"))
