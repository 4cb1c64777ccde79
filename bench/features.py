"""The point-in-time join through Feast's API: ours beside the same query in bare DuckDB and beside Feast's own DuckDB store.

``python -m bench.features [--rows 1000000] [--rounds 3]`` joins that many events to three views with five times as many rows in all,
then ten times as many of both in the same memory, beside bare DuckDB in it. It writes ``bench/results/features.json``, prints the
figures beside their limits, and exits with 1 if one is broken. Each variant is a process of its own; all must give the same rows.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.figures import Figure, Lap, Stopwatch, describe_machine, peak_mb, report

RESULT = Path(__file__).parent / "results" / "features.json"
TIMES_BARE, TIMES_FEAST, GROWTH, PEAK_MB = 1.3, 6.0, 1.3, 2000.0
MEMORY_LIMIT = "1GB"
OFFLINE = {"type": "mlops_assets.adapters.feast_offline.AsKnownOfflineStore", "memory_limit": MEMORY_LIMIT}
VIEWS = {"card": 2.5, "shop": 1.5, "town": 1.0}
"""The views by their entity, with their rows for each event."""

ROWS_OF_ONE = {"card": 30, "shop": 90, "town": 720}
"""Rows of one entity: a value every three days, every day, every three hours. Feast's own join takes longer the more there are."""

FIELDS = 3
START, DAYS, TTL = np.datetime64("2026-01-01", "us"), 90, timedelta(days=7)
CHUNK = 500_000
QUIET = {"DO_NOT_TRACK": "true", "FEAST_USAGE": "False"}


def names(entity: str) -> list[str]:
    return [f"{entity}_{number}" for number in range(FIELDS)]


def write_all(folder: Path, events: int) -> None:
    """Events and views, in the order in which they happened; each entity has the same number of rows at any size."""
    folder.mkdir()
    counts = {entity: max(int(events * rows / ROWS_OF_ONE[entity]), 1) for entity, rows in VIEWS.items()}
    shared = {entity: pa.array([f"{entity}-{number}" for number in range(count)]) for entity, count in counts.items()}
    _write(folder / "events.parquet", events, 1, lambda draw, slot, first: _events(draw, slot, shared, first))
    for number, (entity, rows) in enumerate(VIEWS.items()):
        write = lambda draw, slot, _, entity=entity: _values(draw, slot, entity, shared[entity])  # noqa: E731
        _write(folder / f"{entity}.parquet", int(events * rows), 2 + number, write)


