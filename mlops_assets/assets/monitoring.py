"""What is served, watched: the ``monitoring`` group of a model."""

from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd

from mlops_assets.adapters.pseudonyms import readable
from mlops_assets.assets import keys
from mlops_assets.assets.reading import nullable
from mlops_assets.assets.training import SCORE, baseline_key
from mlops_assets.core.baseline import Baseline
from mlops_assets.core.distances import DEFINITION, Distances, Tests, examine, measure
from mlops_assets.core.drift import judge, summarize
from mlops_assets.core.errors import NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.performance import estimate
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
        base = Baseline.from_json(platform.objects.get(baseline_key(spec.name, policy.champion)).decode())
        served = served_window(platform, spec)
        current = profile(base.profile, matrix_with_scores(spec, readable(served.rows, spec, platform.pii_key)))
        features, scores = (judge(base, current, spec.drift, served.span, names) for names in (spec.watched, [SCORE]))
        ranked = rank(base, current, (*features, *scores))
        return dg.MaterializeResult(
            metadata={
                "release": policy.champion,
                "rows": len(served.rows),
                "until": dg.MetadataValue.timestamp(served.until) if served.until else "nothing was served",
                "summary": summarize(features).reason,
                "drifted": ", ".join(summarize(features).drifted),
                **largest(features),
                **matters_most(ranked),
                **expected_performance(spec, base, served.rows),
                "distances_definition": DEFINITION,
                "verdicts": _table(ranked),
                **{f"psi_{verdict.name}": verdict.value for verdict in (*features, *scores) if verdict.value is not None},
            },
            check_results=[_check("feature_drift", features), _check("prediction_drift", scores)],
        )

    return drift_report


@dataclass(frozen=True, eq=False)
class Served:
    """Answers, the newest event time among them, and how much event time they cover."""

    rows: pd.DataFrame
    until: datetime | None = None
    span: timedelta = timedelta(0)


def served_window(platform: Platform, spec: ModelSpec) -> Served:
    """What champions answered in production in the last window of event time."""
    # Event time may run faster than the clock, by the platform's pace; an answer is shipped within a minute or so.
    since = platform.clock() - spec.drift.window / platform.pace - timedelta(minutes=2)
    rows = platform.predictions.read(spec.name, platform.predictions.position(spec.name, since)).rows
    live = rows if rows.empty else rows[rows["role"] == "live"]
    if live.empty:
        return Served(live)
    newest = live["event_time"].max()
    within = live[live["event_time"] > newest - spec.drift.window]
    return Served(within, newest.to_pydatetime(), (newest - within["event_time"].min()).to_pytimedelta())


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


@dataclass(frozen=True)
class Ranked:
    """A column's verdict with all its distances, and how much its drift matters to this model: importance times PSI."""

    verdict: Verdict
    distances: Distances
    tests: Tests
    importance: float | None

    @property
    def matters(self) -> float:
        return (self.importance or 0.0) * (self.verdict.value or 0.0)


def rank(base: Baseline, current: Profile, verdicts: tuple[Verdict, ...]) -> tuple[Ranked, ...]:
    """The columns in the order of how much their drift matters; those of equal weight, as the score, by their PSI."""
    pairs = {before.name: (before, now) for before, now in zip(base.profile.columns, current.columns, strict=True)}
    found = [
        Ranked(verdict, measure(*pairs[verdict.name]), examine(*pairs[verdict.name]), base.importance.get(verdict.name))
        for verdict in verdicts
    ]
    return tuple(sorted(found, key=lambda entry: (-entry.matters, -(entry.verdict.value or 0.0))))


def matters_most(ranked: tuple[Ranked, ...]) -> dict[str, str]:
    """The drifted feature that the model relies on most, times how far it moved; nothing if no drift matters."""
    drifted = [entry for entry in ranked if entry.verdict.outcome is Outcome.FAIL and entry.matters > 0]
    return {"matters_most": drifted[0].verdict.name} if drifted else {}


def expected_performance(spec: ModelSpec, base: Baseline, served: pd.DataFrame) -> dict[str, float | str]:
    """What the scores let expect before labels come, each figure with its 95 % interval."""
    if base.calibration is None:
        return {"expected_performance": "the holdout could not tell what a score means: it had one class, or one score"}
    score = served["score"].to_numpy(dtype=float) if len(served) else np.empty(0)
    told = estimate(base.calibration, score, spec.label.decision_threshold)
    figures = {"auc": told.auc, "accuracy": told.accuracy, "precision": told.precision, "recall": told.recall}
    found = {name: figure for name, figure in figures.items() if figure is not None}
    values = {f"expected_{name}": figure.value for name, figure in found.items()}
    shown = ", ".join(f"{name} {figure.value:.3f} ({figure.lower:.3f} to {figure.upper:.3f})" for name, figure in found.items())
    return {"expected_performance": f"{shown}: {told.reason}" if shown else told.reason, **values}


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


def _table(ranked: tuple[Ranked, ...]) -> dg.TableMetadataValue:
    columns = {
        "column": "string",
        "outcome": "string",
        "psi": "float",
        "limit": "float",
        "importance": "float",
        "matters": "float",
        **dict.fromkeys((field.name for field in (*fields(Distances), *fields(Tests)) if field.name != "psi"), "float"),
        "rows": "int",
    }
    rows = [
        {
            "column": entry.verdict.name,
            "outcome": entry.verdict.outcome.value,
            "limit": entry.verdict.threshold,
            "importance": entry.importance,
            "matters": entry.matters,
            **asdict(entry.distances),
            **asdict(entry.tests),
            "rows": entry.verdict.sample,
        }
        for entry in ranked
    ]
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.MetadataValue.table([dg.TableRecord({name: row[name] for name in columns}) for row in rows], schema)
