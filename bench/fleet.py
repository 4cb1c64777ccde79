"""A thousand models in one code location: what loading them costs, and what each shared sensor's tick costs with all in canary.

``python -m bench.fleet [--models 1000]`` writes ``bench/results/fleet.json``, prints the figures beside their limits, and exits with 1
if one is over. Limits hold for wall time; CPU time is beside it because on a busy machine it is what an idle one would have shown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from bench import canaries
from bench.figures import Figure, describe_machine, report
from mlops_assets.adapters.memory import (
    MemoryDeployments,
    MemoryGateway,
    MemoryObjectStore,
    MemoryPolicyStore,
    MemoryPredictionLog,
    MemoryRegistry,
)
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from mlops_assets.records import write_missing
from mlops_assets.scaffold import new_model
from mlops_assets.sensors import build_sensors

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "fleet.json"
LOAD_SECONDS, LOAD_MB, TICK_SECONDS = 40.0, 700.0, 10.0


def measure_load(models: int) -> list[Figure]:
    """Load a copy of the project with as many scaffolded ``defs.yaml`` files, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copytree(ROOT / "mlops_assets", project / "mlops_assets", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", project)
        (project / "feature_repo").mkdir()
        for number in range(models):
            new_model(f"model-{number:04}", project)
        command = [sys.executable, str(ROOT / "bench" / "code_location.py")]
        done = subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": folder}, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout)
        if not Path(found["module"]).is_relative_to(project):
            raise SystemExit(f"loaded {found['module']}, expected the copy in {folder}: is another mlops_assets first on the path?")
    served, loaded = found["laps"]["served"], found["laps"]["loaded"]
    assets, snapshot = f"{found['assets']} assets, until the code server answers", f"once for each client: {found['snapshot_mb']:.0f} MB"
    return [
        Figure("load", loaded["seconds"], "s", LOAD_SECONDS, note=f"{loaded['cpu_seconds']:.1f} s CPU, {assets}"),
        Figure("load, peak RSS", loaded["peak_rss_mb"], "MB", LOAD_MB),
        Figure("snapshot", served["seconds"] - loaded["seconds"], "s", note=snapshot),
        Figure("snapshot, peak RSS", served["peak_rss_mb"], "MB"),
    ]


class Fleet:
    """The models in canary on in-memory adapters, with a clock that stands still until it is moved."""

    def __init__(self, models: int) -> None:
        self.now = datetime.now(UTC)
        self.specs: Sequence[ModelSpec] = canaries.fleet(models)
        clock: Callable[[], datetime] = lambda: self.now  # noqa: E731
        log, deployments = MemoryPredictionLog(), MemoryDeployments(canaries.start_release)
        self.gateway = MemoryGateway(deployments, log, clock)
        stores = MemoryObjectStore(clock), MemoryPolicyStore(), MemoryRegistry(), MemoryFeatureStore()
        self.platform = Platform(clock, *stores, deployments, self.gateway, log)
        self.instance = dg.DagsterInstance.ephemeral()
        self.sensors = {sensor.name: sensor for sensor in build_sensors(self.specs)}
        self.cursors: dict[str, str | None] = dict.fromkeys(self.sensors)
        for spec in self.specs:
            write_missing(self.instance, spec, canaries.put_in_canary(self.platform, spec), 0)

    def look(self, name: str) -> dg.SensorResult:
        """One tick of a sensor; its runs are not made."""
        with dg.build_sensor_context(self.instance, cursor=self.cursors[name], resources={"platform": self.platform}) as context:
            result: dg.SensorResult = self.sensors[name](context)
        self.cursors[name] = result.cursor
        return result


def measure_tick(fleet: Fleet, name: str, when: str) -> Figure:
    started, cpu = time.perf_counter(), time.process_time()
    result = fleet.look(name)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    asked = f"{len(result.run_requests or ())} runs, {len(result.asset_events)} events"
    note = f"{cpu:.1f} s CPU, {asked}, cursor {len(result.cursor or '') / 1e3:.0f} kB"
    return Figure(f"tick {name}, {when}", seconds, "s", TICK_SECONDS, note=note)


def measure_ticks(models: int) -> list[Figure]:
    """Each sensor's first tick with an empty cursor, and one when every canary is ready to advance."""
    fleet = Fleet(models)
    first = [measure_tick(fleet, name, "first") for name in fleet.sensors]
    canaries.send(fleet.gateway, fleet.specs, fleet.now)
    fleet.now += timedelta(days=2)
    later = [measure_tick(fleet, name, "all decided") for name in fleet.sensors]
    return [*first, *later]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    models = parser.parse_args().models
    before = describe_machine()
    report(RESULT, {"models": models}, before, [*measure_load(models), *measure_ticks(models)])


if __name__ == "__main__":
    main()
