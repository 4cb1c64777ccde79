"""What happens because of the time of day."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.core.model_spec import ModelSpec

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
            default_status=dg.DefaultScheduleStatus.RUNNING,
            tags={"mlops/model": spec.name, "mlops/stage": "train"},
        )
    ]


def freshness_schedule(specs: Sequence[ModelSpec]) -> dg.ScheduleDefinition:
    """One evaluation of all freshness checks an hour."""
    watched = [keys.key(spec, name) for spec in specs for name in ("events", "labels")]
    job = dg.define_asset_job("freshness", dg.AssetSelection.checks_for_assets(*watched) - dg.AssetSelection.assets(*watched))
    return dg.ScheduleDefinition(name="freshness", job=job, cron_schedule="0 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)


def slo_schedule(specs: Sequence[ModelSpec]) -> dg.ScheduleDefinition:
    """One run an hour for the reports of all models."""
    job = dg.define_asset_job("slo_reports", [keys.key(spec, "slo_report") for spec in specs])
    return dg.ScheduleDefinition(name="slo_reports", job=job, cron_schedule="5 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
