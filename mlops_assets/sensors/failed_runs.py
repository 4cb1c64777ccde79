"""Runs that fail are told to a person, once, and that it is over when what they were for succeeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from mlops_assets.core.alert import Alert
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.slo import Severity
from mlops_assets.ports import Platform
from mlops_assets.sensors.slo import UNTIL_TOLD_AGAIN
from mlops_assets.sensors.tick import INTENT_TAG, MODEL_TAG, STAGE_TAG
from mlops_assets.settings import Settings

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
AT_ONCE = 200
_OVERLAP = timedelta(seconds=10)
"""Two runs that end together may be written in another order than their times."""

OWN_ENDS = ("ingest", "features")
"""Stages of which several intents are open beside each other. Of the others a later success, whatever its intent, is the end of what failed
before: they go on one after the other, and what was given up is not tried again."""

JUDGING = ("quality_gate", "smoke_test")
"""Checks that refuse a release. That is what they are for, and the policy's log says why."""


@dataclass(frozen=True)
class Failure:
    """A run that failed, and what it was for."""

    intent: str
    model: str
    stage: str
    severity: Severity
    summary: str
    run_id: str


@dataclass(frozen=True)
class Seen:
    """From when and up to when ended runs were looked at, what is open, and what is over and not told yet."""

    began: str = ""
    until: str = ""
    open: tuple[Failure, ...] = ()
    over: tuple[Failure, ...] = ()

    @classmethod
    def from_json(cls, text: str | None) -> "Seen":
        document = json.loads(text) if text else {}
        lists = {name: tuple(Failure(**item) for item in document.get(name, ())) for name in ("open", "over")}
        return cls(document.get("began", ""), document.get("until", ""), **lists)


def look_at_failed_runs(instance: dg.DagsterInstance, platform: Platform, seen: Seen) -> Seen:
    """Look at the runs that ended since, tell of those that failed, and of those that are over. What is open is told at each look, lest
    it be forgotten. The first look begins with what ends from now on.
    """
    if not seen.until:
        newest = instance.get_run_records(dg.RunsFilter(statuses=ENDED), limit=1, order_by="update_timestamp")
        now = (newest[0].update_timestamp if newest else datetime.fromtimestamp(0, UTC)).isoformat()
        return Seen(now, now)
    since = max(datetime.fromisoformat(seen.began), datetime.fromisoformat(seen.until) - _OVERLAP)
    filters = dg.RunsFilter(statuses=ENDED, updated_after=since)
    records = instance.get_run_records(filters, limit=AT_ONCE, order_by="update_timestamp", ascending=True)
    found = seen
    for record in records:
        found = _ended(instance, found, record.dagster_run)
    if records:
        found = replace(found, until=max(seen.until, records[-1].update_timestamp.isoformat()))
    return _tell(platform, found)


def _ended(instance: dg.DagsterInstance, seen: Seen, run: dg.DagsterRun) -> Seen:
    if run.is_success:
        return _succeeded(seen, run)
    if any(each.run_id == run.run_id for each in seen.open):
        return seen
    failure = _failure(instance, run)
    if failure is None:
        return seen
    return replace(seen, open=(*(each for each in seen.open if each.intent != failure.intent), failure))


def _succeeded(seen: Seen, run: dg.DagsterRun) -> Seen:
    """What the success ends. Others of the same alert may be open still, and it is not over before all of them are."""
    ended = [each for each in seen.open if _ends(run, each)]
    left = tuple(each for each in seen.open if each not in ended)
    still = {_alert(each).identity for each in left}
    return replace(seen, open=left, over=(*seen.over, *(each for each in ended if _alert(each).identity not in still)))


def _ends(run: dg.DagsterRun, failure: Failure) -> bool:
    model, stage, intent = _identity(run)
    return intent == failure.intent or ((model, stage) == (failure.model, failure.stage) and stage not in OWN_ENDS)


def _identity(run: dg.DagsterRun) -> tuple[str, str, str]:
    """Model, stage and intent of a run; one that a person or a schedule launched is known by its job and its assets."""
    assets = sorted("/".join(key.path) for key in run.asset_selection or ())
    slugs = {asset.partition("/")[0] for asset in assets}
    model = run.tags.get(MODEL_TAG) or (slugs.pop().replace("_", "-") if len(slugs) == 1 else "all")
    stage = run.tags.get(STAGE_TAG, run.job_name if not assets else "by hand")
    return model, stage, run.tags.get(INTENT_TAG) or f"{model}/{stage}/{','.join(assets)}"


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Failure | None:
    """What is told of a failed run; None if a check ended it that is there to refuse releases."""
    model, stage, intent = _identity(run)
    failed = _failed_checks(instance, run)
    if failed & set(JUDGING):
        return None
    severity: Severity = "ticket" if failed else "page"
    why = f"the check {', '.join(sorted(failed))} failed" if failed else _error(instance, run)
    return Failure(intent, model, stage, severity, f"the run for {intent} failed: {why}", run.run_id)


def _failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    logged = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [entry.dagster_event.asset_check_evaluation_data for entry in logged if entry.dagster_event]
    return {each.check_name for each in evaluations if not each.passed and each.blocking}


def _error(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        error = event.step_failure_data.error if event else None
        if event and error:
            cause = error.cause or error
            return f"{event.step_key}: {' '.join(cause.message.split())[:300]}"
    return "no step says why; see the run"


def _tell(platform: Platform, seen: Seen) -> Seen:
    """What cannot be told now is told at the next look."""
    try:
        platform.pager.resolve([_alert(failure) for failure in seen.over])
        platform.pager.fire([_alert(failure) for failure in _newest(seen.open)], platform.clock() + UNTIL_TOLD_AGAIN)
    except Unavailable as error:
        dg.get_dagster_logger().error(f"{len(seen.open)} failed runs are told to nobody: {error}")
        return seen
    return replace(seen, over=())


def _newest(failures: Sequence[Failure]) -> Sequence[Failure]:
    """One of each alert."""
    return list({_alert(failure).identity: failure for failure in failures}.values())


def _alert(failure: Failure) -> Alert:
    settings = Settings.from_environment()
    links: Mapping[str, str] = {"link": f"{settings.dagster_url}/runs/{failure.run_id}", "runbook": f"{settings.runbooks_url}#run-failed"}
    return Alert("RunFailed", failure.model, "run-failed", failure.severity, failure.summary, **links, labels={"stage": failure.stage})


def failed_runs_sensor(interval_seconds: int) -> dg.SensorDefinition:
    """One sensor over all runs."""

    @dg.sensor(
        name="failed_runs",
        description="Tells a person of runs that failed, once, and when what they were for succeeds.",
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        asset_selection=dg.AssetSelection.all(),
    )
    def failed_runs(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
        seen = look_at_failed_runs(context.instance, platform, Seen.from_json(context.cursor))
        return dg.SensorResult(cursor=json.dumps(asdict(seen)))

    return failed_runs