def _write(path: Path, rows: int, seed: int, part: Callable[[np.random.Generator, np.ndarray, int], pa.Table]) -> None:
    draw, span, writer = np.random.default_rng(seed), DAYS * 86_400_000_000, None
    for first in range(0, rows, CHUNK):
        count = min(CHUNK, rows - first)
        slot = np.sort(draw.integers(span * first // rows, span * (first + count) // rows, count))
        written = part(draw, slot, first)
        writer = writer or pq.ParquetWriter(path, written.schema)
        writer.write_table(written)
    if writer:
        writer.close()


def _times(micros: np.ndarray) -> pa.Array:
    return pa.array(START + micros.astype("timedelta64[us]"), pa.timestamp("us", tz="UTC"))


def _events(draw: np.random.Generator, slot: np.ndarray, shared: dict[str, pa.Array], first: int) -> pa.Table:
    order = draw.permutation(len(slot))  # callers do not sort
    keys = {entity: known.take(pa.array(draw.integers(0, len(known), len(slot)))) for entity, known in shared.items()}
    return pa.table({"number": np.arange(first, first + len(slot)), **keys, "event_timestamp": _times(slot[order])})


def _values(draw: np.random.Generator, slot: np.ndarray, entity: str, known: pa.Array) -> pa.Table:
    """Written minutes after they are valid, one in twenty up to two days late, one in fifty a correction of the row before."""
    count = len(slot)
    keys, valid = draw.integers(0, len(known), count), slot.copy()
    late = np.where(draw.random(count) < 0.05, draw.integers(0, 2 * 86_400_000_000, count), draw.integers(0, 600_000_000, count))
    written = valid + late
    corrected = np.arange(1, count, 50)
    keys[corrected], valid[corrected] = keys[corrected - 1], valid[corrected - 1]
    written[corrected] = written[corrected - 1] + 1 + late[corrected]
    values = {name: pa.array(draw.random(count), mask=draw.random(count) < 0.01) for name in names(entity)}
    return pa.table({entity: known.take(pa.array(keys)), "event_timestamp": _times(valid), "created_timestamp": _times(written), **values})


def bare_query(folder: Path) -> str:
    """What an engineer would write by hand, independent of the adapter's."""
    ttl = TTL // timedelta(microseconds=1)
    tables, joins, columns = [], "", []
    for entity in VIEWS:
        columns += [f"CASE WHEN {entity}s.valid >= e.asked - {ttl} THEN {entity}s.{name} END AS {name}" for name in names(entity)]
        tables.append(f"""{entity}s AS NOT MATERIALIZED (
            SELECT *, epoch_us(event_timestamp) AS valid, greatest(valid, epoch_us(created_timestamp)) AS seen
            FROM '{folder}/{entity}.parquet'
            WINDOW newest AS (PARTITION BY {entity} ORDER BY seen, valid, created_timestamp)
            QUALIFY valid >= max(valid) OVER newest AND seen IS DISTINCT FROM lead(seen) OVER newest
        )""")
        joins += f" ASOF LEFT JOIN {entity}s ON e.{entity} = {entity}s.{entity} AND e.asked >= {entity}s.seen"
    events = f"SELECT *, epoch_us(event_timestamp) AS asked FROM '{folder}/events.parquet'"
    kept = ", ".join(f"e.{name}" for name in ("number", *VIEWS, "event_timestamp"))
    return f"WITH {', '.join(tables)} SELECT {kept}, {', '.join(columns)} FROM ({events}) AS e {joins} ORDER BY e.number"


@dataclass(frozen=True)
class Answer:
    """What a variant took, and a digest of its rows if it held them."""

    lap: Lap
    rows: str = ""


def bare(folder: Path) -> Answer:
    import duckdb

    connection = duckdb.connect()
    started = Stopwatch()
    connection.execute("SET TimeZone = 'UTC'")
    found = connection.sql(bare_query(folder)).to_arrow_table()
    return Answer(started.lap(), digest(found))


def bare_file(folder: Path) -> Answer:
    """Within the memory that ours has, to a file."""
    import duckdb

    connection = duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(folder / "spilled")})
    started = Stopwatch()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"COPY ({bare_query(folder)}) TO '{folder}/bare.parquet' (FORMAT parquet)")
    return Answer(started.lap())


def feast_store(folder: Path, offline: dict[str, Any]) -> Any:
    import feast
    from feast.types import Float64, String

    config = feast.RepoConfig(
        project="bench",
        provider="local",
        repo_path=str(folder),
        registry={"registry_type": "file", "path": str(folder / "registry.db")},
        offline_store=offline,
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = feast.FeatureStore(config=config)
    for entity in VIEWS:
        key = feast.Entity(name=entity, join_keys=[entity], value_type=feast.ValueType.STRING)
        schema = [feast.Field(name=entity, dtype=String), *(feast.Field(name=name, dtype=Float64) for name in names(entity))]
        times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
        source = feast.FileSource(name=entity, path=str(folder / f"{entity}.parquet"), **times)
        store.apply([key, feast.FeatureView(name=f"{entity}s", entities=[key], ttl=TTL, schema=schema, source=source)])
    return store


def through_feast(folder: Path, offline: dict[str, Any], entity_df: Any, saved: Path | None = None) -> Answer:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    store = feast_store(folder, offline)
    wanted = [f"{entity}s:{name}" for entity in VIEWS for name in names(entity)]
    started = Stopwatch()
    job = store.get_historical_features(entity_df=entity_df, features=wanted, filter_by_created_timestamp=True)
    if saved:
        job.persist(SavedDatasetFileStorage(str(saved)), allow_overwrite=True)
        return Answer(started.lap())
    found = job.to_arrow()
    return Answer(started.lap(), digest(found))


def query(folder: Path) -> str:
    return f"SELECT * FROM '{folder}/events.parquet'"


def frame(folder: Path) -> Any:
    return pq.read_table(folder / "events.parquet").to_pandas()


TASKS: dict[str, Callable[[Path], Answer]] = {
    "bare": bare,
    "bare_file": bare_file,
    "ours": lambda folder: through_feast(folder, OFFLINE, query(folder)),
    "ours_frame": lambda folder: through_feast(folder, OFFLINE, frame(folder)),
    "feast": lambda folder: through_feast(folder, {"type": "duckdb"}, frame(folder)),
    "ours_file": lambda folder: through_feast(folder, OFFLINE, query(folder), folder / "saved.parquet"),
}


def digest(found: pa.Table) -> str:
    """Of the rows in the order of the events; Feast's own store gives them in another."""
    ordered = found.sort_by("number").select(["number", *(name for entity in VIEWS for name in names(entity))])
    whole = hashlib.sha256()
    for column in ordered.columns:
        whole.update(column.to_numpy().tobytes())
    return whole.hexdigest()


def measured(task: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.features", "--task", task, "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **QUIET}, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=lambda run: run["seconds"]) | {"peak_mb": max(run["peak_mb"] for run in runs)}


