"""What the benches have in common: a figure beside its limit, the time that a process takes, and a report of all."""

import json
import os
import platform as machine
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Figure:
    """A measured value beside the least or the most that it may be; without a limit it is told and not judged."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    least: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.limit else None

    @property
    def is_broken(self) -> bool:
        return self.limit is not None and (self.value < self.limit if self.least else self.value > self.limit)


@dataclass(frozen=True)
class Lap:
    """``seconds`` of the processor, which are what one core of an idle machine takes, and ``wall`` seconds."""

    seconds: float
    wall: float


class Stopwatch:
    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def lap(self) -> Lap:
        return Lap(time.process_time() - self._cpu, time.perf_counter() - self._wall)


def peak_mb() -> float:
    """The most memory that this process has held. ``ru_maxrss`` would count what its parent held when it was forked."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def describe_machine() -> dict[str, object]:
    """Which machine this is, and how busy it is now."""
    return {
        "system": f"{machine.system()} {machine.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": machine.python_version(),
        "dagster": version("dagster"),
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), machine.machine())


def table(figures: Sequence[Figure]) -> str:
    lines = [f"{'figure':<40}{'value':>16}{'limit':>12}{'ratio':>8}"]
    for figure in figures:
        sign = ">=" if figure.least else "<="
        limit = f"{sign} {figure.limit:g}" if figure.limit is not None else ""
        ratio = f"{figure.ratio:.2f}" if figure.ratio is not None else ""
        value = f"{figure.value:.1f} {figure.unit}" if figure.unit else f"{figure.value:.4f}"
        lines.append(f"{figure.name:<40}{value:>16}{limit:>12}{ratio:>8}  {'BROKEN  ' if figure.is_broken else ''}{figure.note}")
    return "\n".join(lines)


def report(path: Path, told: Mapping[str, Any], before: Mapping[str, object], figures: Sequence[Figure]) -> None:
    """Write a result with the machine that it is of, print its figures, and exit with 1 if one is broken.

    Args:
        path: of the result.
        told: what was asked for.
        before: :func:`describe_machine` from before the measurement.
    """
    result = {
        **told,
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": {**before, "load_average_after": [round(value, 1) for value in os.getloadavg()]},
        "figures": [asdict(figure) | {"ratio": figure.ratio} for figure in figures],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(", ".join(f"{name} {value}" for name, value in before.items()))
    print(table(figures))
    if any(figure.is_broken for figure in figures):
        raise SystemExit(1)
