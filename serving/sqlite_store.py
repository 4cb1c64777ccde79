"""Online features from the SQLite file that Feast writes: the embedded default, on one machine."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mlops_assets.adapters.online_layout import Held, entity_key, read_sqlite, sqlite_query
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.feature_views import View
from serving.online_features import Key


class SqliteStore:
    """A :class:`serving.online_features.OnlineStore`. It reads in a thread, since a writer may hold the file.

    Args:
        file: Feast's.
        views: what is read.
        timeout: how long to wait for a writer, in seconds.
    """

    def __init__(self, file: Path, views: Sequence[View], timeout: float) -> None:
        self._file, self._timeout = file, timeout
        self._views: dict[str, list[View]] = defaultdict(list)
        for view in views:
            self._views[view.entity].append(view)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def read(self, keys: Sequence[Key]) -> Sequence[Sequence[Held | None]]:
        return await asyncio.to_thread(self._read, keys)

    def give_up(self) -> None:
        """A file has no connection worth ending."""

    def _read(self, keys: Sequence[Key]) -> list[list[Held | None]]:
        kinds = dict.fromkeys(kind for kind, _ in keys)
        try:
            with self._lock:
                found = {
                    (kind, view.name): self._select(view, [value for other, value in keys if other == kind])
                    for kind in kinds
                    for view in self._views[kind]
                }
        except sqlite3.Error as error:
            raise Unavailable(f"the online store {self._file.name} says: {error}; has online_features been materialized?") from error
        return [
            [read_sqlite(view, found[kind, view.name].get(entity_key(kind, value), ())) for view in self._views[kind]]
            for kind, value in keys
        ]

    def _select(self, view: View, values: Sequence[str]) -> dict[bytes, list[tuple[str, bytes, int]]]:
        if self._connection is None:
            address = f"{self._file.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(address, uri=True, timeout=self._timeout, check_same_thread=False)
        rows: dict[bytes, list[tuple[str, bytes, int]]] = defaultdict(list)
        asked = [entity_key(view.entity, value) for value in values]
        for entity, *row in self._connection.execute(sqlite_query(view, len(asked)), asked):
            rows[entity].append(tuple(row))
        return rows
