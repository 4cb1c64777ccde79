"""A real Postgres for tests, from a wheel. It listens on a unix socket alone, and stops with the tests."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest


class PostgresServer:
    """One server; each test takes databases of its own."""

    def __init__(self, folder: Path) -> None:
        # pgserver makes a user of that name if it is run by root, who may run no Postgres.
        import pgserver

        self._server = pgserver.get_server(folder, cleanup_mode="delete")
        self.binaries = Path(pgserver._commands.POSTGRES_BIN_PATH)

    def create(self, name: str) -> str:
        """A new, empty database; its address."""
        self.execute(f'CREATE DATABASE "{name}"')
        return urlsplit(self._server.get_uri())._replace(scheme="postgresql+psycopg2", path=f"/{name}").geturl()

    def execute(self, statement: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self._server.get_uri())
        try:
            connection.autocommit = True
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def stop(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running Postgres, with its programs (``pg_dump``) on the path."""
    server = PostgresServer(tmp_path_factory.mktemp("pg"))
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{server.binaries}{os.pathsep}{path}"
    yield server
    os.environ["PATH"] = path
    server.stop()


@pytest.fixture
def databases(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Empty databases for Dagster and MLflow, and the environment that names them."""
    name = uuid4().hex[:12]
    urls = postgres.create(f"dagster-{name}"), postgres.create(f"mlflow-{name}")
    monkeypatch.setenv("MLOPS_DAGSTER_DATABASE_URL", urls[0])
    monkeypatch.setenv("MLOPS_MLFLOW_DATABASE_URL", urls[1])
    return urls
