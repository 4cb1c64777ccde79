"""Answers beside what came true: an answer belongs to the event with its unit and its event time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.adapters import landing, tables
from mlops_assets.adapters.pseudonyms import under_both_names
from mlops_assets.core.evidence import Labelled
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
    found = {name: tables.read_days(objects, spec.name, name, first, last) for name in ("events", "labels")}
    if any(rows.empty for rows in found.values()):
        return Labelled()
    events, labels = (landing.newest(spec.data.datasets[name], rows) for name, rows in found.items())
    declared = spec.data.datasets["events"]
    known = events[[*declared.key, spec.features.unit, declared.time]].merge(
        labels[[*spec.data.datasets["labels"].key, spec.label.column]],
        left_on=list(declared.key),
        right_on=list(spec.data.datasets["labels"].key),
    )
    asked = answers[list(COLUMNS)].astype({"unit": "string"})
    known = under_both_names(known, spec, spec.features.unit, pii_key).astype({spec.features.unit: "string"})
    joined = asked.merge(known, left_on=["unit", "event_time"], right_on=[spec.features.unit, declared.time])
    errors = joined["score"].astype(float) - joined[spec.label.column].astype(float)
    return Labelled(len(joined), float((errors**2).sum()))
