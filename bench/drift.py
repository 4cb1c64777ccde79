"""Drift of Parquet files: speed and memory beside Evidently and a bare DuckDB count, and how often each policy alarms without drift.

``python -m bench.drift [--rows 1000000,10000000] [--runs 1000]`` writes ``bench/results/drift.json``, prints the figures beside their
limits, and exits with 1 if one is broken. Each measurement is a process of its own that may use one core; CPU time
is judged, since on a busy machine it is what a core of an idle one takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.figures import Figure, Lap, Stopwatch, describe_machine, peak_mb, report
from mlops_assets.core.feature_spec import Feature

RESULT = Path(__file__).parent / "results" / "drift.json"
COLUMNS, GROUP = 20, 1 << 20
EVIDENTLY_ROWS = 100_000
CELLS_A_SECOND, TIMES_EVIDENTLY, PEAK_MB = 50.0, 50.0, 300.0
NAMES = [f"x{number}" for number in range(COLUMNS)]
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1", "DO_NOT_TRACK": "true"}


def rows_of(count: int, seed: int, moved: float) -> np.ndarray:
    """Temperatures, amounts, hours, shares with missing values, five columns of each."""
    generator = np.random.default_rng(seed)
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: generator.normal(15 + moved, 8, count),
        lambda: np.exp(generator.normal(3 + moved / 10, 1, count)),
        lambda: generator.integers(0, 24, count).astype(float),
        lambda: np.where(generator.random(count) < 0.05, np.nan, generator.beta(2, 5, count)),
    ]
    return np.stack([kinds[column % 4]() for column in range(COLUMNS)], axis=1).astype(np.float32)


def write(path: Path, rows: int, seed: int, moved: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.float32()) for name in NAMES])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, rows, GROUP):
            part = rows_of(min(GROUP, rows - start), seed + start, moved)
            # a missing share is a null in the file, as other writers have it
            writer.write_table(pa.table([pa.array(part[:, n], from_pandas=True) for n in range(COLUMNS)], schema=schema))


def ours(folder: Path, rows: str) -> Lap:
    import pandas  # noqa: F401 : pyarrow imports it late; imports are done before the clock starts, as DuckDB's are
    import pyarrow.parquet  # noqa: F401

    from mlops_assets.adapters.profile_parquet import profile_parquet
    from mlops_assets.core.distances import measure
    from mlops_assets.core.profile import Profile

    base = Profile.from_json((folder / "baseline.json").read_text())
    inputs = [Feature(name) for name in NAMES]
    started = Stopwatch()
    current = profile_parquet(base, folder / f"{rows}.parquet", inputs)
    found = [measure(before, now) for before, now in zip(base.columns, current.columns, strict=True)]
    lap = started.lap()
    assert all(distance.psi is not None and distance.wasserstein is not None for distance in found)
    return lap


def duckdb_count(folder: Path, rows: str) -> Lap:
    """A bare count of each column over 2,048 cells of equal width, which gives no distance yet."""
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    started = Stopwatch()
    for name in NAMES:
        cells = f"SELECT cast(floor({name} * 16) AS integer) & 2047 AS cell, count(*) FROM '{folder / rows}.parquet' GROUP BY cell"
        connection.execute(cells).fetchall()
    return started.lap()


def kll(folder: Path, rows: str) -> Lap:
    """A KLL sketch of every column (k = 200), which is what the grid stands in place of."""
    import pyarrow.parquet as pq
    from datasketches import kll_floats_sketch

    columns = [pq.read_table(folder / f"{rows}.parquet", columns=[name]).column(0).drop_null().to_numpy() for name in NAMES]
    started = Stopwatch()
    for values in columns:
        kll_floats_sketch(200).update(values)
    return started.lap()


def evidently(_: Path, rows: str) -> Lap:
    """Its PSI alone; rows are in memory already."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, now = (pd.DataFrame(rows_of(int(rows), seed, moved), columns=NAMES) for seed, moved in ((1, 0), (2, 1)))
    started = Stopwatch()
    Report([DataDriftPreset(method="psi")]).run(now, before)
    return started.lap()


