"""Ask for the hourly run: once an hour of the clock, for all models that have a release in production."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.hourly import hour_at
from mlops_assets.assets.hourly_monitoring import OP, REPORTS
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from mlops_assets.sensors.tick import STAGE_TAG, UNFINISHED

STAGE = "hourly"
SHIPPED = timedelta(minutes=2)
"""So long after an hour's end its last answers are in the log."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def look_at_hour(context: dg.SensorEvaluationContext, platform: Platform, specs: Sequence[ModelSpec]) -> dg.SensorResult:
    """Ask for one run when an hour is over, unless the one before is still at it. What a run leaves undone, the next one does."""
    now, step = platform.clock(), hour_at(platform.pace)
    due = datetime.fromisoformat(json.loads(context.cursor)["due"]) if context.cursor else now
    if now < due or context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED, tags={STAGE_TAG: STAGE}), limit=1):
        return dg.SensorResult(cursor=context.cursor)
    lag = min(SHIPPED, step / 10)
    following = _EPOCH + ((now - lag - _EPOCH) // step + 1) * step + lag
    watched = [spec for spec in specs if _is_served(context, platform, spec)]
    cursor = json.dumps({"due": following.isoformat()})
    if not watched:
        return dg.SensorResult(cursor=cursor)
    run = dg.RunRequest(
        run_key=f"{STAGE}/{due.isoformat()}",
        asset_selection=[keys.key(spec, report.noun) for spec in watched for report in REPORTS],
        run_config={"ops": {OP: {"config": {"only_due": True}}}},
        tags={STAGE_TAG: STAGE},
    )
    return dg.SensorResult(run_requests=[run], cursor=cursor)


def _is_served(context: dg.SensorEvaluationContext, platform: Platform, spec: ModelSpec) -> bool:
    try:
        return platform.policies.read(spec.name).champion is not None
    except MlopsError as error:
        context.log.error(f"{spec.name}: {error}")
        return False
