"""The history of a model's feature views: what became known of them, day by day."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import dagster as dg
import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.assets import feature_statistics, keys
from mlops_assets.assets.reading import days_of, feature_code_version, load, midnight, read_datasets, settled_until
from mlops_assets.core.feature_views import View
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform


def build_features_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.asset(
        key=keys.key(spec, "features"),
        code_version=feature_code_version(spec),
        deps=[keys.key(spec, name) for name in spec.data.datasets],
        group_name=keys.group(spec, "data"),
        partitions_def=keys.days(spec),
        backfill_policy=dg.BackfillPolicy.single_run(),
        owners=list(spec.owners),
        kinds={"feast", "parquet"},
        description=f"The rows of every feature view of {spec.features.service}, by the day in which they became known.",
    )
    def features(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        days = transformed(platform, spec, days_of(context.partition_keys))
        settled, transform = settled_until(platform, spec), platform.features.version(spec.features).transform
        for day, views in days.items():
            for view, rows in views.items():
                platform.features.write(view, day, rows, settled, transform)
            context.add_asset_metadata(_metadata_of_views(spec, views), partition_key=day.isoformat())
        return dg.MaterializeResult(metadata={"settled_until": dg.MetadataValue.timestamp(settled)})

    return features


def transformed(platform: Platform, spec: ModelSpec, days: Sequence[date]) -> dict[date, dict[View, pd.DataFrame]]:
    """The rows of every view that became known on each of these days, all of which are computed together."""
    start, end = midnight(days[0]), midnight(days[-1] + timedelta(days=1))
    datasets = read_datasets(platform, spec, days[0] - spec.features.lookback, days[-1])
    definitions = feature_rows.load_definitions(spec.features.transform)
    found: dict[date, dict[View, pd.DataFrame]] = {day: {} for day in days}
    for name, rows in load(spec.features.transform)(datasets, start, end).items():
        by_day = dict(list(rows.groupby(rows["event_timestamp"].dt.date))) if len(rows) else {}
        for day in days:
            found[day][definitions.view(name)] = by_day.get(day, rows.iloc[:0])
    return found


def _metadata_of_views(spec: ModelSpec, views: Mapping[View, pd.DataFrame]) -> dict[str, object]:
    """How many rows became known, and what their values are like."""
    summaries = []
    for view, rows in views.items():
        values = rows.reindex(columns=[field.name for field in view.fields])
        summaries += [
            feature_statistics.summarize(view.name, field.name, values[field.name], field.type == "string", field.name in spec.pii)
            for field in view.fields
        ]
    return {**{f"rows_{view.name}": len(rows) for view, rows in views.items()}, "statistics": feature_statistics.table(summaries)}
