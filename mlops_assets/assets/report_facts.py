"""What the report page of a model tells, gathered from the policy, the registry, the gateways, and what Dagster has recorded."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np

from mlops_assets.adapters.codec import decode
from mlops_assets.assets import keys
from mlops_assets.assets.baseline import SCORE, baseline_of
from mlops_assets.assets.training import CAUSE_TAG, TRIGGER_TAG
from mlops_assets.core import grid
from mlops_assets.core.errors import MlopsError, NotFound
from mlops_assets.core.evidence import SCORE_BINS, Observation, Traffic
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy, describe, release_number, stage_of
from mlops_assets.core.shares import spans
from mlops_assets.links import asset_url, version_url
from mlops_assets.ports import Platform
from mlops_assets.records import OF_PRODUCTION
from mlops_assets.report.facts import (
    DriftFacts,
    DriftRow,
    DrillFacts,
    Facts,
    Interval,
    Metric,
    ReleaseRow,
    Scores,
    Told,
    TrafficRow,
)
from mlops_assets.rollout import GATE_TAG, running_key
from mlops_assets.settings import Settings

REPORTS = 30
"""How many drift reports a sparkline goes back."""

RELEASES = 12
"""How many of the newest releases are listed."""

LOGGED = timedelta(hours=1)
"""Whose scores are drawn: of the newest part of the log, at least ten minutes of the clock."""

_LEAST_LOGGED = timedelta(minutes=10)
METRICS = ("auc", "accuracy", "precision", "recall")


def gather(instance: dg.DagsterInstance, platform: Platform, spec: ModelSpec, settings: Settings) -> Facts:
    """What is known of a model: from the policy, the registry, the gateways, and what Dagster has recorded."""
    policy = platform.policies.read(spec.name)
    seen = _Recorded(instance, spec, settings)
    live = next((change for change in reversed(policy.log) if change.action in OF_PRODUCTION), None)
    metrics, labelled = _performance(seen)
    return Facts(
        model=spec.name,
        description=spec.description,
        owners=spec.owners,
        made_at=platform.clock(),
        live=describe(policy),
        champion=policy.champion,
        since=live.at if live else None,
        challenger=policy.challenger.release if policy.challenger else None,
        spans=spans(policy),
        releases=_releases(platform, policy, spec, settings),
        traffic=_traffic(platform, spec),
        scores=_scores(platform, spec, policy),
        drift=_drift(seen),
        metrics=metrics,
        labelled=labelled,
        features=tuple(seen.table("training_set", "statistics")),
        fresh=tuple(_fresh(seen)),
        skew=seen.check("training_serving_skew", "no_skew"),
        drill=_drill(seen, spec),
        links={
            "releases in Dagster": asset_url(settings.dagster_url, keys.key(spec, "release").path),
            **({f"{policy.champion} in MLflow": version_url(settings.mlflow_url, spec.name, policy.champion)} if policy.champion else {}),
        },
    )


class _Recorded:
    """What Dagster has recorded of one model's assets, newest first."""

    def __init__(self, instance: dg.DagsterInstance, spec: ModelSpec, settings: Settings) -> None:
        self._instance, self._spec, self._settings = instance, spec, settings

    def materializations(self, noun: str, most: int = 1) -> list[tuple[datetime, Mapping[str, Any]]]:
        found = self._instance.fetch_materializations(dg.AssetRecordsFilter(keys.key(self._spec, noun)), limit=most).records
        return [
            (datetime.fromtimestamp(record.timestamp, tz=UTC), {name: _plain(value) for name, value in made.metadata.items()})
            for record in found
            if (made := record.asset_materialization)
        ]

    def table(self, noun: str, name: str) -> list[Mapping[str, Any]]:
        """A table in the metadata of the newest materialization; no row without one."""
        newest = self.materializations(noun)
        return list(newest[0][1].get(name, ())) if newest else []

    def check(self, noun: str, name: str) -> Told | None:
        evaluation = self._evaluation(noun, name)
        if evaluation is None:
            return None
        at, told = evaluation
        outcome = "pass" if told.passed else str(_plain(told.metadata["outcome"])) if "outcome" in told.metadata else "fail"
        return Told(name.replace("_", " "), outcome, told.description or "", at)

    def check_table(self, noun: str, name: str, column: str) -> list[Mapping[str, Any]]:
        """A table in the metadata of the newest evaluation of a check."""
        evaluation = self._evaluation(noun, name)
        return list(_plain(evaluation[1].metadata[column])) if evaluation and column in evaluation[1].metadata else []

    def url(self, noun: str, at: datetime) -> str:
        return asset_url(self._settings.dagster_url, keys.key(self._spec, noun).path, at=at)

    def _evaluation(self, noun: str, name: str) -> tuple[datetime, dg.AssetCheckEvaluation] | None:
        record = self._instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(keys.key(self._spec, noun), name))
        event = record.event.dagster_event if record and record.event else None
        told = event.event_specific_data if event else None
        return (datetime.fromtimestamp(record.create_timestamp, tz=UTC), told) if isinstance(told, dg.AssetCheckEvaluation) else None


