"""From landed files to a frozen training set: the ``data`` group of a model."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import pandas as pd

from mlops_assets.adapters import feature_rows, landing, tables
from mlops_assets.assets import feature_statistics, keys
from mlops_assets.assets.data_checks import (
    feature_schema_check,
    freshness_check,
    leakage_check,
    null_rate_check,
    parity_check,
    require_request_columns,
    schema_check,
    volume_check,
)
from mlops_assets.assets.documents import TrainingSet
from mlops_assets.assets.features import build_features_asset
from mlops_assets.assets.reading import data_time, days_of, feature_code_version, read_datasets, training_code_version, views_of
from mlops_assets.core.data_spec import Dataset
from mlops_assets.core.errors import BadData
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

PARITY_SAMPLE = 200
"""How many entities the online store is compared on."""


def build_data_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    datasets = [_dataset_asset(spec, name, dataset) for name, dataset in spec.data.datasets.items()]
    return [*datasets, build_features_asset(spec), _training_set_asset(spec), _online_features_asset(spec)]


def _dataset_asset(spec: ModelSpec, name: str, dataset: Dataset) -> dg.AssetsDefinition:
    key = keys.key(spec, name)

    @dg.asset(
        key=key,
        group_name=keys.group(spec, "data"),
        partitions_def=keys.days(spec),
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(spec.owners),
        kinds={"parquet", "s3"},
        description=f"The {name} of {spec.name} that landed, validated; refused files are in quarantine with their reason.",
        check_specs=[dg.AssetCheckSpec(check, asset=key, blocking=True) for check in ("schema", "null_rate", "volume")],
    )
    def ingested(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        landed = [landing.read_day(platform.objects, spec.name, name, dataset, day) for day in days_of(context.partition_keys)]
        digests = [tables.write_day(platform.objects, spec.name, name, day.day, day.versions) for day in landed]
        return dg.MaterializeResult(
            data_version=dg.DataVersion(tables.digests(digests)),
            metadata=_ingest_metadata(landed),
            check_results=[schema_check(spec, landed), null_rate_check(dataset, landed), volume_check(dataset, landed)],
        )

    return ingested


class TrainingSetConfig(dg.Config):
    """What a training is asked for. ``as_of`` is a data time (ISO); by default the end of the newest day of events.

    ``cause`` is where a person finds the reason: of drift the report's address, by hand a ticket's.
    """

    as_of: str | None = None
    gate: str | None = None
    trigger: str = "manual"
    cause: str = ""


def _training_set_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "training_set")

    @dg.asset(
        key=key,
        code_version=feature_code_version(spec),
        deps=[keys.key(spec, name) for name in ("events", "labels", "features")],
        group_name=keys.group(spec, "data"),
        owners=list(spec.owners),
        kinds={"feast", "duckdb"},
        dagster_type=dg.Any,
        description="Point-in-time correct rows: each event with what was known at its time and what came true. Content-addressed.",
        check_specs=[dg.AssetCheckSpec(check, asset=key, blocking=True) for check in ("no_leakage", "feature_schema")],
    )
    def training_set(config: TrainingSetConfig, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        as_of = datetime.fromisoformat(config.as_of) if config.as_of else data_time(platform, spec)
        rows = labelled_rows(platform, spec, as_of)
        training, holdout = split_holdout(spec, rows, as_of)
        parts = [tables.write_set(platform.objects, spec.name, part) for part in (training, holdout)]
        document = TrainingSet(
            digest=tables.digests(parts),
            training=parts[0],
            holdout=parts[1],
            as_of=as_of,
            rows=len(training),
            holdout_rows=len(holdout),
            feature_hash=platform.features.version(spec.features).hash,
            trigger=config.trigger,
            gate=config.gate or spec.gates.default,  # type: ignore[arg-type]
            cause=config.cause,
        )
        return dg.MaterializeResult(
            value=document,
            data_version=dg.DataVersion(document.digest),
            metadata=_training_set_metadata(spec, document, training),
            check_results=[leakage_check(spec, training, holdout), feature_schema_check(spec, training)],
        )

    return training_set


def _training_set_metadata(spec: ModelSpec, made: TrainingSet, training: pd.DataFrame) -> dict[str, Any]:
    return {
        "rows": made.rows,
        "holdout_rows": made.holdout_rows,
        "positive_rate": float(training[spec.label.column].mean()),
        "as_of": dg.MetadataValue.timestamp(made.as_of),
        "trigger": made.trigger,
        **cause_metadata(made.cause),
        "gate": made.gate,
        "feature_hash": made.feature_hash,
        "training_code": training_code_version(spec),
        "training_digest": made.training,
        "holdout_digest": made.holdout,
        "statistics": feature_statistics.table(_summaries_of_inputs(spec, training)),
    }


def cause_metadata(cause: str) -> dict[str, dg.MetadataValue]:
    """A link where the cause is an address, else a text; nothing without a cause."""
    if not cause:
        return {}
    return {"cause": dg.MetadataValue.url(cause) if cause.startswith(("http://", "https://")) else dg.MetadataValue.text(cause)}


def _online_features_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "online_features")

    @dg.asset(
        key=key,
        deps=[keys.key(spec, "features")],
        group_name=keys.group(spec, "data"),
        owners=list(spec.owners),
        kinds={"feast"},
        description="The newest value of every feature, where a serving process can look it up.",
        check_specs=[dg.AssetCheckSpec(check, asset=key) for check in ("online_offline_parity", "views_fresh")],
    )
    def online_features(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        until = data_time(platform, spec)
        written = platform.features.materialize(spec.features, until)
        entities = newest_entities(platform, spec, until)
        offline = platform.features.as_of(spec.features, entities.assign(event_timestamp=until))
        online = platform.features.online(spec.features, entities)
        return dg.MaterializeResult(
            metadata={"entities_written": written, "as_of": dg.MetadataValue.timestamp(until)},
            check_results=[
                parity_check(spec, entities, offline, online),
                freshness_check(key, views_of(spec), platform.features.newest(spec.features, until), until),
            ],
        )

    return online_features


def labelled_rows(platform: Platform, spec: ModelSpec, as_of: datetime) -> pd.DataFrame:
    """Events whose label is older than its horizon at ``as_of``, with label and features as of the event.

    An event without a label by then (a cancelled flight, say) is not among them: it is neither a yes nor a no. Of an event or label that
    was corrected, the version counts that was known at ``as_of``.
    """
    require_request_columns(spec, platform.features.version(spec.features))
    newest = as_of - spec.label.horizon
    oldest = newest - spec.holdout.window - spec.training.window
    datasets = read_datasets(platform, spec, oldest.date(), as_of.date(), known_by=as_of)
    events, labels = datasets["events"], datasets["labels"]
    event_key, event_time = list(spec.data.datasets["events"].key), spec.data.datasets["events"].time
    due = events[(events[event_time] >= oldest) & (events[event_time] < newest)]
    joined = due.merge(labels[[*event_key, spec.label.column]], on=event_key, how="inner")
    if joined.empty:
        raise BadData(f"{spec.name} has no labelled event between {oldest} and {newest}: land labels, or wait until they are due")
    ordered = joined.rename(columns={event_time: "event_timestamp"}).sort_values(["event_timestamp", *event_key], ignore_index=True)
    return platform.features.as_of(spec.features, ordered)


def newest_entities(platform: Platform, spec: ModelSpec, until: datetime) -> pd.DataFrame:
    """The newest events, on whose entities the online store is compared."""
    newest = read_datasets(platform, spec, (until - timedelta(days=1)).date(), until.date())["events"]
    return newest.tail(PARITY_SAMPLE).reset_index(drop=True)


def split_holdout(spec: ModelSpec, rows: pd.DataFrame, as_of: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on, and the newest window that is only judged on.

    Raises:
        BadData: if either has too few rows.
    """
    border = as_of - spec.label.horizon - spec.holdout.window
    before = rows["event_timestamp"] < border
    training, holdout = rows[before].reset_index(drop=True), rows[~before].reset_index(drop=True)
    if len(training) < spec.training.min_rows or holdout.empty:
        raise BadData(
            f"{spec.name}: {len(training)} rows before {border} to train on and {len(holdout)} after it to judge on, expected at least "
            f"{spec.training.min_rows} and 1: land more days"
        )
    return training, holdout


