"""A short demo on the real stack: a first release, a second through its canary, and a rollback with Dagster and MLflow stopped."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mlops_assets.adapters.local import local_platform
from mlops_assets.adapters.supervisor import SOCKET, Supervisor
from mlops_assets.core.policy import stage_of
from mlops_assets.definitions import load_specs
from mlops_assets.demo import play as demo
from mlops_assets.demo.report import instance_of
from mlops_assets.reconcile import differences
from mlops_assets.records import is_recorded, records_of
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from tests.servers import free_base_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Story]:
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


def test_two_releases_reach_production_and_a_rollback_needs_neither_dagster_nor_mlflow(story: demo.Story) -> None:
    demo.first_release(story)
    demo.second_release(story)
    assert [(step.name, step.reason) for step in story.steps if not step.ok] == []
    assert story.policy().champions == ("v1", "v2")

    supervisor = Supervisor(story.settings.home / SOCKET)
    for service in ("daemon", "webserver", "code", "mlflow"):
        supervisor.call("stopProcess", service)
    began = time.monotonic()
    command = [sys.executable, "-m", "mlops_assets", "rollback", demo.MODEL, "--reason", "a test of the night"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    time.sleep(2)

    assert story.policy().champion == "v1"
    assert story.traffic.last_answer["v2"] - began < demo.PATIENCE
    assert story.traffic.last_answer["v1"] > story.traffic.last_answer["v2"]
    assert story.traffic.failed == 0, story.traffic.answers


def test_what_was_done_by_hand_is_recorded_once_when_dagster_is_back(story: demo.Story) -> None:
    Stack(story.settings).up()
    policy = story.policy()
    deadline = time.monotonic() + 120
    with instance_of(story.settings) as instance:
        wanted = [record for change in policy.log for record in records_of(change)]
        while time.monotonic() < deadline and not all(is_recorded(instance, story.spec, record) for record in wanted):
            time.sleep(1)
        missing = [record for record in wanted if not is_recorded(instance, story.spec, record)]

    assert missing == []
    assert [d for d in differences(story.platform, demo.MODEL) if not d.what.startswith("release ")] == []
    assert {release: stage_of(policy, release) for release in policy.digests} == {"v1": "Production", "v2": "Archived"}
    assert story.platform.registry.release(demo.MODEL, "v1").tags["stage"] == "Production"
