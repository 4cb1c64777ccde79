"""The feature views on this machine, where Feast can read them: a checked copy of what the object store has, and the lock on it."""

import fcntl
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.adapters.whole_file import replaced
from mlops_assets.core.errors import BadData
from mlops_assets.core.feature_views import View
from mlops_assets.ports import ObjectInfo, ObjectStore

_NO_DAY = "0.parquet"
"""A file without rows, so that a folder always has one."""

PREFIX = "tables/features"
"""Where the object store has the views: ``<view>/<YYYY-MM-DD>.parquet`` below it."""


@dataclass(frozen=True)
class Mirror:
    """The views' rows on this machine: a folder a view, and in it one checked file a day."""

    home: Path
    objects: ObjectStore

    def path(self, view: View) -> Path:
        """The folder of a view: its files, in the order of their names, are its rows."""
        return self.home / "days" / f"{view.name}-{schema_digest(view)}"

    def read(self, view: View) -> pd.DataFrame:
        return pd.read_parquet(self.path(view))

    def sync(self, view: View) -> None:
        """Fetch the days whose etag is new, and forget those that are gone."""
        folder = self.path(view)
        wanted = {_day_file(info): info for info in self.objects.list(f"{PREFIX}/{view.name}/")}
        held = {path.name for path in folder.glob("*.parquet")} - {_NO_DAY}
        if not (folder / _NO_DAY).exists():
            replace_rows(folder / _NO_DAY, view, feature_rows.empty(view))
        for name in wanted.keys() - held:
            self._fetch(view, wanted[name].key, folder / name)
        for name in held - wanted.keys():
            (folder / name).unlink(missing_ok=True)

    def _fetch(self, view: View, key: str, path: Path) -> None:
        """A day as it is stored, or, if that was by other definitions, in the view's columns and types."""
        data = self.objects.get(key)
        if is_in_schema(view, data):
            with replaced(path) as scratch:
                scratch.write_bytes(data)
            return
        try:
            replace_rows(path, view, feature_rows.conform(view, pd.read_parquet(io.BytesIO(data))))
        except BadData as error:
            raise BadData(f"{key}: {error}") from error


class HomeLock:
    """A lock between processes: many readers or one writer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._held(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._held(fcntl.LOCK_EX):
            yield

    @contextmanager
    def _held(self, kind: int) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as handle:
            fcntl.flock(handle, kind)
            yield


def schema_digest(view: View) -> str:
    """Tells files of a view's present columns from those of its earlier ones."""
    columns = ",".join([*view.columns, *(field.type for field in view.fields)])
    return hashlib.sha256(columns.encode()).hexdigest()[:12]


def _day_file(info: ObjectInfo) -> str:
    """A name that says which day and which version of it a file holds."""
    etag = "".join(character for character in info.etag if character.isalnum())
    return f"{Path(info.key).stem}.{etag}.parquet"


def replace_rows(path: Path, view: View, rows: pd.DataFrame) -> None:
    """Write rows of a view at once, with the types spelled out: of a column of nulls alone Parquet would not know its type."""
    with replaced(path) as scratch:
        rows.to_parquet(scratch, index=False, schema=_schema(view))


def to_parquet(view: View, rows: pd.DataFrame) -> bytes:
    """Conformed rows of a view as a file that :func:`is_in_schema`."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False, schema=_schema(view))
    return buffer.getvalue()


def is_in_schema(view: View, data: bytes) -> bool:
    """Whether a Parquet file has the view's columns and types, and so needs no second look."""
    import pyarrow.parquet as pq

    found = pq.read_schema(io.BytesIO(data))
    expected = _schema(view)
    return bool(found.names == expected.names and found.types == expected.types)


def _schema(view: View) -> Any:
    import pyarrow as pa

    types = {name: pa.timestamp("us", tz="UTC") for name in feature_rows.TIMESTAMPS} | {view.entity: pa.string()}
    types |= {field.name: pa.float64() if field.type == "float" else pa.string() for field in view.fields}
    return pa.schema([(name, types[name]) for name in view.columns])
