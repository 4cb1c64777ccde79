"""Train the first release, and again on new data, on drift, or when the definitions of the features changed."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from mlops_assets.adapters import tables
from mlops_assets.assets import keys
from mlops_assets.assets.reading import data_time
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.schedules import TRAINING_NOUNS
from mlops_assets.sensors.tick import TRIES, Tick, ask_for_run, runs_of


def look_for_training(tick: Tick, spec: ModelSpec) -> None:
    """Ask for a training when there is reason to, none is under way, and no release is still on its way."""
    policy = tick.platform.policies.read(spec.name)
    if any((spec.name, stage) in tick.busy for stage in ("train", "ingest", "features")) or policy.challenger or policy.candidates:
        return
    if _retried_training(tick, spec):
        return
    days = tables.days(tick.platform.objects, spec.name, "events")
    if not days:
        return
    as_of = data_time(tick.platform, spec)
    made = newest_training_set(tick.instance, spec)
    if made is None:
        if days[-1] - days[0] + timedelta(days=1) >= spec.holdout.window + spec.label.horizon + spec.retrain.first_after:
            _request_training(tick, spec, as_of, "new_data", spec.retrain.after_days_gate)
        return
    trained, version = datetime.fromtimestamp(made["as_of"].value, tz=UTC), tick.platform.features.version(spec.features).hash
    if "feature_hash" in made and made["feature_hash"].value != version:
        _revalidate(tick, spec, as_of, version)
    elif as_of <= trained:
        return
    elif has_drifted(tick, spec):
        _request_training(tick, spec, as_of, "drift", spec.retrain.on_drift_gate)
    elif spec.retrain.after_days is not None and as_of - trained >= timedelta(days=spec.retrain.after_days):
        _request_training(tick, spec, as_of, "new_data", spec.retrain.after_days_gate)


def newest_training_set(instance: dg.DagsterInstance, spec: ModelSpec) -> Mapping[str, Any] | None:
    """What Dagster has recorded of the newest training set; None if there is none yet."""
    event = instance.get_latest_materialization_event(keys.key(spec, "training_set"))
    return event.asset_materialization.metadata if event and event.asset_materialization else None


def _revalidate(tick: Tick, spec: ModelSpec, as_of: datetime, version: str) -> None:
    """Compute the views anew for the days that a training looks at, then train on them, so that the gate judges the changed features."""
    first = (as_of - spec.label.horizon - spec.holdout.window - spec.training.window).date()
    intent = f"{spec.name}/features/{version[:12]}"
    past = runs_of(tick.instance, intent)
    if past and past[0].dagster_run.is_success:
        _request_training(tick, spec, as_of, "features", spec.retrain.after_days_gate, version[:12])
        return
    days = [day for day in tables.days(tick.platform.objects, spec.name, "events") if day >= first]
    span = {"dagster/asset_partition_range_start": days[0].isoformat(), "dagster/asset_partition_range_end": days[-1].isoformat()}
    ask_for_run(tick, spec, intent, ("features",), "features", {}, None, TRIES, span)


def has_drifted(tick: Tick, spec: ModelSpec) -> bool:
    """Whether the newest drift report is bad enough to train on, and the last training is a cooldown ago.

    Under the policy ``calibrated`` a PSI that the baseline's own windows have too is not.
    """
    limit = spec.retrain.on_drift_above
    report = tick.instance.get_latest_materialization_event(keys.key(spec, "drift_report"))
    if limit is None or report is None or report.asset_materialization is None:
        return False
    found = report.asset_materialization.metadata
    largest = found.get("largest_psi")
    if largest is None or largest.value <= limit or (spec.drift.policy == "calibrated" and not found["drifted"].value):
        return False
    event = tick.instance.get_latest_materialization_event(keys.key(spec, "training_set"))
    return (
        event is None or tick.platform.clock().timestamp() - event.timestamp >= (spec.drift.cooldown / tick.platform.pace).total_seconds()
    )


def _retried_training(tick: Tick, spec: ModelSpec) -> bool:
    """Whether the training asked for last ended badly and is still being tried again."""
    asked = tick.state.get("asked")
    if asked is None:
        return False
    version = tick.state.get("version", "")
    past = runs_of(tick.instance, _training_intent(spec, asked["as_of"], version))
    if not past or past[0].dagster_run.is_success or len(past) >= TRIES:
        tick.state = {"done": asked["as_of"]}
        return False
    _request_training(tick, spec, datetime.fromisoformat(asked["as_of"]), asked["trigger"], asked["gate"], version)
    return True


def _training_intent(spec: ModelSpec, as_of: str, version: str) -> str:
    """``version`` is that of changed features, by which the same data are another reason to train."""
    return f"{spec.name}/train/{as_of}" + (f"/{version}" if version else "")


def _request_training(tick: Tick, spec: ModelSpec, as_of: datetime, trigger: str, gate: str, version: str = "") -> None:
    config = {"as_of": as_of.isoformat(), "trigger": trigger, "gate": gate}
    tick.state = {"asked": config, "version": version}
    op = keys.key(spec, "training_set").to_python_identifier()
    intent = _training_intent(spec, as_of.isoformat(), version)
    ask_for_run(tick, spec, intent, TRAINING_NOUNS, "train", {"ops": {op: {"config": config}}}, None, tries=TRIES)
