"""The in-memory twin of :mod:`mlops_assets.adapters.prediction_log`."""

import threading
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from mlops_assets.adapters.prediction_log import KEY_COLUMNS
from mlops_assets.core.errors import BadData
from mlops_assets.ports import Predictions

_COLUMNS = ["request_id", "release", "role", "unit", "score", "decision", "latency_ms", "logged_at", "event_time", "model"]
_TYPES = {
    **dict.fromkeys(("request_id", "release", "role", "unit", "model"), "object"),
    **dict.fromkeys(("score", "latency_ms"), "float64"),
    **dict.fromkeys(("logged_at", "event_time"), "datetime64[us, UTC]"),
    "decision": "bool",
}


class MemoryPredictionLog:
    """A :class:`mlops_assets.ports.PredictionLog` in a list of tables. A position is the number of tables read."""

    def __init__(self) -> None:
        self._tables: dict[str, list[pd.DataFrame]] = {}
        self._lock = threading.Lock()

    def append(self, model: str, rows: pd.DataFrame) -> None:
        """Log answers.

        Raises:
            BadData: if a column other than those of features is missing.
        """
        missing = [name for name in _COLUMNS if name not in rows.columns and name != "model"]
        if missing:
            raise BadData(f"prediction log: columns {', '.join(missing)} are missing, got {', '.join(map(str, rows.columns))}: add them")
        table = rows.assign(model=model).astype(_TYPES).reset_index(drop=True)
        with self._lock:
            self._tables.setdefault(model, []).append(table)

    def read(self, model: str, after: str = "", columns: Sequence[str] | None = None, limit: int | None = None) -> Predictions:
        first = _parse(after)
        with self._lock:
            tables = self._tables.get(model, [])[first:]
        if limit is not None:
            before = np.cumsum([0, *map(len, tables)])[:-1]
            tables = tables[: int(np.searchsorted(before, limit))]
        new = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({name: pd.Series(dtype=_TYPES[name]) for name in _COLUMNS})
        rows = new.drop_duplicates(list(KEY_COLUMNS), ignore_index=True)
        if columns is not None:
            rows = rows.assign(**{name: np.nan for name in columns if name not in rows.columns})[list(columns)]
        end = first + len(tables)
        return Predictions(rows, str(end) if end else "")

    def find(self, model: str, request_id: str, since: datetime) -> pd.DataFrame:
        rows = self.read(model).rows
        found = rows[(rows["request_id"] == request_id) & (rows["logged_at"] >= since)]
        return found.sort_values("logged_at", ascending=False, kind="stable").drop_duplicates(list(KEY_COLUMNS), ignore_index=True)

    def position(self, model: str, at: datetime | None = None) -> str:
        with self._lock:
            tables = self._tables.get(model, [])
        older = [table for table in tables if at is not None and len(table) and table["logged_at"].max() < at]
        end = len(older) if at is not None else len(tables)
        return str(end) if end else ""

    def newest(self, model: str, since: datetime) -> datetime | None:
        with self._lock:
            times = [table["logged_at"].max().to_pydatetime() for table in self._tables.get(model, []) if len(table)]
        return max((at for at in times if at > since), default=None)


def _parse(position: str) -> int:
    if not position:
        return 0
    if not position.isdecimal():
        raise BadData(f"position of the prediction log: got {position[:60]!r}, expected one that it gave out itself: begin with ''")
    return int(position)
