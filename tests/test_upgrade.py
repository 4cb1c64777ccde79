"""The state of the first version that ran, written by its own code, is taken over by this one: registry, traffic and history."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from mlops_assets import credentials
from mlops_assets.adapters.codec import decode
from mlops_assets.adapters.envoy_state import read_state
from mlops_assets.adapters.local import local_platform
from mlops_assets.adapters.memory_deployments import MemoryDeployments, onnx_predictors
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.core import policy_changes
from mlops_assets.core.evidence import Observation
from mlops_assets.core.policy import Author
from mlops_assets.core.routing import route
from mlops_assets.migrate import migrate
from mlops_assets.ports import Platform
from mlops_assets.records import NOUNS, records_of, write_missing
from mlops_assets.rollout import look, running_key
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from tests.servers import free_base_port

FOUNDATION = "17dcf57"
MODEL, ADA = "flight-delay", Author("ada", "after the upgrade")
SPEC: Any = SimpleNamespace(slug="flight_delay", name=MODEL)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the foundation."""
    folder = tmp_path_factory.mktemp("old")
    packed = subprocess.run(["git", "archive", FOUNDATION, "mlops_assets", "serving"], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode != 0:
        pytest.skip(f"the history does not reach back to {FOUNDATION}: 'git fetch --unshallow'")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return folder


@pytest.fixture(scope="module")
def taken_over(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of a home whose state the old code wrote and ``mlops migrate`` went over, and what the old code said of it."""
    settings = Settings(tmp_path_factory.mktemp("up"), free_base_port())
    stack = Stack(settings, ("s3",))
    stack.up()
    try:
        environment = {**os.environ, **credentials.read(settings.home).environment(), "PYTHONPATH": str(old), "PYTHONSAFEPATH": "1"}
        written = settings.home / "state"
        command = [sys.executable, str(ROOT / "tests" / "foundation_state.py"), str(written), settings.s3_url]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=old)
        assert done.returncode == 0, done.stderr
        for folder in ("envoy", "mlflow", "dagster"):
            for path in (written / folder).rglob("*"):
                target = settings.home / folder / path.relative_to(written / folder)
                if path.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
        migrate(settings, lambda _: None)
        yield settings, json.loads(done.stdout.splitlines()[-1])
    finally:
        stack.down()


@pytest.fixture
def platform(taken_over: Any) -> Platform:
    return local_platform(taken_over[0])


def test_the_policy_and_its_whole_history_are_read(taken_over: Any, platform: Platform) -> None:
    policy, told = platform.policies.read(MODEL), taken_over[1]
    assert (list(policy.champions), dict(policy.weights), policy.generation) == (told["champions"], told["weights"], told["generation"])
    assert [[change.generation, change.action, change.release] for change in policy.log] == told["log"]
    assert policy.retired_at is None


def test_every_unit_is_answered_by_the_release_that_answered_it(taken_over: Any, platform: Platform) -> None:
    settings, told = taken_over
    policy, before = platform.policies.read(MODEL), read_state(settings.home / "envoy")[MODEL].active
    assert before is not None
    now = route(policy, dict(before.endpoints), platform.clock())
    assert now == before
    assert [[share.release, share.start, share.end] for share in now.shares] == told["shares"]


def test_dagster_has_each_change_once(taken_over: Any, platform: Platform) -> None:
    settings, policy = taken_over[0], platform.policies.read(MODEL)
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        assert write_missing(instance, SPEC, policy, 0) == policy.generation
        recorded: Counter[tuple[str, str | None, int]] = Counter()
        for noun in {*NOUNS.values(), "production"}:
            page = instance.fetch_materializations(dg.AssetKey([SPEC.slug, noun]), limit=100)
            made = [record.asset_materialization for record in page.records if record.asset_materialization]
            recorded.update((noun, one.partition, one.metadata["generation"].value) for one in made)
        assert recorded == Counter((r.noun, r.partition, r.change.generation) for change in policy.log for r in records_of(change))
        assert instance.get_dynamic_partitions("flight_delay_releases") == ["v1", "v2", "v3"]


def test_the_registry_is_kept(taken_over: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(taken_over[0].mlflow_database)
    assert client.get_model_version_by_alias(MODEL, "champion").version == 2
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 3


def test_a_canary_under_way_counts_its_step_anew(platform: Platform) -> None:
    """What that version counted is less than what decides now; half of it would look like harm."""
    policy = platform.policies.read(MODEL)
    key = running_key(policy)
    before = decode(Observation, platform.objects.get(key), key)
    assert before.traffic["v3"].requests == 4
    canary = SimpleNamespace(guardrails=SimpleNamespace(max_brier_increase=None))
    gateway = MemoryGateway(MemoryDeployments(onnx_predictors(platform.objects)), MemoryPredictionLog(), platform.clock)
    seen = look(replace(platform, gateway=gateway), SimpleNamespace(name=MODEL, canary=canary), policy)  # type: ignore[arg-type]
    assert (dict(seen.traffic), seen.since > before.since) == ({}, True)


def test_the_operator_acts_on_it_as_before(platform: Platform) -> None:
    policy = platform.policies.read(MODEL)
    rolled_back = policy_changes.rollback(policy, ADA, platform.clock())
    platform.policies.write(rolled_back, policy.generation)
    assert platform.policies.read(MODEL) == rolled_back
    assert (rolled_back.champion, rolled_back.weights) == ("v1", {"v1": 100})
