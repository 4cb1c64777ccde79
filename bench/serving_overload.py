"""A release under twice the load that it bears, and for hours under one that it bears easily.

``python -m bench.serving_overload [--seconds 60] [--deadline 0.25]`` finds the load at which the answers in time are most, offers twice as
much, and writes ``bench/results/serving_overload.json``. ``--soak 3600 [--rate 200]`` writes ``bench/results/serving_soak.json`` instead.
Both exit with 1 if a limit is broken. The server has one core and the load the other; requests come at their own pace
(``bench/open_loop.py``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.figures import describe_machine
from bench.serving import WIDTH, Figure, figures_table, make_model, start_store
from bench.serving_load import CLIENT_CORE, Running, running
from bench.serving_peers import ours

RESULTS = Path(__file__).parent / "results"
ROWS = (1, 100)
"""A request of one row is bounded by the way of a request, one of a hundred by the model."""

CONNECTIONS = 256
GROWTH, STEP_SECONDS, FIRST_RATE = 1.3, 3.0, 100.0
OF_PEAK, OVERLOAD_MB, SOAK_MB, SOAK_DESCRIPTORS, SOAK_THREADS = 0.9, 15.0, 5.0, 4.0, 1.0


@dataclass(frozen=True)
class Sample:
    """What the server holds, so many seconds after the start of the load. Memory in MB, what is shared by share (PSS) and in full (RSS)."""

    seconds: float
    pss_mb: float
    rss_mb: float
    descriptors: int
    threads: int


def offer(server: Running, body: bytes, rate: float, seconds: float, deadline: float) -> subprocess.Popen[bytes]:
    """The load, under way."""
    command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "bench.open_loop", str(server.port), "/predict"]
    options = {"rate": rate, "seconds": seconds, "deadline": deadline, "connections": CONNECTIONS}
    told = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen([*command, *told], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(body)
    process.stdin.close()
    return process


def outcome(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the load says of itself in the end."""
    assert load.stdout is not None
    text = load.stdout.read()
    if load.wait() != 0:
        raise SystemExit(f"the load ended with {load.returncode}: its message is above")
    found: dict[str, Any] = json.loads(text)
    return found


def find_peak(server: Running, body: bytes, deadline: float) -> list[dict[str, Any]]:
    """Ever more load, until the answers in time have not become more three times in a row."""
    steps: list[dict[str, Any]] = []
    rate = FIRST_RATE
    while len(steps) < 4 or max(each["goodput"] for each in steps[-3:]) > 1.02 * max(each["goodput"] for each in steps[:-3]):
        steps.append(outcome(offer(server, body, rate, STEP_SECONDS, deadline)))
        rate *= GROWTH if steps[-1]["goodput"] < 0.8 * rate else GROWTH**2
    return steps


def watch(server: Running, load: subprocess.Popen[bytes], every: float) -> list[Sample]:
    """Samples for as long as the load lasts."""
    began, samples = time.monotonic(), []
    while load.poll() is None:
        memory = server.process.memory_full_info()
        held = Sample(time.monotonic() - began, memory.pss / 1e6, memory.rss / 1e6, server.process.num_fds(), server.process.num_threads())
        samples.append(held)
        with suppress(subprocess.TimeoutExpired):  # that it goes on is what is expected
            load.wait(every)
    return samples


