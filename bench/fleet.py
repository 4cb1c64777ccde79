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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from bench import canaries
from bench.figures import describe_machine
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


@dataclass(frozen=True)
class Figure:
    """A measured value beside the most that it may be; without a limit it is told and not judged."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    cpu_seconds: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.limit else None

    @property
    def is_over(self) -> bool:
        return self.ratio is not None and self.ratio > 1


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
        Figure("load", loaded["seconds"], "s", LOAD_SECONDS, loaded["cpu_seconds"], assets),
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
    note = f"{len(result.run_requests or ())} runs, {len(result.asset_events)} events, cursor {len(result.cursor or '') / 1e3:.0f} kB"
    return Figure(f"tick {name}, {when}", seconds, "s", TICK_SECONDS, cpu, note)


def measure_ticks(models: int) -> list[Figure]:
    """Each sensor's first tick with an empty cursor, and one when every canary is ready to advance."""
    fleet = Fleet(models)
    first = [measure_tick(fleet, name, "first") for name in fleet.sensors]
    canaries.send(fleet.gateway, fleet.specs, fleet.now)
    fleet.now += timedelta(days=2)
    later = [measure_tick(fleet, name, "all decided") for name in fleet.sensors]
    return [*first, *later]


def table(figures: Sequence[Figure]) -> str:
    lines = [f"{'figure':<32}{'value':>10}{'limit':>10}{'ratio':>7}{'CPU':>9}"]
    for figure in figures:
        limit = f"{figure.limit:.0f} {figure.unit}" if figure.limit else ""
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        cpu = f"{figure.cpu_seconds:.1f} s" if figure.cpu_seconds is not None else ""
        value = f"{figure.value:.1f} {figure.unit}"
        lines.append(f"{figure.name:<32}{value:>10}{limit:>10}{ratio:>7}{cpu:>9}  {'OVER  ' if figure.is_over else ''}{figure.note}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    models = parser.parse_args().models
    before = describe_machine()
    figures = [*measure_load(models), *measure_ticks(models)]
    result = {
        "models": models,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": before | {"load_average_after": [round(value, 1) for value in os.getloadavg()]},
        "figures": [asdict(figure) | {"ratio": figure.ratio} for figure in figures],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))  # type: ignore[attr-defined]
    print(table(figures))
    if any(figure.is_over for figure in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
