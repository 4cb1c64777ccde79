"""Where the join runs: one DuckDB within a memory limit, here or on another machine. Without Feast, so that a task there loads little."""

import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from mlops_assets.adapters.point_in_time import Rows, Span, join_query, quoted, span_query
from mlops_assets.core.errors import BadData, Unavailable

EVENTS = quoted("mlops events")
"""The name of the events of a connection."""


@dataclass(frozen=True)
class Limits:
    """What a join may take: see the configurations of the offline stores."""

    memory_limit: str
    temp_directory: str | None
    threads: int | None


@contextmanager
def connection(limits: Limits, events: pa.Table | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with the events, if they are a table, and a temporary folder of its own for what does not fit into memory."""
    with tempfile.TemporaryDirectory(prefix="mlops-join-", dir=limits.temp_directory) as folder, _duckdb_errors(limits):
        options: dict[str, Any] = {"memory_limit": limits.memory_limit, "temp_directory": folder}
        options |= {"threads": limits.threads} if limits.threads else {}
        with duckdb.connect(config=options) as opened:
            opened.execute("SET TimeZone = 'UTC'")  # times without a zone are UTC, as Feast takes them
            if events is not None:
                opened.register("mlops events", events)
            yield opened


def join_slice(events: pa.Table, asked_at: str, views: Sequence[Rows], limits: Limits) -> pa.Table:
    """Some of the events with their values, in their order; of the views only what these events can see is read.

    Raises:
        Unavailable: if this machine does not have the files of the views, or too little memory and disk.
    """
    missing = [file for view in views for file in view.files if not Path(file).exists()]
    if missing:
        raise Unavailable(f"{platform.node()} has no {missing[0]}: mount the folder of the views there too, at the same path")
    with connection(limits, events) as opened:
        first, last, count = opened.execute(span_query(EVENTS, asked_at)).fetchall()[0]
        span = Span(first, last, count) if first else None
        return opened.sql(join_query(EVENTS, events.column_names, asked_at, views, span)).to_arrow_table()


@contextmanager
def _duckdb_errors(limits: Limits) -> Iterator[None]:
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        mend = f"raise memory_limit ({limits.memory_limit}) in feature_store.yaml, or make room in its temp_directory"
        raise Unavailable(f"DuckDB could not join the features: {error}; {mend}, and try again") from error
    except duckdb.Error as error:
        raise BadData(f"DuckDB could not join the features: {error}; mend the events or the rows of the view") from error