def growth(samples: Sequence[Sample], what: str) -> float:
    """How much more there is in the last quarter than in the second: medians, so that what is freed again does not count."""
    values, quarter = [getattr(each, what) for each in samples], max(1, len(samples) // 4)
    return float(median(values[-quarter:]) - median(values[quarter : 2 * quarter] or values[:1]))


def overload(server: Running, rows: int, body: bytes, seconds: float, deadline: float) -> tuple[dict[str, Any], list[Figure]]:
    steps = find_peak(server, body, deadline)
    best = max(steps, key=lambda each: each["goodput"])
    load = offer(server, body, 2 * best["goodput"], seconds, deadline)
    samples = watch(server, load, max(0.5, seconds / 60))
    twice = outcome(load)
    name = f"{rows} row{'s' if rows > 1 else ''}"
    figures = [
        Figure(f"{name}: of the peak's answers in time", twice["goodput"] / best["goodput"], OF_PEAK),
        Figure(f"{name}: p99 of the answers, deadlines", twice["p99"] / (1000 * deadline), 1.0, at_most=True),
        Figure(f"{name}: more memory, MB", growth(samples, "pss_mb"), OVERLOAD_MB, at_most=True),
        Figure(f"{name}: failed or unanswered", twice["failed"] + twice["unanswered"], 0, at_most=True),
    ]
    return {"rows": rows, "steps": steps, "peak": best, "twice": twice, "samples": [asdict(each) for each in samples]}, figures


def soak(server: Running, body: bytes, seconds: float, rate: float, deadline: float) -> tuple[dict[str, Any], list[Figure]]:
    load = offer(server, body, rate, seconds, deadline)
    samples = watch(server, load, max(1.0, seconds / 360))
    found = outcome(load)
    figures = [
        Figure("more memory, MB (PSS)", growth(samples, "pss_mb"), SOAK_MB, at_most=True),
        Figure("more memory, MB (RSS)", growth(samples, "rss_mb"), SOAK_MB, at_most=True),
        Figure("more descriptors", growth(samples, "descriptors"), SOAK_DESCRIPTORS, at_most=True),
        Figure("more threads", growth(samples, "threads"), SOAK_THREADS, at_most=True),
        Figure("of the requests answered in time", found["good"] / found["offered"], 0.99),
        Figure("failed or unanswered", found["failed"] + found["unanswered"], 0, at_most=True),
    ]
    slopes = {f"{what}_an_hour": 3600 * slope(samples, what) for what in ("pss_mb", "rss_mb", "descriptors", "threads")}
    return {"load": found, "slopes": slopes, "samples": [asdict(each) for each in samples]}, figures


def slope(samples: Sequence[Sample], what: str) -> float:
    """How much is added each second, after the first quarter: least squares."""
    kept = samples[len(samples) // 4 :]
    return float(np.polyfit([each.seconds for each in kept], [getattr(each, what) for each in kept], 1)[0]) if len(kept) > 1 else 0.0


def question(rows: int) -> Mapping[str, object]:
    chance = np.random.default_rng(0)
    named = [{f"f{place:02}": round(float(value), 4) for place, value in enumerate(chance.normal(size=WIDTH))} for _ in range(rows)]
    return {"inputs": named[0]} if rows == 1 else {"rows": [{"inputs": each} for each in named]}


def start(work: Path, stack: ExitStack, rotate_seconds: float = 60.0) -> Running:
    """A release with the bench's model, and a real object store behind it."""
    model = make_model()
    digest = sha256(model).hexdigest()
    file = work / "home" / "models" / f"{digest}.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(model)
    environment = {"MLOPS_MODEL": "bench", "MLOPS_RELEASE": "v1", "MLOPS_MODEL_DIGEST": digest, "MLOPS_HOME": str(work / "home")}
    environment |= start_store(work / "s3", stack)
    environment |= {"MALLOC_ARENA_MAX": "2", "MLOPS_LOG_ROTATE_SECONDS": f"{rotate_seconds:g}"}  # the first as the stack has it
    release = ours("nothing", environment, [])
    return stack.enter_context(running(release.command, release.ready, release.environment, release.folder, work / "release.log"))


def report(file: str, told: Mapping[str, object], machine: Mapping[str, object], figures: Sequence[Figure]) -> None:
    """Write the result, print it beside its limits, and end with 1 if one is broken."""
    result = {
        "measured_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": {**machine, "load_average_after": [round(value, 1) for value in os.getloadavg()]},
        **told,
        "figures": [asdict(each) | {"is_broken": each.is_broken} for each in figures],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / file).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(figures_table(figures))
    if any(figure.is_broken for figure in figures):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of twice the load")
    parser.add_argument("--deadline", type=float, default=0.25, help="of a request, in seconds")
    parser.add_argument("--soak", type=float, default=0, help="seconds of a steady load instead")
    parser.add_argument("--rate", type=float, default=200, help="requests/s of the steady load")
    asked = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="so") as folder, ExitStack() as stack:
        # a short soak must see as many segments of the log come and go as a long one
        server = start(Path(folder), stack, min(60.0, asked.soak / 60) if asked.soak else 60.0)
        bodies = {rows: json.dumps(question(rows)).encode() for rows in ROWS}
        if asked.soak:
            found, figures = soak(server, bodies[1], asked.soak, asked.rate, asked.deadline)
            told: Mapping[str, object] = found
        else:
            parts = [overload(server, rows, body, asked.seconds, asked.deadline) for rows, body in bodies.items()]
            told, figures = {"loads": [part for part, _ in parts]}, [figure for _, each in parts for figure in each]
            for part, _ in parts:
                peak, twice = part["peak"], part["twice"]
                shown = {name: twice[name] for name in ("offered", "good", "late", "refused", "given up", "failed", "p50", "p99")}
                print(f"{part['rows']} rows: peak {peak['goodput']:.0f} answers in time/s at {peak['rate']:.0f}; twice that: {shown}")
    report("serving_soak.json" if asked.soak else "serving_overload.json", told, machine, figures)


if __name__ == "__main__":
    main()