def _plain(value: Any) -> Any:
    """What a metadata value holds; a table as its rows."""
    records = getattr(value, "records", None)
    return [record.data for record in records] if records is not None else value.value


def _releases(platform: Platform, policy: Policy, spec: ModelSpec, settings: Settings) -> tuple[ReleaseRow, ...]:
    """The newest releases, newest first."""
    rows = []
    for registered in [change for change in reversed(policy.log) if change.action == "register"][:RELEASES]:
        release, last = registered.release, policy.last(registered.release) or registered
        tags = _tags(platform, spec.name, release)
        left = next((change for change in reversed(policy.log) if change.left == release and change.action == "rollback"), None)
        last = left if left is not None and left.generation > last.generation else last
        rows.append(
            ReleaseRow(
                release=release,
                registered_at=registered.at,
                trigger=tags.get(TRIGGER_TAG, "unknown"),
                cause=tags.get(CAUSE_TAG, ""),
                gate=tags.get(GATE_TAG, "not asked"),
                stage=stage_of(policy, release),
                reached="rolled back" if left is last else f"{last.action} {last.step_name}".strip(),
                why=last.author.why,
                url=asset_url(settings.dagster_url, keys.key(spec, "evaluation").path, partition=release),
            )
        )
    return tuple(rows)


def _tags(platform: Platform, model: str, release: str) -> Mapping[str, str]:
    try:
        return platform.registry.release(model, release).tags
    except MlopsError as error:  # MLflow is down: the page says so little of a release as is known without
        dg.get_dagster_logger().warning(str(error))
        return {}


def _traffic(platform: Platform, spec: ModelSpec) -> tuple[TrafficRow, ...]:
    found: dict[str, Traffic] = {}
    try:
        samples = platform.gateway.sample(spec.name)
    except MlopsError as error:
        dg.get_dagster_logger().warning(str(error))
        return ()
    for sample in samples:
        for release, counted in sample.traffic.items():
            found[release] = found.get(release, Traffic()) + counted
    ordered = sorted((release for release, counted in found.items() if counted.requests), key=release_number, reverse=True)
    return tuple(
        TrafficRow(release, counted.requests, counted.error_rate, *(counted.latency_quantile(q) for q in (0.5, 0.95, 0.99)))
        for release in ordered
        for counted in (found[release],)
    )


def _scores(platform: Platform, spec: ModelSpec, policy: Policy) -> tuple[Scores, ...]:
    """The scores of the training rows, and what champion and challenger answered of late."""
    if policy.champion is None:
        return ()
    found = [_baseline_scores(platform, spec, policy.champion)]
    since = platform.clock() - max(LOGGED / platform.pace, _LEAST_LOGGED)
    rows = platform.predictions.read(spec.name, platform.predictions.position(spec.name, since), ["release", "role", "score"]).rows
    live = rows[(rows["release"] == policy.champion) & (rows["role"] == "live")]["score"].to_numpy(dtype=float)
    found.append(Scores(f"champion {policy.champion}, served of late", policy.champion, _counted(live)))
    if policy.challenger is not None and (counts := _challenger_scores(platform, policy)):
        found.append(Scores(f"challenger {policy.challenger.release}, in this step", policy.challenger.release, counts))
    return tuple(one for one in found if one is not None and sum(one.counts))


