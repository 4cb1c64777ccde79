"""What came true of what was answered: the asset ``performance_report``."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import dagster as dg
import pandas as pd

from mlops_assets.adapters import hours, labels
from mlops_assets.assets import keys
from mlops_assets.assets.baseline import baseline_of
from mlops_assets.assets.hourly import Asked, HourlyReport, Made
from mlops_assets.assets.reading import data_time
from mlops_assets.assets.verdicts import check_result
from mlops_assets.core.errors import BadData
from mlops_assets.core.hourly import HOUR, Judged, Progress, hour_of, name_of
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.outcomes import NAME, Figure, Outcomes, figures, judge, overturned
from mlops_assets.core.verdict import Outcome, Verdict
from mlops_assets.ports import Platform

MOST_ROWS = 1_000_000
"""Of more labelled answers in a window the newest are judged: a million tell an AUC to a thousandth."""

KEPT_HOURS = 24 * 14
"""Of so many hours it is remembered which labels they were held against; of a day before them any change is looked at whole."""

_ANSWER = ["request_id", "release", "role", "unit", "score", "decision", "logged_at", "event_time"]


def performance_report(platform: Platform, spec: ModelSpec, asked: Asked) -> Made:
    """Join the labels that came to the answers of their hours, and judge the champion up to the newest hour whose labels are due.

    A label that comes when its hour was judged already changes that hour, whose verdict is made again by the limit of then; one that
    does not stand is told, and fails the check if it had passed.
    """
    progress, champion = hours.read_progress(platform.objects, spec.name), platform.policies.read(spec.name).champion
    joined = _join(platform, spec, progress, asked.hours)
    newest = asked.hours[-1] if asked.hours else _newest_due(platform, spec)
    stale = [hour for hour in _may_have_changed(spec, progress, joined.touched) if newest is not None and hour < newest]
    late = [_judged_again(platform, spec, hour) for hour in stale]
    made = {hour: dg.MaterializeResult(metadata={"labelled_rows": rows}) for hour, rows in joined.touched.items()}
    made |= {again.hour: again.result(made.get(again.hour)) for again in late if again is not None}
    is_same = not joined.touched and newest == progress.judged and asked.only_due
    if champion is not None and newest is not None and not is_same:
        fallen = [again for again in late if again is not None and again.told]
        made[newest] = _judged(platform, spec, champion, newest, fallen)
    now = replace(progress, unjoined=(), joined=joined.versions, judged=progress.judged if asked.hours else newest)
    if now != progress:
        hours.write_progress(platform.objects, spec.name, now)
    return made


@dataclass(frozen=True)
class Joined:
    """The hours whose labelled answers changed, with how many they have, and the versions of the labels that were joined."""

    touched: dict[datetime, int]
    versions: dict[str, str]


def _may_have_changed(spec: ModelSpec, progress: Progress, touched: Collection[datetime]) -> list[datetime]:
    """Hours whose verdict is made again: those with other labels, and the newest that was judged if they are in its window."""
    last = progress.judged
    in_window = last is not None and any(last - spec.performance.window < hour <= last for hour in touched)
    return sorted({*touched, *([last] if last is not None and in_window else [])})


def _join(platform: Platform, spec: ModelSpec, progress: Progress, asked: Sequence[datetime]) -> Joined:
    """Hold against their labels the hours with other labels than before, and those with other answers than before."""
    versions = labels.versions(platform.objects, spec)
    anew = {hour for hour in (*progress.unjoined, *asked) if f"{hour:%Y-%m-%d}" in versions}
    changed = [day for day, version in versions.items() if progress.joined.get(day) != version]
    digests, touched = {key: digest for key, digest in progress.joined.items() if "T" in key}, dict[datetime, int]()
    for day in sorted({*changed, *(f"{hour:%Y-%m-%d}" for hour in anew)}):
        on = date.fromisoformat(day)
        known = labels.known(platform.objects, spec, on, on, platform.pii_key)
        found = labels.by_hour(known)
        due = [hour for hour in hours.hours_of_day(platform.objects, spec.name, day) if _is_other(hour, anew, found, digests)]
        for answers in _some_at_once(platform, spec, due):
            for hour, rows in _labelled(answers, known).items():
                others = [release for release, part in rows if hours.write_outcomes(platform.objects, spec.name, release, hour, part)]
                if others:
                    touched[hour] = sum(len(part) for _, part in rows)
        digests |= found
    kept = dict(sorted(digests.items())[-KEPT_HOURS:])
    return Joined(touched, {**versions, **kept})


def _is_other(hour: datetime, anew: Collection[datetime], found: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether an hour has answers or labels that were not held against each other."""
    name = name_of(hour)
    return hour in anew or (name in found and found[name] != before.get(name))


def _some_at_once(platform: Platform, spec: ModelSpec, its: Sequence[datetime]) -> Iterator[pd.DataFrame]:
    """The live answers of some hours, as many hours together as memory is to hold."""
    parts, rows = [], 0
    for hour in its:
        answers = hours.rows_of(platform.objects, spec.name, hour, _ANSWER)
        parts.append(answers[answers["role"] == hours.LIVE])
        rows += len(answers)
        if rows >= hours.ROWS_AT_ONCE or hour == its[-1]:
            filled = [part for part in parts if len(part)]
            if filled:
                yield pd.concat(filled, ignore_index=True)
            parts, rows = [], 0


def _labelled(live: pd.DataFrame, known: pd.DataFrame) -> dict[datetime, list[tuple[str, pd.DataFrame]]]:
    """By hour and release, the answers whose label is known; an event that a release was asked about again counts by its first answer."""
    first = live.sort_values(["logged_at", "request_id"]).drop_duplicates(["release", "unit", "event_time"])
    joined = labels.join(first, known)
    found: dict[datetime, list[tuple[str, pd.DataFrame]]] = {}
    for (hour, release), part in joined.groupby([joined["event_time"].dt.floor("h"), "release"]):
        found.setdefault(hour_of(hour.to_pydatetime()), []).append((str(release), part))
    return found


