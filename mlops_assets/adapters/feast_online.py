"""The online store behind Feast, SQLite or Redis, and what was last written to it."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.adapters.feast_mirror import replace_rows, schema_digest
from mlops_assets.adapters.online_layout import PROJECT
from mlops_assets.core.errors import SpecError, Unavailable
from mlops_assets.core.feature_views import View

_MARKS = f"{PROJECT}_written"
"""Where a store says which copy is true of it."""


class OnlineStore:
    """Where Feast writes the newest values, and a copy of what it wrote, so that the next time only changes are written.

    Args:
        url: ``redis://[user:password@]host:port/db`` (``rediss`` with TLS), or ``sqlite:///path``.
        home: a folder for the copies. The store itself says which one is true of it, so it may be flushed, or filled by another machine.
    """

    def __init__(self, url: str, home: Path) -> None:
        self._url, self._home = _checked(url), home

    def configuration(self) -> dict[str, Any]:
        """What Feast's ``feature_store.yaml`` would say of it."""
        if self._url.scheme == "sqlite":
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return {"type": "sqlite", "path": str(self._file)}
        # With it Feast keeps what it has when a correction has the time of what it corrects.
        return {"type": "redis", "connection_string": _connection_string(self._url), "skip_dedup": True}

    def written(self, view: View) -> pd.DataFrame:
        """The rows that the store has of a view; none if nobody here knows."""
        copy = self._copy(view)
        if not copy.exists() or self._mark(view) != _digest(copy):
            return feature_rows.empty(view)
        return pd.read_parquet(copy)

    def remember(self, view: View, rows: pd.DataFrame) -> None:
        """These rows are what the store has from now on."""
        copy = self._copy(view)
        replace_rows(copy, view, rows)
        if self._url.scheme == "sqlite":
            with closing(sqlite3.connect(self._file)) as database, database:
                database.execute(f"CREATE TABLE IF NOT EXISTS {_MARKS} (view TEXT PRIMARY KEY, digest TEXT)")
                database.execute(f"INSERT OR REPLACE INTO {_MARKS} VALUES (?, ?)", (view.name, _digest(copy)))  # noqa: S608 : a constant
        else:
            with self._redis() as redis:
                redis.set(f"{_MARKS}:{view.name}", _digest(copy))

    @property
    def _file(self) -> Path:
        return Path(unquote(self._url.path))

    def _copy(self, view: View) -> Path:
        return self._home / f"{view.name}-{schema_digest(view)}.parquet"

    def _mark(self, view: View) -> str | None:
        if self._url.scheme == "sqlite":
            with closing(sqlite3.connect(self._file)) as database, suppress(sqlite3.OperationalError):  # no such table: nothing was written
                row = database.execute(f"SELECT digest FROM {_MARKS} WHERE view = ?", (view.name,)).fetchone()  # noqa: S608 : a constant
                return str(row[0]) if row else None
            return None
        with self._redis() as redis:
            mark: bytes | None = redis.get(f"{_MARKS}:{view.name}")
        return mark.decode() if mark else None

    @contextmanager
    def _redis(self) -> Iterator[Any]:
        import redis

        try:
            with redis.Redis.from_url(self._url.geturl()) as client:
                yield client
        except redis.RedisError as error:
            raise Unavailable(f"Redis at {self._url.hostname}:{self._url.port} does not answer ({error}): see that it runs") from error


def _checked(url: str) -> SplitResult:
    found = urlsplit(url)
    complete = found.path if found.scheme == "sqlite" else found.hostname and found.port
    if found.scheme not in ("redis", "rediss", "sqlite") or not complete:
        shown = found._replace(netloc=f"{found.hostname or ''}:{found.port or ''}").geturl() if found.password else url
        raise SpecError(f"MLOPS_ONLINE_URL: got {shown!r}, expected redis://host:port/db or sqlite:///path/to/store.db: correct it")
    return found


def _connection_string(url: SplitResult) -> str:
    """The address as Feast writes it, where commas part what is said."""
    said: dict[str, Any] = {"db": int(url.path.strip("/") or 0), "ssl": url.scheme == "rediss"}
    said |= {name: unquote(value) for name, value in (("username", url.username), ("password", url.password)) if value}
    if any("," in str(value) for value in said.values()):
        raise SpecError("MLOPS_ONLINE_URL: got a comma in the user or password, which Feast cannot take: choose another password")
    return ",".join([f"{url.hostname}:{url.port}", *(f"{name}={json.dumps(value)}" for name, value in said.items())])


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
