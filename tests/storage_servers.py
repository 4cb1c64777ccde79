"""Real storage for tests: SeaweedFS, and an MLflow server that keeps its artifacts there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlops_assets import credentials
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from tests.servers import free_base_port


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _stack(settings: Settings, *services: str) -> Iterator[Settings]:
    stack = Stack(settings, services)
    try:
        stack.up()
        yield settings
    finally:
        stack.down()


@contextmanager
def _running_s3(settings: Settings) -> Iterator[Settings]:
    with _stack(settings, "s3"), _environment(credentials.read(settings.home).environment()):
        yield settings


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A running SeaweedFS with the platform's buckets, at ``settings.s3_url``; its credentials are in the environment."""
    with _running_s3(Settings(tmp_path_factory.mktemp("s3"), free_base_port())) as settings:
        yield settings


@pytest.fixture
def empty_s3(tmp_path: Path) -> Iterator[Settings]:
    """As ``s3``, and nobody else has written to it."""
    with _running_s3(Settings(tmp_path / "s3", free_base_port())) as settings:
        yield settings


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A running MLflow at ``settings.mlflow_url``, with SQLite and artifacts in a SeaweedFS of its own."""
    settings = Settings(tmp_path_factory.mktemp("mf"), free_base_port())
    with _stack(settings, "s3", "mlflow"):
        yield settings