def measure(rows: int, rounds: int, work: Path) -> list[Figure]:
    small, large = work / "small", work / "large"
    write_all(small, rows)
    # in turn, so that what else the machine does is shared
    turns = [{task: measured(task, small) for task in ("bare", "bare_file", "ours", "ours_frame", "ours_file")} for _ in range(rounds)]
    found = {task: best([turn[task] for turn in turns]) for task in turns[0]} | {"feast": measured("feast", small)}
    digests = {task: run["rows"] for task, run in found.items() if run["rows"]}
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the variants give different rows: {digests}; one of them is wrong, look there first")
    kept = pq.read_table(small / "saved.parquet")
    if digest(kept) != digests["ours"] or not kept["number"].equals(pq.read_table(small / "events.parquet")["number"]):
        raise SystemExit("the saved dataset has other rows, or another order, than the events: look at AsKnownRetrievalJob.persist")
    write_all(large, 10 * rows)
    found |= {f"{task}_large": measured(task, large) for task in ("bare_file", "ours_file")}
    return judged(rows, found)


def judged(rows: int, found: dict[str, dict[str, Any]]) -> list[Figure]:
    def took(task: str, what: str, events: int = rows) -> Figure:
        run = found[task]
        note = f"{run['wall']:.1f} s, {run['peak_mb']:.0f} MB; {events / run['wall'] / 1e3:.0f}k events/s"
        return Figure(f"{events / 1e6:g}M, {what}", run["seconds"], "s CPU", note=note)

    def ratio(one: str, other: str, by: str = "seconds") -> float:
        return float(found[one][by] / found[other][by])

    def growth(task: str, by: str = "seconds") -> float:
        return ratio(f"{task}_large", task, by) / 10

    return [
        took("bare", "bare DuckDB"),
        took("ours", "ours, a query"),
        took("ours_frame", "ours, a frame"),
        took("feast", "Feast's DuckDB, a frame"),
        took("bare_file", f"bare DuckDB in {MEMORY_LIMIT}, to a file"),
        took("ours_file", "ours, to a file"),
        took("bare_file_large", f"bare DuckDB in {MEMORY_LIMIT}, to a file", 10 * rows),
        took("ours_file_large", "ours, to a file", 10 * rows),
        Figure("times bare DuckDB", ratio("ours", "bare"), "x", TIMES_BARE, note=f"{ratio('ours', 'bare', 'wall'):.2f} by wall time"),
        Figure(
            "times as fast as Feast's",
            ratio("feast", "ours_frame"),
            "x",
            TIMES_FEAST,
            True,
            f"{ratio('feast', 'ours_frame', 'wall'):.1f} by wall time",
        ),
        Figure("times bare DuckDB in the same memory, 10 times the rows", ratio("ours_file_large", "bare_file_large"), "x", TIMES_BARE),
        Figure(
            "growth of time a row, of bare DuckDB's",
            growth("ours_file") / growth("bare_file"),
            "x",
            GROWTH,
            note=f"{growth('ours_file'):.2f} and {growth('bare_file'):.2f}; by wall time {growth('ours_file', 'wall'):.2f}",
        ),
        Figure("peak RSS, 10 times the rows", found["ours_file_large"]["peak_mb"], "MB", PEAK_MB),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        answer = TASKS[given.task](given.folder)
        print(json.dumps(asdict(answer.lap) | {"rows": answer.rows, "peak_mb": peak_mb()}))
        return
    before = describe_machine()
    with tempfile.TemporaryDirectory() as work:
        figures = measure(given.rows, given.rounds, Path(work))
    report(RESULT, {"rows": given.rows}, before, figures)


if __name__ == "__main__":
    main()
