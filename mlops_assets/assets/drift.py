"""The stored hours of the drift window against the champion's baseline: the asset ``drift_report``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta

import dagster as dg
import numpy as np

from mlops_assets.adapters import hours
from mlops_assets.assets.baseline import SCORE, baseline_of
from mlops_assets.assets.hourly import Asked, HourlyReport, Made, hour_at
from mlops_assets.core.baseline import Baseline
from mlops_assets.core.distances import DEFINITION, Distances, Tests, examine, measure
from mlops_assets.core.drift import judge, summarize, unseen
from mlops_assets.core.errors import NotFound
from mlops_assets.core.hourly import HOUR, HourProfile, Progress, expected_of, hour_of, merge_hours
from mlops_assets.core.margins import Margins
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.profile import Profile, profile
from mlops_assets.core.verdict import Outcome, Verdict, combine
from mlops_assets.ports import Platform

MOST_HTML = 5
"""So many HTML reports a run, each of which takes some seconds; others are made when somebody asks for them."""


def drift_report(platform: Platform, spec: ModelSpec, asked: Asked) -> Made:
    """Merge the stored profiles of the drift window, each read once, and hold them against the baseline. No row is read.

    Under ``only_due`` a report is made that is ``drift.every`` old and would count something new.
    """
    progress, champion = hours.read_progress(platform.objects, spec.name), platform.policies.read(spec.name).champion
    if champion is None and not asked.only_due:
        raise NotFound(f"{spec.name} has no release in production, so there is nothing to watch: promote one first")
    if champion is None or (asked.only_due and not _is_due(platform, spec, progress)):
        return {}
    base = baseline_of(platform, spec, champion)
    until = asked.hours[-1] if asked.hours else progress.newest or hour_of(platform.clock())
    found = hours.read_profiles(platform.objects, spec.name, champion, until - max(spec.drift.window, HOUR), until)
    current = merge_hours(list(found.values())) if found else nothing(base)
    span = until + HOUR - min(found) if found else timedelta(0)
    features, scores = (judge(base, current.profile, spec.drift, span, names) for names in (spec.watched, [SCORE]))
    strange = strange_in(spec, base, found[max(found)]) if found else ()
    ranked = rank(base, current.profile, (*features, *scores), [verdict.name for verdict in strange])
    drifted = summarize(features).drifted
    html = _html(asked, spec, champion, until, progress, drifted)
    if not asked.hours:
        shown = drifted if html else tuple(name for name in progress.shown if name in drifted)
        made = replace(progress, reported_at=platform.clock(), is_reported=True, shown=shown, is_urgent=False)
        hours.write_progress(platform.objects, spec.name, made)
    metadata = {
        "release": champion,
        "rows": current.rows,
        "profiles": len(found),
        "until": dg.MetadataValue.timestamp(until + HOUR) if found else "nothing was served",
        "summary": summarize(features).reason,
        "drifted": ", ".join(drifted),
        **({"unseen": "; ".join(verdict.reason for verdict in strange)} if strange else {}),
        **html,
        **largest(features),
        **matters_most(ranked),
        **expected_performance(base, current, hours.read_margins(platform.objects, spec.name).over(base.margins)),
        "distances_definition": DEFINITION,
        "verdicts": _table(ranked),
        **{f"psi_{verdict.name}": verdict.value for verdict in (*features, *scores) if verdict.value is not None},
    }
    checks = [_check("feature_drift", (*strange, *features)), _check("prediction_drift", scores)]
    return {until: dg.MaterializeResult(metadata=metadata, check_results=checks)}


def strange_in(spec: ModelSpec, base: Baseline, newest: HourProfile) -> tuple[Verdict, ...]:
    """The watched features of which most of the newest hour lies beyond all that the model was trained on; what matters most first."""
    found = [verdict for verdict in unseen(base.profile, newest.profile, spec.watched) if verdict.outcome is Outcome.FAIL]
    return tuple(sorted(found, key=lambda verdict: -base.importance.get(verdict.name, 0.0)))


def nothing(base: Baseline) -> HourProfile:
    """No answers, in the bins of a baseline."""
    empty = profile(base.profile, np.empty((0, len(base.profile.columns)), dtype=np.float32))
    return HourProfile(empty, empty.columns[-1])


def _is_due(platform: Platform, spec: ModelSpec, progress: Progress) -> bool:
    """Whether the last report is as old as a report may be, less half the time between two looks, and there is something new."""
    if progress.reported_at is None or progress.is_urgent:
        return progress.newest is not None
    waited = platform.clock() - progress.reported_at
    return not progress.is_reported and waited >= spec.drift.every / platform.pace - hour_at(platform.pace) / 2


def _html(
    asked: Asked, spec: ModelSpec, release: str, until: datetime, progress: Progress, drifted: tuple[str, ...]
) -> dict[str, dg.MetadataValue]:
    """Where the HTML report will be, if there is to be one: when asked for, and when a column has drifted that had not in the last one."""
    is_news = bool(set(drifted) - set(progress.shown)) and len(asked.html_reports) < MOST_HTML
    if not (asked.html or is_news):
        return {}
    asked.html_reports.append((spec, release, until))
    return {"html_report": dg.MetadataValue.path(f"s3://{hours.report_key(spec.name, release, until)}")}


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


def rank(base: Baseline, current: Profile, verdicts: tuple[Verdict, ...], strange: Sequence[str] = ()) -> tuple[Ranked, ...]:
    """First the ``strange``, then what has drifted, each in the order of how much it matters; those of equal weight by their PSI."""
    pairs = {before.name: (before, now) for before, now in zip(base.profile.columns, current.columns, strict=True)}
    found = [
        Ranked(verdict, measure(*pairs[verdict.name]), examine(*pairs[verdict.name]), base.importance.get(verdict.name))
        for verdict in verdicts
    ]

    def place(entry: Ranked) -> tuple[bool, bool, float, float]:
        verdict = entry.verdict
        return verdict.name not in strange, verdict.outcome is not Outcome.FAIL, -entry.matters, -(verdict.value or 0.0)

    return tuple(sorted(found, key=place))


def matters_most(ranked: tuple[Ranked, ...]) -> dict[str, str]:
    """The drifted feature that the model relies on most, times how far it moved; nothing if no drift matters."""
    drifted = [entry for entry in ranked if entry.verdict.outcome is Outcome.FAIL and entry.matters > 0]
    return {"matters_most": drifted[0].verdict.name} if drifted else {}


def expected_performance(base: Baseline, served: HourProfile, margins: Margins) -> dict[str, float | str]:
    """What the scores let expect before labels come, each figure with its 95 % interval."""
    if base.calibration is None:
        return {"expected_performance": "the holdout could not tell what a score means: it had one class, or one score"}
    told = expected_of(base.calibration, served)
    figures = {"auc": told.auc, "accuracy": told.accuracy, "precision": told.precision, "recall": told.recall}
    found = {name: margins.around(name, figure) for name, figure in figures.items() if figure is not None}
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


DRIFT = HourlyReport(
    noun="drift_report",
    make=drift_report,
    deps=("prediction_profile",),
    description="The served features and scores of the drift window against the champion's baseline.",
    checks=("feature_drift", "prediction_drift"),
)