TASKS = {"ours": ours, "duckdb": duckdb_count, "kll": kll, "evidently": evidently}


@dataclass(frozen=True)
class Measured:
    seconds: float
    wall: float
    peak_mb: float


def measured(task: str, folder: Path, rows: int, times: int) -> Measured:
    """The fastest of some processes, and the largest of them."""
    command = [sys.executable, "-m", "bench.drift", "--task", task, "--folder", str(folder), "--rows", str(rows)]
    environment = {**os.environ, **ONE_CORE}
    runs = [json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout) for _ in range(times)]
    return Measured(*(min(run[name] for run in runs) for name in ("seconds", "wall")), max(run["peak_mb"] for run in runs))


def measure_speed(sizes: Sequence[int]) -> list[Figure]:
    from mlops_assets.core.profile import baseline

    figures, rates = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "baseline.json").write_text(baseline(NAMES, rows_of(EVIDENTLY_ROWS, 1, 0)).to_json())
        theirs = measured("evidently", folder, EVIDENTLY_ROWS, 1)
        # it reads baseline and present anew each time: both are counted as its cells
        evidently_rate = 2 * EVIDENTLY_ROWS * COLUMNS / theirs.seconds / 1e6
        for rows in sizes:
            path = folder / f"{rows}.parquet"
            write(path, rows, 7, moved=1)
            cells, label = rows * COLUMNS, f"{rows / 1e6:g}M x {COLUMNS}"
            found = measured("ours", folder, rows, 5)
            rates.append(cells / found.seconds / 1e6)
            note = f"{found.seconds:.2f} s of CPU, {found.wall:.2f} s; {path.stat().st_size / 1e6:.0f} MB of Parquet"
            figures.append(Figure(f"{label}, all distances", rates[-1], "M cells/s", CELLS_A_SECOND, True, note))
            figures.append(Figure(f"{label}, peak RSS", found.peak_mb, "MB", PEAK_MB))
            if rows == min(sizes):
                for task, what in (("duckdb", "DuckDB, bare count"), ("kll", "KLL of 200, in memory")):
                    figures.append(Figure(f"{label}, {what}", cells / measured(task, folder, rows, 3).seconds / 1e6, "M cells/s"))
            path.unlink()
    note = f"{theirs.seconds:.1f} s of CPU for two sides of {EVIDENTLY_ROWS:,} rows, both counted; {theirs.peak_mb:.0f} MB"
    figures.append(Figure("Evidently, PSI only", evidently_rate, "M cells/s", note=note))
    return [*figures, Figure("times Evidently", min(rates) / evidently_rate, "x", TIMES_EVIDENTLY, True, "by cell, the slower of ours")]


def measure_alarms(runs: int) -> list[Figure]:
    from bench.drift_alarms import ALPHA, CASES, alarms

    figures = []
    for case in CASES:
        found = alarms(case, runs)
        figures.append(Figure(f"{case.name}, calibrated", found["calibrated"], "", ALPHA, note=f"{case.days} days of baseline"))
        figures.append(Figure(f"{case.name}, PSI > 0.2", found["fixed"], ""))
    for shift in (0.5, 1.0):
        for case in [case for case in CASES if case.rows == 3360]:
            found = alarms(case, runs // 4, shift)
            figures.append(Figure(f"{case.name}, found", found["calibrated"], "", note=f"mean moved by {shift} standard deviations"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000000,10000000")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        lap = TASKS[given.task](given.folder, given.rows)
        print(json.dumps(asdict(lap) | {"peak_mb": peak_mb()}))
        return
    before = describe_machine()
    figures = [*measure_speed([int(rows) for rows in given.rows.split(",")]), *measure_alarms(given.runs)]
    report(RESULT, {"runs": given.runs}, before, figures)


if __name__ == "__main__":
    main()
