"""A day of answers of one model as serving processes ship it, in a folder in place of S3, and the steps of its monitoring."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from bench import canaries
from mlops_assets.core.errors import NotFound
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.ports import ObjectInfo, Platform

NIGHT = datetime(2026, 11, 1, tzinfo=UTC)
SEGMENTS = 1440
"""Two replicas that ship every other minute."""

FEATURES = 20
LATE, REPEATED = 0.002, 0.001
"""Shares of the answers that are shipped an hour late, and that are repeated by their client."""


class Folder:
    """An object store in a folder, which counts what is read of it by kind."""

    def __init__(self, root: Path) -> None:
        self.root, self.reads = root, Counter[str]()

    def get(self, key: str) -> bytes:
        bucket, _, noun = key.split("/")[:3]
        self.reads[{"predictions": "hours"}.get(noun, noun) if bucket == "monitoring" else bucket] += 1
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"there is no object {key!r}") from error

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def create(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        base = self.root / prefix.rpartition("/")[0]
        found = (Path(where) / name for where, _, names in os.walk(base) for name in names)
        keyed = sorted((path.relative_to(self.root).as_posix(), path) for path in found)
        return [
            ObjectInfo(key, str(path.stat().st_mtime_ns), datetime.fromtimestamp(path.stat().st_mtime, UTC), path.stat().st_size)
            for key, path in keyed
            if key.startswith(prefix) and key > after
        ]

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)


def spec() -> ModelSpec:
    (like,) = canaries.fleet(1)
    inputs = (*tuple(Feature(f"x{n}") for n in range(FEATURES - 1)), Feature("channel", ("web", "app", "phone")))
    return replace(like, features=replace(like.features, inputs=inputs), drift=Drift(window=timedelta(days=1)))


def platform(folder: Path) -> Platform:
    """What the hourly run needs of one: objects, the policy with v1 as champion, and the log."""
    from mlops_assets.adapters.memory import MemoryPolicyStore
    from mlops_assets.adapters.prediction_log import S3PredictionLog

    now, policies, objects = NIGHT + timedelta(days=1, minutes=5), MemoryPolicyStore(), Folder(folder)
    policies.write(replace(canaries.in_canary(spec(), NIGHT), model=spec().name), 0)
    unused = None
    log = S3PredictionLog(objects, clock=lambda: now)
    return Platform(lambda: now, objects, policies, unused, unused, unused, unused, log)  # type: ignore[arg-type]


def rows_of(generator: np.random.Generator, count: int, moved: float = 0.0) -> np.ndarray:
    """Amounts, shares, hours and channels, to as many digits as such values have; the last column is the score."""
    normal = generator.normal(10 + moved, 4, (count, FEATURES - 1)).round(2)
    return np.column_stack([normal, generator.integers(0, 3, count), generator.beta(2, 5, count).round(6)])


def baseline_document(generator: np.random.Generator) -> bytes:
    """What v1 is watched by."""
    from mlops_assets.assets.baseline import SCORE
    from mlops_assets.core.baseline import Baseline
    from mlops_assets.core.calibration import cut
    from mlops_assets.core.performance import calibrate
    from mlops_assets.core.profile import baseline

    model, before = spec(), rows_of(generator, 50_000)
    base = baseline([*model.features.names, SCORE], before.astype(np.float32))
    times = np.datetime64("2026-09-01", "us") + np.arange(len(before)) * np.timedelta64(60, "s")
    known = calibrate(before[:, -1], (generator.random(len(before)) < before[:, -1]).astype(int))
    even = dict.fromkeys(model.features.names, 1 / FEATURES)
    return Baseline(base, cut(base, before, times, model.drift.window), even, known, 0.75).to_json().encode()


def write(folder: Path, rows: int) -> dict[str, int]:
    """Ship a day of answers: what a run finds that has not looked since yesterday. Returns files, rows and distinct answers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlops_assets.adapters.prediction_log import LoggedInput, _schema, object_key
    from mlops_assets.assets.baseline import baseline_key

    model, generator = spec(), np.random.default_rng(3)
    Folder(folder).put(baseline_key(model.name, canaries.CHAMPION), baseline_document(generator))
    logged = [LoggedInput(feature.name, bool(feature.categories)) for feature in model.features.inputs]
    schema, channels = _schema(logged), np.array(["web", "app", "phone"], dtype=object)
    each, written, distinct, last = rows // SEGMENTS, 0, 0, None
    for number in range(SEGMENTS):
        shipped = NIGHT + timedelta(minutes=number + 1)
        matrix = rows_of(generator, each)
        event = np.datetime64(shipped.replace(tzinfo=None), "us") - generator.integers(0, 60_000_000, each).astype("timedelta64[us]")
        event = np.where(generator.random(each) < LATE, event - np.timedelta64(3600, "s"), event)
        event = np.maximum(event, np.datetime64(NIGHT.replace(tzinfo=None), "us"))
        ids = np.char.add(f"{number:05d}-", np.arange(each).astype(str)).astype(object)
        fixed = {
            "request_id": ids,
            "release": np.full(each, canaries.CHAMPION, dtype=object),
            "role": np.full(each, "live", dtype=object),
            "unit": np.char.add("u", generator.integers(0, 10**6, each).astype(str)).astype(object),
            "score": matrix[:, -1],
            "decision": matrix[:, -1] >= 0.3,
            "latency_ms": generator.exponential(2, each).round(3),
            "logged_at": event,
            "event_time": event,
            "model": np.full(each, model.name, dtype=object),
        }
        inputs = [*(matrix[:, n] for n in range(FEATURES - 1)), channels[matrix[:, FEATURES - 1].astype(int)]]
        arrays = [pa.array(column, field.type) for column, field in zip([*fixed.values(), *inputs], schema, strict=True)]
        table, distinct = pa.table(arrays, schema=schema), distinct + each
        if last is not None:
            repeated = last.slice(0, max(int(each * REPEATED), 1))
            table = pa.concat_tables([table, repeated])
        last, written = table, written + len(table)
        key = folder / object_key(model.name, shipped, canaries.CHAMPION, "a", number)
        key.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table, key, compression="zstd", use_dictionary=["request_id", "release", "role", "unit", "model", "feature__channel"]
        )
    return {"files": SEGMENTS, "rows": written, "distinct": distinct}


