"""Dagster's event log on one machine, made cheap to write to."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage, SqliteEventLogStorageWatchdog
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool
from watchdog.events import FileSystemEvent
from watchdog.observers import Observer

_MOST_KEPT = 8
"""Files of runs that stay open. A process that looks at many runs closes the one that it used longest ago."""


class KeptSqliteEventLogStorage(SqliteEventLogStorage):
    """Dagster's own SQLite event log whose connections are kept.

    Dagster's class opens each file anew for each statement, and closes it: SQL is compiled again, and SQLite, whenever the last connection
    to a file is closed, copies its write-ahead log and waits for the disk twice. Here a file stays open, and a commit is not waited for
    (``synchronous=NORMAL``): a process that is killed loses nothing, a machine that loses power may lose its last events, and the
    files stay whole (https://www.sqlite.org/pragma.html#pragma_synchronous). What is live is in the policy store, not here (ADR 36).
    """

    def __init__(self, base_dir: str, inst_data: Any = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "KeptSqliteEventLogStorage":  # Dagster's makes one of its own class
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}  # the lock lets one thread in at a time
            engine = create_engine(self.conn_string_for_shard(shard), poolclass=QueuePool, pool_size=1, connect_args=arguments)
            event.listen(engine, "connect", _do_not_wait_for_the_disk)
            self._engines[shard] = engine
        self._engines.move_to_end(shard)
        while len(self._engines) > _MOST_KEPT:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[shard]

    def watch(self, run_id: str, cursor: str | None, callback: Any) -> None:
        """Tell ``callback`` of a run's events as they come, which is in the write-ahead log."""
        if not self._obs:
            self._obs = Observer()
            self._obs.start()
        handler = _Watchdog(self, run_id, callback, cursor)
        self._watchers[run_id][callback] = (handler, self._obs.schedule(handler, self._base_dir, recursive=True))

    def wipe(self) -> None:
        self._close()
        super().wipe()

    def dispose(self) -> None:
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class _Watchdog(SqliteEventLogStorageWatchdog):
    """Looks at a run when its file changes or the write-ahead log beside it."""

    def __init__(self, storage: SqliteEventLogStorage, run_id: str, callback: Any, cursor: str | None) -> None:
        super().__init__(storage, run_id, callback, cursor)
        self._patterns = [self._log_path, f"{self._log_path}-wal"]

    def on_modified(self, _: FileSystemEvent) -> None:
        self._process_log()


def _do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def config(dagster_home: Path) -> dict[str, Any]:
    """What ``dagster.yaml`` says of ``event_log_storage``: the files lie where Dagster's own class has them."""
    base = str(dagster_home / "history" / "runs")
    return {"module": __name__, "class": KeptSqliteEventLogStorage.__name__, "config": {"base_dir": base}}
