"""Answers beside what came true: an answer belongs to the event with its unit and its event time."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from mlops_assets.adapters import landing, tables
from mlops_assets.adapters.pseudonyms import under_both_names
from mlops_assets.core.evidence import Labelled
from mlops_assets.core.hourly import name_of
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import ObjectStore

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("unit", "event_time", "score")
"""What is read of an answer."""


def squared_errors(objects: ObjectStore, spec: ModelSpec, answers: pd.DataFrame, pii_key: str = "") -> Labelled:
    """How many of the answers have a label by now, and the sum of their squared errors.

    Args:
        answers: a frame with ``COLUMNS``. An answer to no landed event, or to one whose label has not come, is left out.
        pii_key: what units were hashed with before they were logged, if they were.

    Raises:
        SpecError: if units are hashed and there is no key.
    """
    if answers.empty:
        return Labelled()
    first, last = answers["event_time"].min().date(), answers["event_time"].max().date()
    joined = join(answers[list(COLUMNS)], known(objects, spec, first, last, pii_key))
    errors = joined["score"].astype(float) - joined["label"].astype(float)
    return Labelled(len(joined), float((errors**2).sum()))


def known(objects: ObjectStore, spec: ModelSpec, first: date, last: date, pii_key: str = "") -> pd.DataFrame:
    """What has come true of the events of some days: unit, event_time and label.

    One row an event, and where units are hashed before they are logged one more, with its pseudonym.
    """
    import pandas as pd

    found = {name: tables.read_days(objects, spec.name, name, first, last) for name in ("events", "labels")}
    if any(rows.empty for rows in found.values()):
        return pd.DataFrame(columns=["unit", "event_time", "label"])
    events, labels = (landing.newest(spec.data.datasets[name], rows) for name, rows in found.items())
    declared = spec.data.datasets["events"]
    both = events[list(dict.fromkeys([*declared.key, spec.features.unit, declared.time]))].merge(
        labels[[*spec.data.datasets["labels"].key, spec.label.column]],
        left_on=list(declared.key),
        right_on=list(spec.data.datasets["labels"].key),
    )
    named = under_both_names(both, spec, spec.features.unit, pii_key).rename(
        columns={spec.features.unit: "unit", declared.time: "event_time", spec.label.column: "label"}
    )
    return named[["unit", "event_time", "label"]].drop_duplicates(["unit", "event_time"])


def join(answers: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """The answers whose event is known, with its label.

    Args:
        answers: with unit and event_time.
        events: from :func:`known`.
    """
    if events.empty:
        return answers.iloc[:0].assign(label=[])
    return answers.astype({"unit": "string"}).merge(events.astype({"unit": "string"}), on=["unit", "event_time"])


def by_hour(events: pd.DataFrame) -> dict[str, str]:
    """A digest of what is known of each hour (``<yyyymmddThh>``) of the events, from :func:`known`, in whatever order they come."""
    import pandas as pd

    if events.empty:
        return {}
    rows = pd.util.hash_pandas_object(events.astype({"unit": str, "label": float}), index=False)
    sums = rows.groupby(events["event_time"].dt.floor("h")).agg(["sum", "size"])
    return {name_of(hour): f"{int(total):x}-{size}" for hour, total, size in sums.itertuples()}


def versions(objects: ObjectStore, spec: ModelSpec) -> dict[str, str]:
    """By day of events (ISO), which version of its events and labels is there; days that lack one are left out."""
    listed = [
        {info.key.rsplit("/", 1)[1].removesuffix(".parquet"): info.etag for info in objects.list(f"tables/{spec.name}/{name}/")}
        for name in ("events", "labels")
    ]
    events, labels = listed
    return {day: f"{etag}{labels[day]}" for day, etag in events.items() if day in labels}
