"""One short demo for all tests of this folder, which follow its story."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mlops_assets.adapters.local import local_platform
from mlops_assets.definitions import load_specs
from mlops_assets.demo import play as demo
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from tests.servers import free_base_port


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Story]:
    """The demo's stack, on its own folder and ports, before anything has happened. It ends with its tests: others need the machine."""
    home = tmp_path_factory.mktemp("e2e")
    settings = Settings(Path(home), free_base_port())
    before = dict(os.environ)
    os.environ.update(demo.ENVIRONMENT | {"MLOPS_HOME": str(home), "MLOPS_BASE_PORT": str(settings.base_port)})
    stack = Stack(settings)
    try:
        stack.up()
        spec = next(spec for spec in load_specs() if spec.name == demo.MODEL)
        told = demo.Story(settings, local_platform(settings), spec, Console())
        yield told
        told.traffic.stop()
    finally:
        stack.down()
        os.environ.clear()
        os.environ.update(before)
