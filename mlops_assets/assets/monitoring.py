"""What is served, watched: the ``monitoring`` group of a model."""

from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd

from mlops_assets.assets import keys
from mlops_assets.assets.training import SCORE, baseline_key, nullable
from mlops_assets.core.drift import drift
from mlops_assets.core.errors import NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.profile import Profile, profile
from mlops_assets.core.signature import encode
from mlops_assets.core.verdict import Outcome, Verdict, combine
from mlops_assets.ports import Platform

FEATURE_PREFIX = "feature__"


def build_monitoring_assets(spec: ModelSpec) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    predictions = dg.AssetSpec(
        keys.key(spec, "predictions"),
        deps=[keys.key(spec, "production")],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        kinds={"parquet", "s3"},
        description="Every answer with its features, release, score and latency. Written by the serving processes.",
    )
    return [predictions, _drift_report(spec)]


def _drift_report(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "drift_report")

    @dg.asset(
        key=key,
        deps=[keys.key(spec, "predictions")],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        description=f"The served features and scores of the last {spec.drift.window} of event time against the champion's baseline.",
        check_specs=[dg.AssetCheckSpec(check, asset=key) for check in ("feature_drift", "prediction_drift")],
    )
    def drift_report(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        policy = platform.policies.read(spec.name)
        if policy.champion is None:
            raise NotFound(f"{spec.name} has no release in production, so there is nothing to watch: promote one first")
        base = Profile.from_json(platform.objects.get(baseline_key(spec.name, policy.champion)).decode())
        served, until = served_window(platform, spec)
        verdicts = drift(base, profile(base, matrix_with_scores(spec, served)), spec.drift.max_psi, spec.drift.min_rows, spec.drift.ignore)
        features = tuple(verdict for verdict in verdicts if verdict.name != SCORE)
        scores = tuple(verdict for verdict in verdicts if verdict.name == SCORE)
        return dg.MaterializeResult(
            metadata={
                "release": policy.champion,
                "rows": len(served),
                "until": dg.MetadataValue.timestamp(until) if until else "nothing was served",
                "drifted": ", ".join(verdict.name for verdict in features if verdict.outcome is Outcome.FAIL),
                **largest(features),
                "verdicts": _table(verdicts),
                **{f"psi_{verdict.name}": verdict.value for verdict in verdicts if verdict.value is not None},
            },
            check_results=[_check("feature_drift", features), _check("prediction_drift", scores)],
        )

    return drift_report


def served_window(platform: Platform, spec: ModelSpec) -> tuple[pd.DataFrame, datetime | None]:
    """What champions answered in production in the last window of event time, and the newest event time seen."""
    # Event time may run faster than the clock, by the platform's pace; an answer is shipped within a minute or so.
    since = platform.clock() - spec.drift.window / platform.pace - timedelta(minutes=2)
    rows = platform.predictions.read(spec.name, platform.predictions.position(spec.name, since)).rows
    if rows.empty:
        return rows, None
    live = rows[rows["role"] == "live"]
    if live.empty:
        return live, None
    newest = live["event_time"].max()
    return live[live["event_time"] > newest - spec.drift.window], newest.to_pydatetime()


def matrix_with_scores(spec: ModelSpec, served: pd.DataFrame) -> np.ndarray:
    """Served features as the model saw them, and the score as one more column; shape (rows, features + 1)."""
    if served.empty:
        return np.empty((0, len(spec.features.names) + 1), dtype=np.float32)
    columns = {name: nullable(served[FEATURE_PREFIX + name]) for name in spec.features.names}
    return np.column_stack([encode(spec.features.inputs, columns), served["score"].to_numpy(dtype=np.float32)])


def largest(verdicts: tuple[Verdict, ...]) -> dict[str, float]:
    """The PSI of the feature that moved most; nothing if none could be measured."""
    values = [verdict.value for verdict in verdicts if verdict.value is not None]
    return {"largest_psi": max(values)} if values else {}


def _check(name: str, verdicts: tuple[Verdict, ...]) -> dg.AssetCheckResult:
    """Failed only on shown drift; too little data is a warning that says so."""
    outcome = combine(verdicts)
    told = [verdict.reason for verdict in verdicts if not verdict.passed]
    return dg.AssetCheckResult(
        check_name=name,
        passed=outcome is Outcome.PASS,
        severity=dg.AssetCheckSeverity.ERROR if outcome is Outcome.FAIL else dg.AssetCheckSeverity.WARN,
        description="; ".join(told[:5]) or None,
        metadata={"outcome": outcome.value, "columns": len(verdicts), "drifted": sum(v.outcome is Outcome.FAIL for v in verdicts)},
    )


def _table(verdicts: tuple[Verdict, ...]) -> dg.TableMetadataValue:
    ranked = sorted(verdicts, key=lambda verdict: -(verdict.value or 0))
    rows = [
        dg.TableRecord({"column": v.name, "outcome": v.outcome.value, "psi": v.value, "limit": v.threshold, "rows": v.sample})
        for v in ranked
    ]
    kinds = {"psi": "float", "limit": "float", "rows": "int"}
    return dg.MetadataValue.table(
        rows, dg.TableSchema([dg.TableColumn(n, kinds.get(n, "string")) for n in ("column", "outcome", "psi", "limit", "rows")])
    )