def _ingest_metadata(landed: Sequence[landing.Landed]) -> dict[str, dg.MetadataValue | int]:
    refused = [quarantined for day in landed for quarantined in day.quarantined]
    records = [dg.TableRecord({"file": item.key, "reason": item.reason}) for item in refused]
    return {
        "rows": sum(len(day.rows) for day in landed),
        "files": sum(day.files for day in landed),
        "quarantined_files": len(refused),
    } | ({"quarantined": dg.MetadataValue.table(records)} if records else {})


def _summaries_of_inputs(spec: ModelSpec, training: pd.DataFrame) -> list[feature_statistics.Summary]:
    """What the model's inputs are like, each beside the view that it comes from, or the events."""
    version = feature_rows.load_definitions(spec.features.transform).version(spec.features.service)
    origin = {field.name: view.name for view in (*version.views, *version.on_demand) for field in view.fields}
    return [
        feature_statistics.summarize(
            origin.get(feature.name, "events"), feature.name, training[feature.name], bool(feature.categories), feature.name in spec.pii
        )
        for feature in spec.features.inputs
    ]


def partition_ranges(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Contiguous ranges of days, each to be asked for in one run.

    >>> [(a.day, b.day) for a, b in partition_ranges([date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 5)])]
    [(1, 2), (5, 5)]
    """
    ordered = sorted(set(days))
    start = None
    for day, following in zip(ordered, [*ordered[1:], None], strict=True):
        start = start or day
        if following != day + timedelta(days=1):
            yield start, day
            start = None
