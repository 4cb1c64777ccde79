"""One more hour for a fleet whose last day is watched already, on the local stack's event log and in-memory adapters."""

import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from bench import canaries, monitoring_day
from bench.figures import Figure, Stopwatch, peak_mb
from bench.monitoring_day import FEATURES, NIGHT
from mlops_assets import event_log
from mlops_assets.adapters import tables
from mlops_assets.adapters.memory import MemoryObjectStore, MemoryPolicyStore, MemoryPredictionLog
from mlops_assets.assets.baseline import baseline_key
from mlops_assets.assets.hourly import Asked
from mlops_assets.assets.hourly_monitoring import OP, REPORTS, build_hourly_monitoring
from mlops_assets.core.hourly import HOUR
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import Drift, LivePerformance
from mlops_assets.ports import Platform

ROWS = 200
"""Answers a model and hour."""

DAY = timedelta(days=1)


def specs(models: int) -> list[ModelSpec]:
    like = monitoring_day.spec()
    asked = {"drift": Drift(window=DAY, min_rows=200), "performance": LivePerformance(window=DAY, min_positives=20)}
    label = replace(like.label, horizon=timedelta(0))
    return [replace(like, name=f"model-{number:04}", label=label, **asked) for number in range(models)]


def answers(model: str, hour: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    matrix, start = monitoring_day.rows_of(generator, ROWS), NIGHT + hour * HOUR
    times = pd.Series(pd.to_datetime([start] * ROWS, utc=True)).dt.as_unit("us") + pd.to_timedelta(np.arange(ROWS) * 17, unit="s")
    channels = np.array(["web", "app", "phone"], dtype=object)[matrix[:, FEATURES - 1].astype(int)]
    inputs = {f"feature__x{n}": matrix[:, n] for n in range(FEATURES - 1)} | {"feature__channel": channels}
    score, ids = matrix[:, -1], [f"{hour}-{n}" for n in range(ROWS)]
    told: dict[str, Any] = {"request_id": ids, "unit": ids, "release": canaries.CHAMPION, "role": "live", "score": score}
    told |= {"decision": score >= 0.3, "latency_ms": 2.0, "logged_at": times, "event_time": times, "model": model}
    return pd.DataFrame(told | inputs)


def label(objects: MemoryObjectStore, spec: ModelSpec, rows: pd.DataFrame, known: pd.Series) -> None:
    """The events and labels of the day that are known, as they are kept once they have landed."""
    generator = np.random.default_rng(5)
    came_true = (generator.random(len(rows)) < rows["score"]).astype(int)
    data, label = spec.data.datasets, spec.label.column
    (key,) = data["events"].key
    events = pd.DataFrame({key: rows["request_id"], spec.features.unit: rows["unit"], data["events"].time: rows["event_time"]})
    outcome = pd.DataFrame({key: rows["request_id"], "known_at": rows["event_time"] + HOUR, label: came_true})
    tables.write_day(objects, spec.name, "events", NIGHT.date(), events)
    tables.write_day(objects, spec.name, "labels", NIGHT.date(), outcome[known.to_numpy()])


class Watched:
    """Models with a day behind them, and the job that watches them."""

    def __init__(self, models: int, instance: dg.DagsterInstance) -> None:
        self.now = NIGHT + DAY + timedelta(minutes=5)
        self.specs, self.instance = specs(models), instance
        self.objects, self.log, policies = MemoryObjectStore(lambda: self.now), MemoryPredictionLog(), MemoryPolicyStore()
        unused: Any = None
        self.platform = Platform(lambda: self.now, self.objects, policies, unused, unused, unused, unused, self.log)
        for spec in self.specs:
            policies.write(canaries.in_canary(spec, NIGHT), 0)
        (shared,) = build_hourly_monitoring(self.specs)
        resources = {"platform": dg.ResourceDefinition.hardcoded_resource(self.platform)}
        self.job = dg.Definitions([shared], resources=resources, executor=dg.in_process_executor).resolve_implicit_global_asset_job_def()

    def run(self) -> dg.ExecuteInProcessResult:
        config = {"ops": {OP: {"config": {"only_due": True}}}, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return self.job.execute_in_process(instance=self.instance, run_config=config)


def prepare(watched: Watched, base: bytes) -> None:
    """Let the first model live through its day, and give every other one what came of it."""
    objects, first, day = watched.objects, watched.specs[0], pd.concat([answers("", hour, hour) for hour in range(24)], ignore_index=True)
    objects.put(baseline_key(first.name, canaries.CHAMPION), base)
    watched.log.append(first.name, day[day["event_time"] < NIGHT + 23 * HOUR])
    label(objects, first, day, day["event_time"] < NIGHT + 22 * HOUR)
    for report in REPORTS:
        report.make(watched.platform, first, Asked(only_due=True))
    listed = (info.key for bucket in ("monitoring", "models", "tables") for info in objects.list(f"{bucket}/{first.name}/"))
    made = {key: objects.get(key) for key in listed}
    for spec in watched.specs:
        for key, data in made.items():
            objects.put(key.replace(first.name, spec.name), data)
        if spec is not first:
            watched.log.append(spec.name, day[day["event_time"] < NIGHT + 23 * HOUR])
        watched.log.append(spec.name, day[day["event_time"] >= NIGHT + 23 * HOUR])
        label(objects, spec, day, day["event_time"] < NIGHT + 23 * HOUR)


def _as_on_one_machine(home: str) -> dict[str, Any]:
    return {"event_log_storage": event_log.config(Path(home))}


def measure(models: int, limit: float) -> list[Figure]:
    base = monitoring_day.baseline_document(np.random.default_rng(3))
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home, _as_on_one_machine(home)) as instance:
        watch = Stopwatch()
        watched = Watched(models, instance)
        built = watch.lap()
        prepare(watched, base)
        watched.now += HOUR
        watch = Stopwatch()
        run = watched.run()
        lap = watch.lap()
        events = len(run.get_asset_materialization_events()), len(run.get_asset_check_evaluations())
        each = {noun: _recorded(run, noun) for noun in ("predictions", "prediction_profile", "drift_report", "performance_report")}
    if not run.success or any(count < models for count in each.values()):
        raise SystemExit(f"the run left models out: {each}")
    note = f"{lap.seconds:.0f} s of CPU; {events[0]} materializations and {events[1]} checks recorded"
    return [
        Figure(f"{models} models, one hour", lap.wall, "s", limit, note=note),
        Figure(f"{models} models, peak RSS", peak_mb(), "MB", note="with the adapters' data, a day of each model, in memory"),
        Figure(f"{models} models, definitions", built.wall, "s", note=f"{built.seconds:.1f} s of CPU, once a process"),
    ]


def _recorded(run: dg.ExecuteInProcessResult, noun: str) -> int:
    return len({e.asset_key for e in run.get_asset_materialization_events() if e.asset_key and e.asset_key.path[-1] == noun})
