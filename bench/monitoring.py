"""Monitoring at size: a day of ten million answers in bounded memory, a fleet in one hourly run, and what real flights alarm at.

``python -m bench.monitoring [--rows 10000000] [--models 1000] [--parts day,fleet,flights]`` writes
``bench/results/monitoring_<part>.json``, prints the figures beside their limits, and exits with 1 if one is broken. Each step of the day is
a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.figures import Figure, Stopwatch, describe_machine, peak_mb, report

RESULTS = Path(__file__).parent / "results"
PEAK_MB, FLEET_SECONDS = 1024.0, 600.0
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DO_NOT_TRACK": "true"}


def step(name: str, folder: Path) -> dict[str, float]:
    """One step of the day in a fresh process, which tells what it took and read."""
    command = [sys.executable, "-m", "bench.monitoring", "--step", name, "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **ONE_CORE}, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_day(rows: int) -> list[Figure]:
    from bench import monitoring_day

    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = monitoring_day.write(folder, rows)
        label = f"{rows / 1e6:g}M"
        for what in monitoring_day.STEPS:
            found = step(what, folder)
            note = f"{found['cpu']:.0f} s of CPU, {found['seconds']:.0f} s"
            figures.append(Figure(f"{label}, {what}, peak RSS", found["peak_mb"], "MB", PEAK_MB, note=note))
            figures += [Figure(f"{label}, {what}, {kind}", count, "", *limit) for kind, count, limit in _counted(what, found, written)]
    return figures


def _counted(what: str, found: dict[str, float], written: dict[str, int]) -> list[tuple[str, float, tuple[float | None, bool]]]:
    """What a step read, beside how often it may."""
    if what == "compact":
        return [
            ("raw files read, of each once", found["raw_reads"] / written["files"], (1.0, False)),
            ("answers missing or doubled", abs(found["rows"] - written["distinct"]), (0.0, False)),
        ]
    if what == "profile":
        once = found["hour_reads"] / found["hours"]
        return [("files read, of each hour once", once, (1.0, False)), ("raw files read", found["raw_reads"], (0.0, False))]
    once, others = found["profile_reads"] / found["hours"], found["raw_reads"] + found["hour_reads"]
    return [("profiles read, of each hour once", once, (1.0, False)), ("files of rows read", others, (0.0, False))]


def measure_fleet(models: int) -> list[Figure]:
    from bench import monitoring_fleet

    return monitoring_fleet.measure(models, FLEET_SECONDS)


def measure_flights() -> list[Figure]:
    from bench import monitoring_flights

    return monitoring_flights.measure()


PARTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "day": lambda given: measure_day(given.rows),
    "fleet": lambda given: measure_fleet(given.models),
    "flights": lambda _: measure_flights(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        from bench import monitoring_day

        watch = Stopwatch()
        counted: Counter[str] = monitoring_day.STEPS[given.step](given.folder)
        lap = watch.lap()
        print(json.dumps({"cpu": lap.seconds, "seconds": lap.wall, "peak_mb": peak_mb(), **counted}))
        return
    broken = []
    for part in given.parts.split(","):
        before = describe_machine()
        try:
            report(RESULTS / f"monitoring_{part}.json", {"rows": given.rows, "models": given.models}, before, PARTS[part](given))
        except SystemExit:
            broken.append(part)
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
