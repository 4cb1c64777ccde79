"""The night shift: seven sensors, each for all models at once.

``new_data`` ingests what landed, ``retrain`` trains on new data, on drift or on changed code, ``release`` takes a release through its
stages, ``slo`` rolls back what burns its budget, and ``reconcile`` repairs whatever is not as the policies say. Each is a loop over models
around one small function; a model that raises is logged and does not stop the others. ``monitoring`` asks for the hourly run that watches
what is served, and ``failed_runs`` looks at what became of the runs that they asked for.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dagster as dg

from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from mlops_assets.sensors.failed_runs import failed_runs_sensor
from mlops_assets.sensors.monitoring import look_at_hour
from mlops_assets.sensors.new_data import look_for_new_data
from mlops_assets.sensors.production import look_at_world
from mlops_assets.sensors.release import look_at_release
from mlops_assets.sensors.slo import look_at_slo
from mlops_assets.sensors.tick import MODEL_TAG, STAGE_TAG, UNFINISHED, Tick
from mlops_assets.sensors.training import look_for_training

Look = Callable[[Tick, ModelSpec], None]


def build_sensors(specs: Sequence[ModelSpec], interval_seconds: int = 30) -> list[dg.SensorDefinition]:
    """The seven sensors over these models."""
    looks: dict[str, tuple[Look, str]] = {
        "new_data": (look_for_new_data, "Ingests the days whose files are new, late or rewritten."),
        "retrain": (
            look_for_training,
            "Trains the first release, and again on new data, on drift, or when features or training code changed.",
        ),
        "release": (look_at_release, "Evaluates and stages a new release, then takes it step by step through its canary."),
        "slo": (look_at_slo, "Rolls back a champion that burns the budget of its objectives, or has a person look."),
        "reconcile": (look_at_world, "Repairs what is not as the policies say, and records what happened outside of runs."),
    }
    sensors = [_sensor(name, partial(look_at_all, specs=specs, look=look), text, interval_seconds) for name, (look, text) in looks.items()]
    watch = _sensor("monitoring", partial(look_at_hour, specs=specs), "Has what was served watched, every hour.", interval_seconds)
    return [*sensors, watch, failed_runs_sensor(interval_seconds)]


def _sensor(
    name: str, evaluate: Callable[[dg.SensorEvaluationContext, Platform], dg.SensorResult], description: str, interval_seconds: int
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        description=description,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def shared(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
        return evaluate(context, platform)

    return shared


def look_at_all(context: dg.SensorEvaluationContext, platform: Platform, specs: Sequence[ModelSpec], look: Look) -> dg.SensorResult:
    """Look at each model; what one model's trouble is stays with it."""
    states: dict[str, dict[str, Any]] = json.loads(context.cursor) if context.cursor else {}
    busy = in_flight(context.instance)
    requests, events = [], []
    for spec in specs:
        tick = Tick(context.instance, platform, busy, states.get(spec.name, {}))
        try:
            look(tick, spec)
        except MlopsError as error:
            context.log.error(f"{spec.name}: {error}")
        requests += tick.requests
        events += tick.events
        if tick.state:
            states[spec.name] = tick.state
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=json.dumps(states))


def in_flight(instance: dg.DagsterInstance) -> frozenset[tuple[str, str]]:
    """Model and stage of every run of ours that has not ended."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return frozenset((run.tags[MODEL_TAG], run.tags.get(STAGE_TAG, "")) for run in runs if MODEL_TAG in run.tags)