def _newest_due(platform: Platform, spec: ModelSpec) -> datetime | None:
    """The last hour of which every label is due: older than the horizon, by the time of the data."""
    try:
        until = min(platform.clock(), data_time(platform, spec)) - spec.label.horizon
    except BadData:
        return None  # no data, no labels
    return hour_of(until) - HOUR


@dataclass(frozen=True)
class _Again:
    """A verdict made again, because labels of its hour came later, and what has become of it; empty if it stands."""

    hour: datetime
    before: Judged
    now: Verdict
    told: str

    def result(self, joined: dg.MaterializeResult | None) -> dg.MaterializeResult:
        metadata = {**((joined and joined.metadata) or {}), "release": self.before.release, **_shown(self.now)}
        return dg.MaterializeResult(metadata={**metadata, **({"overturned": self.told} if self.told else {})})


def _judged_again(platform: Platform, spec: ModelSpec, hour: datetime) -> _Again | None:
    """The verdict on the window up to an hour, by its own limit and with the labels of now; None if there was none."""
    before = hours.read_judged(platform.objects, spec.name, hour)
    if before is None:
        return None
    asked = replace(spec.performance, floor=before.verdict.threshold) if before.verdict.threshold else spec.performance
    now = judge(asked, None, _outcomes(platform, spec, before.release, hour))
    hours.write_judged(platform.objects, spec.name, hour, Judged(before.release, now))
    return _Again(hour, before, now, overturned(before.verdict, now) or "")


def _judged(platform: Platform, spec: ModelSpec, champion: str, hour: datetime, fallen: Sequence[_Again]) -> dg.MaterializeResult:
    """The champion's performance up to an hour, beside what was expected of it, with the verdicts that fell on the way."""
    base = baseline_of(platform, spec, champion)
    seen = _outcomes(platform, spec, champion, hour)
    before, margins = (
        hours.read_judged(platform.objects, spec.name, hour),
        hours.read_margins(platform.objects, spec.name).over(base.margins),
    )
    found = figures(seen, base.calibration, spec.label.decision_threshold)
    verdict = judge(spec.performance, base.auc, seen)
    hours.write_judged(platform.objects, spec.name, hour, Judged(champion, verdict))
    if (learnt := margins.after(found, hour)) is not margins:
        hours.write_margins(platform.objects, spec.name, learnt)
    again = overturned(before.verdict, verdict) if before is not None and before.release == champion else None
    told = [f"up to {keys.partition(one.hour)} {one.told}" for one in fallen] + ([f"up to this hour {again}"] if again else [])
    lost = any(one.before.verdict.passed for one in fallen) or (again is not None and before is not None and before.verdict.passed)
    raised = replace(
        verdict,
        outcome=Outcome.FAIL if lost else verdict.outcome,
        reason="; ".join([verdict.reason, *(f"overturned by later labels: {each}" for each in told)]),
    )
    beside = {"overturned": len(told), "hour": keys.partition(hour)}
    check = check_result(NAME, keys.key(spec, "performance_report"), raised, beside, dg.AssetCheckSeverity.WARN)
    return dg.MaterializeResult(
        metadata={
            "release": champion,
            "labelled_rows": len(seen),
            "positives": int(seen.label.sum()),
            **({"overturned": "; ".join(told)} if told else {}),
            **_shown(verdict),
            **_figures(margins.widened(found)),
        },
        check_results=[check],
    )


def _outcomes(platform: Platform, spec: ModelSpec, release: str, until: datetime) -> Outcomes:
    """The labelled answers of a release in the window up to an hour, that hour included."""
    rows = hours.read_outcomes(platform.objects, spec.name, release, until - spec.performance.window, until, MOST_ROWS)
    by = {"day": rows["event_time"].dt.floor("D"), "unit": rows["unit"]}.get(spec.gates.blocks)
    block = None if by is None else by.to_numpy()
    return Outcomes(rows["score"].to_numpy(), rows["label"].to_numpy(), rows["decision"].to_numpy(), block)


def _shown(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.outcome.value, "reason": verdict.reason}


def _figures(found: Sequence[Figure]) -> dict[str, float | int | dg.TableMetadataValue]:
    """Each metric, what was expected of it, and whether the interval of that held it."""
    held = [figure.is_covered for figure in found if figure.is_covered is not None]
    return {
        **{figure.metric: figure.value for figure in found},
        **{f"expected_{figure.metric}": figure.expected.value for figure in found if figure.expected},
        **({"expectations": len(held), "expectations_held": sum(held)} if held else {}),
        "figures": _table(found),
    }


def _table(found: Sequence[Figure]) -> dg.TableMetadataValue:
    names = ("value", "lower", "upper", "expected", "expected_lower", "expected_upper")
    columns = [dg.TableColumn("metric"), *(dg.TableColumn(name, "float") for name in names), dg.TableColumn("covered", "bool")]
    records = []
    for figure in found:
        told = figure.expected
        expected = (told.value, told.lower, told.upper) if told else (None, None, None)
        numbers = dict(zip(names, (figure.value, figure.lower, figure.upper, *expected), strict=True))
        records.append(dg.TableRecord({"metric": figure.metric, **numbers, "covered": figure.is_covered}))
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


PERFORMANCE = HourlyReport(
    noun="performance_report",
    make=performance_report,
    deps=("predictions",),
    description="The champion's answers beside what came true (labels), as it comes, and beside what was expected of them before.",
    checks=(NAME,),
)
