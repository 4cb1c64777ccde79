"""What happens because of the time of day."""

from collections.abc import Iterator, Sequence

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.retention import KEY as RETENTION
from mlops_assets.core.drill import drill_hour
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

DRILL_NOUNS = ("rollback_drill", "report")
FRESHNESS_CHECK = "freshness_check"
"""As ``build_last_update_freshness_checks`` calls it."""

TRAINING_NOUNS = ("training_set", "model", "onnx_model", "registered_model")


def build_schedules(spec: ModelSpec) -> Sequence[dg.ScheduleDefinition]:
    """Retraining on the model's own cadence, if it declares one."""
    if spec.retrain.schedule is None:
        return []
    job = dg.define_asset_job(f"{spec.slug}_retrain", [keys.key(spec, noun) for noun in TRAINING_NOUNS])
    config = {
        "ops": {
            keys.key(spec, "training_set").to_python_identifier(): {"config": {"trigger": "schedule", "gate": spec.retrain.after_days_gate}}
        }
    }
    return [
        dg.ScheduleDefinition(
            name=f"{spec.slug}_retrain",
            job=job,
            cron_schedule=spec.retrain.schedule,
            run_config=config,
            should_execute=lambda context: in_use(context.resources.platform, spec),
            required_resource_keys={"platform"},
            default_status=dg.DefaultScheduleStatus.RUNNING,
            tags={"mlops/model": spec.name, "mlops/stage": "train"},
        )
    ]


def drill_schedule(specs: Sequence[ModelSpec]) -> dg.ScheduleDefinition:
    """One rollback drill a day of every model, at the model's own hour, and the report page after it."""

    @dg.schedule(
        name="rollback_drill",
        cron_schedule="23 * * * *",
        target=dg.AssetSelection.assets(*(keys.key(spec, noun) for spec in specs for noun in DRILL_NOUNS)),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Brings the release before each champion back, beside production, says how long it takes, and makes the report page.",
    )
    def drills(context: dg.ScheduleEvaluationContext, platform: dg.ResourceParam[Platform]) -> Iterator[dg.RunRequest]:
        at = context.scheduled_execution_time
        for spec in specs:
            if drill_hour(spec.name) == at.hour and in_use(platform, spec):
                yield dg.RunRequest(
                    run_key=f"{spec.name}/drill/{at:%Y-%m-%d}",
                    asset_selection=[keys.key(spec, noun) for noun in DRILL_NOUNS],
                    tags={"mlops/model": spec.name, "mlops/stage": "drill"},
                )

    return drills


def freshness_schedule(specs: Sequence[ModelSpec]) -> dg.ScheduleDefinition:
    """One evaluation of all freshness checks an hour, but those of retired models."""
    watched = {spec.name: [keys.key(spec, name) for name in ("events", "labels")] for spec in specs}
    every = [key for of in watched.values() for key in of]
    job = dg.define_asset_job("freshness", dg.AssetSelection.checks_for_assets(*every) - dg.AssetSelection.assets(*every))

    @dg.schedule(name="freshness", job=job, cron_schedule="0 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
    def freshness(platform: dg.ResourceParam[Platform]) -> Iterator[dg.RunRequest]:
        used = [spec for spec in specs if in_use(platform, spec)]
        checks = [dg.AssetCheckKey(key, FRESHNESS_CHECK) for spec in used for key in watched[spec.name]]
        if checks:
            yield dg.RunRequest(asset_selection=[], asset_check_keys=checks)

    return freshness


def retention_schedule() -> dg.ScheduleDefinition:
    """What is past its time is deleted once a day, of retired models too."""
    job = dg.define_asset_job("retention", [RETENTION])
    return dg.ScheduleDefinition(name="retention", job=job, cron_schedule="41 4 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)


def in_use(platform: Platform, spec: ModelSpec) -> bool:
    """Whether a model is not retired. One of which that cannot be read is taken to be in use: its run then says what is wrong."""
    try:
        return platform.policies.read(spec.name).retired_at is None
    except MlopsError:
        return True


def slo_schedule(specs: Sequence[ModelSpec]) -> dg.ScheduleDefinition:
    """One run an hour for the reports of all models."""
    job = dg.define_asset_job("slo_reports", [keys.key(spec, "slo_report") for spec in specs])
    return dg.ScheduleDefinition(name="slo_reports", job=job, cron_schedule="5 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