def compact(folder: Path) -> dict[str, float]:
    from mlops_assets.assets.hourly import Asked
    from mlops_assets.assets.predictions import predictions

    place = platform(folder)
    made = predictions(place, spec(), Asked())
    rows = sum(result.metadata["rows"] for result in made.values())  # type: ignore[index,misc]
    return {**_reads(place), "rows": rows, "hours": len(made)}


def profile(folder: Path) -> dict[str, float]:
    from mlops_assets.assets.hourly import Asked
    from mlops_assets.assets.predictions import prediction_profile

    place = platform(folder)
    return {"hours": len(prediction_profile(place, spec(), Asked())), **_reads(place)}


def drift(folder: Path) -> dict[str, float]:
    from mlops_assets.assets.drift import drift_report
    from mlops_assets.assets.hourly import Asked

    place = platform(folder)
    (made,) = drift_report(place, spec(), Asked()).values()
    return {"hours": made.metadata["profiles"], "rows": made.metadata["rows"], **_reads(place)}  # type: ignore[dict-item,index]


def _reads(place: Platform) -> dict[str, float]:
    reads: Counter[str] = place.objects.reads  # type: ignore[attr-defined]
    return {"raw_reads": reads["predictions"], "hour_reads": reads["hours"], "profile_reads": reads["profiles"]}


STEPS: dict[str, Callable[[Path], dict[str, float]]] = {"compact": compact, "profile": profile, "report": drift}
