"""The checks of the ``data`` group: what a frame must be like before anything is made of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg
import numpy as np
import pandas as pd

from mlops_assets.adapters import landing
from mlops_assets.adapters.expressions import Expression
from mlops_assets.assets.reading import nullable
from mlops_assets.assets.verdicts import check_result, table
from mlops_assets.core.comparison import auc
from mlops_assets.core.data_spec import Dataset
from mlops_assets.core.errors import SpecError
from mlops_assets.core.feature_views import FeatureVersion, View
from mlops_assets.core.freshness import freshness, summarize
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.signature import encode
from mlops_assets.core.skew import compare

LEAK_AUC = 0.995
"""A single feature that ranks the outcomes better than this is taken for a copy of the label."""


def schema_check(spec: ModelSpec, landed: Sequence[landing.Landed]) -> dg.AssetCheckResult:
    files = sum(day.files for day in landed)
    refused = [item for day in landed for item in day.quarantined]
    share, limit = len(refused) / max(files, 1), spec.data.max_quarantined_share
    return dg.AssetCheckResult(
        check_name="schema",
        passed=share <= limit,
        description=refused[0].reason if refused else None,
        metadata={"quarantined_share": share, "max_quarantined_share": limit, "quarantined_files": len(refused), "files": files},
    )


def null_rate_check(dataset: Dataset, landed: Sequence[landing.Landed]) -> dg.AssetCheckResult:
    rows = pd.concat([day.rows for day in landed])
    rates = rows.isna().mean() if len(rows) else pd.Series(dtype=float)
    above = {name: float(rate) for name, rate in rates.items() if rate > dataset.columns[str(name)].max_null_rate}
    return dg.AssetCheckResult(
        check_name="null_rate",
        passed=not above,
        description="; ".join(
            f"{name}: {rate:.1%} null, at most {dataset.columns[str(name)].max_null_rate:.1%}" for name, rate in above.items()
        )
        or None,
        metadata={"highest_null_rate": float(rates.max()) if len(rates) else 0.0},
    )


def volume_check(dataset: Dataset, landed: Sequence[landing.Landed]) -> dg.AssetCheckResult:
    thin = [f"{day.day}: {len(day.rows)}" for day in landed if len(day.rows) < dataset.min_rows]
    return dg.AssetCheckResult(
        check_name="volume",
        passed=not thin,
        description=f"fewer than {dataset.min_rows} rows on {', '.join(thin)}" if thin else None,
        metadata={"min_rows": dataset.min_rows, "fewest_rows": min(len(day.rows) for day in landed)},
    )


def leakage_check(spec: ModelSpec, training: pd.DataFrame, holdout: pd.DataFrame) -> dg.AssetCheckResult:
    overlap = bool(training["event_timestamp"].max() >= holdout["event_timestamp"].min())
    label = training[spec.label.column].to_numpy(dtype=int)
    matrix = np.nan_to_num(encode(spec.features.inputs, {name: training[name].tolist() for name in spec.features.names}), nan=-1e9)
    both = 0 < label.sum() < len(label)
    aucs = {name: auc(label, matrix[:, index]) for index, name in enumerate(spec.features.names)} if both else {}
    strength = {name: max(value, 1 - value) for name, value in aucs.items()}
    strongest = max(strength, key=strength.__getitem__, default=None)
    leaked = strongest is not None and strength[strongest] > LEAK_AUC
    reasons = ["the holdout begins before the training set ends"] if overlap else []
    reasons += (
        [f"{strongest} alone ranks the outcomes with an AUC of {strength[strongest]:.3f}: it is the label in disguise"] if leaked else []
    )
    return dg.AssetCheckResult(
        check_name="no_leakage",
        passed=not reasons,
        description="; ".join(reasons) or None,
        metadata={"strongest_feature": strongest or "", "strongest_auc": strength.get(strongest or "", 0.0), "max_auc": LEAK_AUC},
    )


def feature_schema_check(spec: ModelSpec, training: pd.DataFrame) -> dg.AssetCheckResult:
    empty = [name for name in spec.features.names if training[name].isna().all()]
    return dg.AssetCheckResult(
        check_name="feature_schema",
        passed=not empty,
        description=f"no value at all in {', '.join(empty)}: look at the views behind {spec.features.service}" if empty else None,
        metadata={"features": len(spec.features.names), "empty_features": ", ".join(empty)},
    )


def parity_check(spec: ModelSpec, entities: pd.DataFrame, offline: pd.DataFrame, online: pd.DataFrame) -> dg.AssetCheckResult:
    joined = [name for name in spec.features.names if name in online.columns and name not in entities.columns]
    differing = [name for name in joined if not _same(offline[name], online[name])]
    return dg.AssetCheckResult(
        check_name="online_offline_parity",
        passed=not differing,
        description=f"online differs from offline in {', '.join(differing)}: materialize online_features again" if differing else None,
        metadata={"entities": len(entities), "features": len(joined), "differing": ", ".join(differing)},
    )


def freshness_check(asset: dg.AssetKey, views: Sequence[View], newest: Mapping[str, datetime | None], at: datetime) -> dg.AssetCheckResult:
    verdicts = [freshness(view, newest.get(view.name), at) for view in views]
    return check_result("views_fresh", asset, summarize(verdicts), {"views": table(verdicts)})


def _same(left: pd.Series, right: pd.Series) -> bool:
    return compare({"": nullable(left)}, {"": nullable(right)})[0].differing == 0


def require_request_columns(spec: ModelSpec, version: FeatureVersion) -> None:
    """See that events have what requests will say, and that a server will know what the expressions name.

    Raises:
        SpecError: if not.
    """
    events, label = spec.data.datasets["events"].columns, spec.label.column
    for view in version.on_demand:
        absent = [item.name for item in view.request if item.name not in events or item.name == label]
        if absent:
            raise SpecError(
                f"{view.name}: {', '.join(absent)} is said by requests, but is no column of events beside the label "
                f"({', '.join(events)}): add it to data.datasets.events"
            )
        said = {item.name for item in view.request} | set(spec.features.names)
        for item in view.fields:
            unknown = [name for name in Expression(item.expression).names if name not in said]
            if unknown:
                raise SpecError(f"{view.name}:{item.name} names {', '.join(unknown)}, which no input is: add it to features.inputs")
