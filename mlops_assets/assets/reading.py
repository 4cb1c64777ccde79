"""What the assets read: landed datasets, the time of the data, and the model's own code."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from mlops_assets.adapters import feature_rows, landing, tables
from mlops_assets.core.errors import BadData, MlopsError
from mlops_assets.core.feature_views import View
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.signature import encode
from mlops_assets.ports import Platform


def read_datasets(platform: Platform, spec: ModelSpec, start: date, end: date, known_by: datetime | None = None) -> dict[str, pd.DataFrame]:
    """Every dataset's validated rows of the days ``[start, end]``, with its columns even where there are no rows.

    Of a row with several versions it is the newest, or the newest that was known by a time.
    """
    found = {name: tables.read_days(platform.objects, spec.name, name, start, end) for name in spec.data.datasets}
    declared = spec.data.datasets
    return {
        name: landing.newest(declared[name], rows, known_by) if len(rows) else landing.empty(declared[name]) for name, rows in found.items()
    }


def data_time(platform: Platform, spec: ModelSpec) -> datetime:
    """The time of the data: the end of the newest day of events that was ingested.

    Raises:
        BadData: if no day was.
    """
    days = tables.days(platform.objects, spec.name, "events")
    if not days:
        raise BadData(f"{spec.name} has no events yet: land files under {landing.prefix(spec.name)}events/ and materialize events")
    return midnight(days[-1] + timedelta(days=1))


def settled_until(platform: Platform, spec: ModelSpec) -> datetime:
    """The time up to which features stay as they are, whatever is written of them later: a label's horizon before the end of the data.

    No training set until now has an event from after it, so that none changes. And a day may be completed by files that land one after the
    other, without being trained on as it was when the first had come: the transform's own word counts until its events' labels are due.

    It follows the data, since the clock may lie years after data that is played again; the clock counts where it is earlier, as in the
    middle of the newest day. Where many days land at once, what changes with them of the days before counts from a horizon before their
    end: when in between it became known nobody can say, and later is too late at worst, never too early.
    """
    days = tables.days(platform.objects, spec.name, "events")
    end = midnight(days[-1] + timedelta(days=1)) if days else midnight(spec.data.start)
    return min(platform.clock(), end - spec.label.horizon)


def views_of(spec: ModelSpec) -> tuple[View, ...]:
    """The views behind the model's feature service, each with the fields that it takes."""
    return feature_rows.load_definitions(spec.features.transform).projection(spec.features.service)


def feature_code_version(spec: ModelSpec) -> str | None:
    """Changes when the definitions of the features do, so that Dagster shows what was made by others as stale.

    None if they cannot be read: a model that is broken must not take the others' code location down, and its own runs say what is wrong.
    """
    try:
        return feature_rows.load_definitions(spec.features.transform).version(spec.features.service).hash[:12]
    except MlopsError:
        return None


def training_code_version(spec: ModelSpec) -> str:
    """Changes when a training of the same rows would be another one: with the trainer's module, or with what ``defs.yaml`` says of it.

    It is of the module as it was when this process asked first, since that is what a process trains with. What the module imports does not
    count, and the platform itself does not: an upgrade is no reason to train every model again.
    """
    source, told = _source(spec.training.trainer.partition(":")[0]), spec.training
    inputs = [[feature.name, *feature.categories] for feature in spec.features.inputs]
    parameters = [told.trainer, told.hyperparameters, told.seed, told.window.total_seconds(), spec.label.column, inputs]
    return hashlib.sha256(source + json.dumps(parameters, sort_keys=True, default=str).encode()).hexdigest()[:12]


@cache
def _source(module: str) -> bytes:
    """Without importing it: trainers import a lot. Nothing of a module that there is not: the training says so."""
    with suppress(ImportError):  # of the package around it
        found = find_spec(module)
        if found is not None and found.has_location and found.origin is not None:
            return Path(found.origin).read_bytes()
    return b""


def load(path: str):  # type: ignore[no-untyped-def]  # what users wrote, of any type
    """The object behind an import path such as ``my_package.my_module:my_function``."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def days_of(partition_keys: Sequence[str]) -> list[date]:
    """The days of a run's partitions."""
    return [date.fromisoformat(partition) for partition in partition_keys]


def midnight(day: date) -> datetime:
    """When a day begins, in UTC."""
    return datetime.combine(day, time(), UTC)


def nullable(column: pd.Series) -> list[object]:
    """The values of a column, None where one is missing."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def matrix_of(spec: ModelSpec, rows: pd.DataFrame) -> np.ndarray:
    """Feature columns as the float32 matrix that the model takes."""
    return encode(spec.features.inputs, {name: nullable(rows[name]) for name in spec.features.names})


def blocks_of(spec: ModelSpec, rows: pd.DataFrame) -> np.ndarray | None:
    """Which rows depend on each other, as ``gates.blocks`` says."""
    if spec.gates.blocks == "day":
        return rows["event_timestamp"].dt.floor("D").to_numpy()
    return rows[spec.features.unit].astype(str).to_numpy() if spec.gates.blocks == "unit" else None
