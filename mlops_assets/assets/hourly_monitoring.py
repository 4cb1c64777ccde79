"""The hourly run: what every model was asked is compacted, profiled and reported, in one step for all of them."""

from collections.abc import Iterator, Sequence, Set
from datetime import datetime

import dagster as dg

from mlops_assets.assets import html_report, keys
from mlops_assets.assets.drift import DRIFT
from mlops_assets.assets.hourly import Asked, HourlyReport
from mlops_assets.assets.performance import PERFORMANCE
from mlops_assets.assets.predictions import PREDICTIONS, PROFILE
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

OP = "hourly_monitoring"
REPORTS: tuple[HourlyReport, ...] = (PREDICTIONS, PROFILE, DRIFT, PERFORMANCE)
"""What the run makes of a model, in this order. One more hourly report is one more entry."""

MOST_TOLD = 24
"""So many hours of an asset a run records in Dagster, the newest. Where a year is replayed in minutes hundreds of hours change at once, and
an event takes 65 ms; their files are written all the same."""

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

_PARTITION, _FIRST, _LAST = "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


class HourlyConfig(dg.Config):
    """How a run is made.

    ``only_due``: leave out what is not due by the model's own cadence or would say the same again, as the sensor asks. ``html``: make the
    HTML report of each drift report, also where no other column has drifted than before.
    """

    only_due: bool = False
    html: bool = False


def build_hourly_monitoring(specs: Sequence[ModelSpec]) -> list[dg.AssetsDefinition]:
    """The assets of ``REPORTS`` for all models, as one step: a thousand models in steps of their own would take longer than the hour has.

    A run for given partitions makes these hours anew. One without, as the sensor asks for, takes what is new: of which hours that is, the
    log says, and each materialization is recorded with its own hour.
    """
    if not specs:
        return []
    assets = [_asset(spec, report) for spec in specs for report in REPORTS]
    checks = [dg.AssetCheckSpec(c, asset=keys.key(spec, report.noun)) for spec in specs for report in REPORTS for c in report.checks]

    @dg.multi_asset(name=OP, specs=assets, check_specs=checks, can_subset=True, backfill_policy=dg.BackfillPolicy.single_run())
    def hourly_monitoring(
        context: dg.AssetExecutionContext, config: HourlyConfig, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.MaterializeResult]:
        yield from watch(context, platform, specs, Asked(_hours(context.run.tags), config.only_due, config.html))  # type: ignore[misc]

    return [hourly_monitoring]


def watch(context: dg.AssetExecutionContext, platform: Platform, specs: Sequence[ModelSpec], asked: Asked) -> Iterator[Event]:
    """Make the reports that the run selects, model by model; what one model's trouble is stays with it."""
    broken, selected = [], context.selected_asset_keys  # of a thousand models; made anew whenever it is asked for
    for spec in specs:
        try:
            yield from _watched(context, platform, spec, asked, selected)
        except Exception:  # whatever it is belongs to this model; the others are watched, and then the run fails
            context.log.exception(f"{spec.name} could not be watched")
            broken.append(spec.name)
    for spec, release, until in asked.html_reports:
        yield from _html(context, platform, spec, release, until)
    if broken:
        raise dg.Failure(f"{', '.join(broken)} could not be watched: the log of this run has the errors; every other model was")


def _asset(spec: ModelSpec, report: HourlyReport) -> dg.AssetSpec:
    return dg.AssetSpec(
        keys.key(spec, report.noun),
        deps=[keys.key(spec, noun) for noun in report.deps],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        kinds=set(report.kinds),
        description=report.description,
        partitions_def=keys.hours(spec),
    )


def _watched(
    context: dg.AssetExecutionContext, platform: Platform, spec: ModelSpec, asked: Asked, selected: Set[dg.AssetKey]
) -> Iterator[Event]:
    """What is made of one model. What cannot be made fails its checks, and those of what is made of it."""
    failed: dict[str, str] = {}
    for report in REPORTS:
        key = keys.key(spec, report.noun)
        if key not in selected:
            continue
        cause = next((failed[noun] for noun in report.deps if noun in failed), None)
        try:
            made = report.make(platform, spec, asked) if cause is None else {}
        except MlopsError as error:
            context.log.error(f"{spec.name}: {report.noun}: {error}")
            cause, made = str(error), {}
        if cause is not None:
            failed[report.noun] = cause
            yield from (dg.AssetCheckEvaluation(key, check, passed=False, metadata={}, description=cause) for check in report.checks)
        for hour in sorted(made)[-MOST_TOLD:]:
            yield from _told(key, hour, made[hour])


def _told(key: dg.AssetKey, hour: datetime, result: dg.MaterializeResult) -> Iterator[Event]:
    """What was made of an hour, and the checks that came with it."""
    yield dg.AssetMaterialization(key, partition=keys.partition(hour), metadata=dict(result.metadata or {}))
    for check in result.check_results or ():
        yield dg.AssetCheckEvaluation(
            key, str(check.check_name), check.passed, check.metadata, severity=check.severity, description=check.description
        )


def _html(context: dg.AssetExecutionContext, platform: Platform, spec: ModelSpec, release: str, until: datetime) -> Iterator[Event]:
    """Write a report whose place its materialization has told already; that it could not be is observed there."""
    try:
        html_report.write(platform, spec, release, until)
    except Exception as error:  # of a library that draws; what was found stands in the report itself
        context.log.exception(f"{spec.name}: the HTML report could not be made")
        metadata = {"html_report_missing": f"{type(error).__name__}: {error}"}
        yield dg.AssetObservation(keys.key(spec, DRIFT.noun), partition=keys.partition(until), metadata=metadata)


def _hours(tags: dict[str, str]) -> tuple[datetime, ...]:
    """The event hours of a run's partitions, in order; none if it has none."""
    first, last = (tags.get(_PARTITION, tags.get(name)) for name in (_FIRST, _LAST))
    return keys.hours_between(first, last) if first and last else ()