def _baseline_scores(platform: Platform, spec: ModelSpec, release: str) -> Scores | None:
    try:
        base = baseline_of(platform, spec, release)
    except NotFound:
        return None
    column = base.profile.columns[base.profile.names.index(SCORE)]
    values = column.centre + grid.places(np.asarray(column.cells), column.categorical)
    return Scores(f"baseline of {release}", None, _counted(values, np.asarray(column.cell_counts)))


def _challenger_scores(platform: Platform, policy: Policy) -> tuple[int, ...] | None:
    """What the canary has seen of its present step."""
    assert policy.challenger is not None
    key = running_key(policy)
    try:
        return decode(Observation, platform.objects.get(key), key).scores.get(policy.challenger.release)
    except NotFound:
        return None


def _counted(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[int, ...]:
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=SCORE_BINS, range=(0, 1), weights=weights)
    return tuple(int(count) for count in counts)


def _drift(seen: _Recorded) -> DriftFacts | None:
    reports = seen.materializations("drift_report", REPORTS)
    if not reports:
        return None
    at, newest = reports[0]
    history = [metadata for _, metadata in reversed(reports)]
    columns = tuple(
        DriftRow(
            row["column"],
            row["outcome"],
            row["psi"] if isinstance(row["psi"], float) else None,
            row["limit"],
            row["importance"],
            tuple(metadata[name] for metadata in history if isinstance(metadata.get(name := f"psi_{row['column']}"), float)),
        )
        for row in newest.get("verdicts", ())
    )
    release, rows, summary = (newest.get(name, otherwise) for name, otherwise in (("release", ""), ("rows", 0), ("summary", "")))
    return DriftFacts(at, str(release), int(rows), str(summary), columns, seen.url("drift_report", at))


def _performance(seen: _Recorded) -> tuple[tuple[Metric, ...], str]:
    """What was expected before labels, and what came true, by metric; and a sentence about the labels."""
    true = {row["metric"]: row for row in seen.table("performance_report", "figures")}
    reports = seen.materializations("performance_report")
    if true:
        found = tuple(
            Metric(name, _interval(row, "expected", "expected_lower", "expected_upper"), _interval(row, "value", "lower", "upper"))
            for name, row in true.items()
        )
        return found, f"{reports[0][1].get('labelled_rows', 0)} answers have their label: {reports[0][1].get('reason', '')}"
    drift = seen.materializations("drift_report")
    told = drift[0][1] if drift else {}
    expected = {name: told.get(f"expected_{name}") for name in METRICS}
    found = tuple(Metric(name, Interval(value), None) for name, value in expected.items() if isinstance(value, float))
    return found, str(told.get("expected_performance") or "Nothing was estimated yet, and no label has come.")


def _interval(row: Mapping[str, Any], value: str, lower: str, upper: str) -> Interval | None:
    return None if row.get(value) is None else Interval(row[value], row.get(lower), row.get(upper))


def _fresh(seen: _Recorded) -> Sequence[Told]:
    """Each view by its row, and events and labels by their freshness checks."""
    rows = seen.check_table("online_features", "views_fresh", "views")
    views = [Told(str(row["name"]), str(row["outcome"]), str(row["reason"])) for row in rows]
    landed = [(noun, seen.check(noun, "freshness_check")) for noun in ("events", "labels")]
    return [*views, *(Told(noun, told.outcome, told.reason, told.at) for noun, told in landed if told is not None)]


def _drill(seen: _Recorded, spec: ModelSpec) -> DrillFacts | None:
    made, told = seen.materializations("rollback_drill"), seen.check("rollback_drill", "comes_back")
    if not made or told is None:
        return None
    metadata = made[0][1]
    parts = {name: metadata[key] for name in ("artifact", "ready", "smoke_test", "route") if (key := f"{name}_seconds") in metadata}
    return DrillFacts(told, str(metadata.get("release", "")), spec.drill.objective.total_seconds(), parts)
