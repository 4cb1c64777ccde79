"""Train the first release, and again on new data, on drift, or when the definitions of the features or the code of the training changed."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any

import dagster as dg

from mlops_assets.adapters import tables
from mlops_assets.assets import keys
from mlops_assets.assets.reading import data_time, training_code_version
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.core.retraining import WEEK, DriftReport, Trainings, calls_for_training, came_to_nothing, may_train_now
from mlops_assets.links import asset_url
from mlops_assets.schedules import TRAINING_NOUNS
from mlops_assets.sensors.tick import (
    CAUSE_TAG,
    INTENT_TAG,
    MODEL_TAG,
    TRIGGER_TAG,
    Tick,
    ask_for_run,
    is_given_up,
    runs_of,
    without_figures,
)
from mlops_assets.settings import Settings

DRIFT = "drift"
"""The trigger of a training that a drift report asked for."""


def look_for_training(tick: Tick, spec: ModelSpec) -> None:
    """Ask for a training when there is reason to, none is under way, and no release is still on its way."""
    policy = tick.platform.policies.read(spec.name)
    if any((spec.name, stage) in tick.busy for stage in ("train", "ingest", "features")) or policy.challenger or policy.candidates:
        return
    if policy.retired_at is not None:
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
    elif "training_code" in made and made["training_code"].value != (code := training_code_version(spec)):
        _request_training(tick, spec, as_of, "code", spec.retrain.after_days_gate, code)
    elif as_of <= trained:
        return
    elif (cause := cause_in_drift(tick, spec, policy)) is not None:
        _request_training(tick, spec, as_of, DRIFT, spec.retrain.on_drift_gate, cause=cause)
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
    ask_for_run(tick, spec, intent, ("features",), "features", {}, None, tags=span)


def cause_in_drift(tick: Tick, spec: ModelSpec, policy: Policy) -> str | None:
    """Where the drift report is found that is reason enough to train now; None if there is none. What holds it up is observed once."""
    report, trained = newest_drift_report(tick.instance, spec), _made_at(tick.instance, spec, "training_set")
    if report is None or not calls_for_training(spec.retrain, spec.drift, report, trained).passed:
        return None
    past = Trainings(trained, _asked_by_drift(tick, spec), _in_vain(tick, spec, policy))
    verdict = may_train_now(spec.retrain, spec.drift.cooldown, past, tick.platform.clock(), tick.platform.pace)
    if verdict.passed:
        return report.cause
    told = f"drift does not train now: {verdict.reason}"
    if tick.state.get("held") != without_figures(told):
        tick.state = {**tick.state, "held": without_figures(told)}
        tick.events.append(dg.AssetObservation(keys.key(spec, "training_set"), metadata={"held": told, "cause": report.cause}))
    return None


def newest_drift_report(instance: dg.DagsterInstance, spec: ModelSpec) -> DriftReport | None:
    """What Dagster has recorded of the newest drift report; None if there is none yet."""
    key = keys.key(spec, "drift_report")
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return None
    found, at = event.asset_materialization.metadata, datetime.fromtimestamp(event.timestamp, tz=UTC)
    rows, largest, drifted = (found[name].value if name in found else None for name in ("rows", "largest_psi", "drifted"))
    cause = asset_url(Settings.from_environment().dagster_url, key.path, at=at)
    return DriftReport(at, rows, largest, str(drifted or ""), cause)


def _made_at(instance: dg.DagsterInstance, spec: ModelSpec, noun: str) -> datetime | None:
    event = instance.get_latest_materialization_event(keys.key(spec, noun))
    return datetime.fromtimestamp(event.timestamp, tz=UTC) if event else None


def _asked_by_drift(tick: Tick, spec: ModelSpec) -> list[datetime]:
    """When drift asked for each training of the last week; a training that was tried again counts once."""
    wanted = dg.RunsFilter(tags={MODEL_TAG: spec.name, TRIGGER_TAG: DRIFT}, created_after=tick.platform.clock() - WEEK / tick.platform.pace)
    asked = {record.dagster_run.tags[INTENT_TAG]: record.create_timestamp for record in tick.instance.get_run_records(wanted)}
    return list(asked.values())


def _in_vain(tick: Tick, spec: ModelSpec, policy: Policy) -> int:
    """How many releases in a row, until now, were trained because of drift and came to nothing."""
    triggers = (tick.platform.registry.release(spec.name, release).tags.get("trigger") for release in came_to_nothing(policy))
    return sum(1 for _ in takewhile(lambda trigger: trigger == DRIFT, triggers))


def _retried_training(tick: Tick, spec: ModelSpec) -> bool:
    """Whether the training asked for last ended badly and is still being tried again."""
    asked = tick.state.get("asked")
    if asked is None:
        return False
    version = tick.state.get("version", "")
    past = runs_of(tick.instance, _training_intent(spec, asked["as_of"], version))
    if not past or past[0].dagster_run.is_success or is_given_up(past):
        tick.state = {"done": asked["as_of"]}
        return False
    as_of, cause = datetime.fromisoformat(asked["as_of"]), asked.get("cause", "")
    _request_training(tick, spec, as_of, asked["trigger"], asked["gate"], version, cause)
    return True


def _training_intent(spec: ModelSpec, as_of: str, version: str) -> str:
    """``version`` is that of changed features, by which the same data are another reason to train."""
    return f"{spec.name}/train/{as_of}" + (f"/{version}" if version else "")


def _request_training(tick: Tick, spec: ModelSpec, as_of: datetime, trigger: str, gate: str, version: str = "", cause: str = "") -> None:
    config = {"as_of": as_of.isoformat(), "trigger": trigger, "gate": gate, **({"cause": cause} if cause else {})}
    tick.state = {"asked": config, "version": version}
    op = keys.key(spec, "training_set").to_python_identifier()
    intent = _training_intent(spec, as_of.isoformat(), version)
    tags = {TRIGGER_TAG: trigger, **({CAUSE_TAG: cause} if cause else {})}
    ask_for_run(tick, spec, intent, TRAINING_NOUNS, "train", {"ops": {op: {"config": config}}}, None, tags=tags)
