"""Copies of the databases of Dagster and MLflow, taken while they are in use, and brought back: SQLite files, or Postgres."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlops_assets.adapters.whole_file import replaced
from mlops_assets.core.errors import MlopsError, Unavailable

DUMP = "dump"
_WAIT_SECONDS = 60.0
_PATIENCE_SECONDS = 4 * 3600
"""For a whole dump: longer than that is a server that hangs."""


class Database(Protocol):
    """One database, by a name that is a folder of the backup."""

    name: str

    def copy(self, folder: Path) -> None:
        """Copy it as of one moment. Whoever uses it goes on."""
        ...

    def load(self, folder: Path) -> None:
        """Put what :meth:`copy` wrote in its place, all or nothing of each file."""
        ...

    def is_empty(self) -> bool:
        """Whether it holds nothing that somebody would miss."""
        ...

    def users(self) -> int:
        """How many others are connected, where that can be told; 0 else."""
        ...


@dataclass(frozen=True)
class SqliteFiles:
    """SQLite files below a folder.

    Args:
        name: of the backup's folder.
        root: the folder; it need not exist.
        order: patterns of the files below it, copied in this order: what others refer to comes last.
        tells: tables of which a row says that something is there, whichever file has them.
    """

    name: str
    root: Path
    order: Sequence[str]
    tells: Sequence[str]

    def copy(self, folder: Path) -> None:
        for file in self._files():
            target = folder / file.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            with closing(_opened(file)) as source, closing(sqlite3.connect(target)) as copied:
                source.backup(copied)
                # a copy is one file: no log beside it that could be left behind
                copied.execute("PRAGMA journal_mode=DELETE")

    def load(self, folder: Path) -> None:
        for file in self._files():
            for beside in ("", "-wal", "-shm", "-journal"):
                file.with_name(file.name + beside).unlink(missing_ok=True)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = self.root / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced(target) as scratch:
                shutil.copyfile(file, scratch)

    def is_empty(self) -> bool:
        return not any(self._tells(file) for file in self._files())

    def users(self) -> int:
        return 0

    def _files(self) -> list[Path]:
        """In the order of the patterns, each once."""
        return list(dict.fromkeys(path for pattern in self.order for path in sorted(self.root.glob(pattern)) if path.is_file()))

    def _tells(self, file: Path) -> bool:
        with closing(_opened(file)) as opened:
            there = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return any(opened.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone() for table in self.tells if table in there)  # noqa: S608


def _opened(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)


@dataclass(frozen=True)
class PostgresDatabase:
    """A Postgres database, by the server's own ``pg_dump`` and ``pg_restore``, which must be at least as new as the server.

    Args:
        name: of the backup's folder.
        url: as SQLAlchemy reads it. Its password goes to the programs by their environment, and is in no message.
        tells: tables of which a row says that something is there.
    """

    name: str
    url: str
    tells: Sequence[str]

    def copy(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={folder / DUMP}")

    def load(self, folder: Path) -> None:
        options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
        self._run("pg_restore", *options, f"--dbname={self._environment()['PGDATABASE']}", str(folder / DUMP))

    def is_empty(self) -> bool:
        there = {name for (name,) in self.ask("SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()")}
        return not any(self.ask(f'SELECT 1 FROM "{table}" LIMIT 1') for table in self.tells if table in there)  # noqa: S608

    def users(self) -> int:
        ((others,),) = self.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        return int(str(others))

    def ask(self, query: str) -> list[tuple[object, ...]]:
        """The rows of a query.

        Raises:
            Unavailable: if the server does not answer or refuses; without the address, which has a password.
        """
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        try:
            with create_engine(self.url, poolclass=NullPool).connect() as connection:
                return [tuple(row) for row in connection.execute(text(query))]
        except SQLAlchemyError as error:
            told = " ".join(str(getattr(error, "orig", None) or error).split())
            raise Unavailable(f"the Postgres database of {self.name} does not answer: {told}. See that it runs") from error

    def _run(self, program: str, *options: str) -> None:
        try:
            done = subprocess.run(
                [program, *options], env=self._environment(), capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS
            )
        except FileNotFoundError as error:
            raise MlopsError(f"there is no {program} on the path: install Postgres' client (Debian: postgresql-client)") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{program} of {self.name} was not done after {_PATIENCE_SECONDS // 3600} h: see the server's log") from error
        if done.returncode != 0:
            raise Unavailable(f"{program} of {self.name} ended with {done.returncode}: {done.stderr.strip()[-800:]}")

    def _environment(self) -> dict[str, str]:
        """What libpq reads: nothing of it is on a command line."""
        from sqlalchemy import make_url

        url = make_url(self.url)
        host: str | None = url.host
        query: Mapping[str, object] = url.query
        told = {"PGHOST": host or query.get("host"), "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
        told |= {"PGDATABASE": url.database, "PGSSLMODE": query.get("sslmode"), "PGSSLROOTCERT": query.get("sslrootcert")}
        return {**os.environ, **{name: str(value) for name, value in told.items() if value}}
