"""Files that others land, read with suspicion: each is accepted whole or quarantined with its reason, and none is lost.

``landing/<model>/<dataset>/<YYYY-MM-DD>/<name>.parquet`` is what lands, and stays. A refused file is copied to
``landing/quarantine/<model>/...`` beside a ``.reason.json``.
"""

import io
import json
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache

import pandas as pd
import pyarrow as pa

from mlops_assets.core.data_spec import Column, Dataset
from mlops_assets.core.errors import BadData
from mlops_assets.core.pii import HIDDEN
from mlops_assets.ports import ObjectInfo, ObjectStore

_DTYPES = {
    "float": "float64",
    "integer": "Int64",
    "string": "string",
    "boolean": "boolean",
    "timestamp": "datetime64[us, UTC]",
}


@dataclass(frozen=True)
class Quarantined:
    """A file that was refused, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Landed:
    """One day of one dataset: the rows of its good files, newest version of each key, and the files that were refused.

    ``versions`` has what each row was before, too, if the dataset says when it became known.
    """

    day: date
    rows: pd.DataFrame
    versions: pd.DataFrame
    files: int
    quarantined: tuple[Quarantined, ...]


def prefix(model: str) -> str:
    """Where the files of a model land."""
    return f"landing/{model}/"


def read_day(objects: ObjectStore, model: str, name: str, dataset: Dataset, day: date) -> Landed:
    """Read and validate the files of one day; refused ones go to quarantine."""
    raw, frames, refused = {}, [], []
    found = objects.list(f"{prefix(model)}{name}/{day.isoformat()}/")
    for info in found:
        try:
            raw[info] = _read_file(objects, info)
        except BadData as error:
            refused.append(_quarantine(objects, info, str(error)))
    together = _checked_together(list(raw.values()), name, dataset, day)
    if together is not None:
        frames, raw = [together], {}
    for info, rows in raw.items():
        try:
            frames.append(_checked(rows, info.key, name, dataset, day))
        except BadData as error:
            refused.append(_quarantine(objects, info, str(error)))
    rows = pd.concat(frames, ignore_index=True) if frames else empty(dataset)
    known = [dataset.known_at] if dataset.known_at else []
    newest_last = rows.sort_values([*known, dataset.time], kind="stable")
    versions = newest_last.drop_duplicates([*dataset.key, *known], keep="last")
    ordered = versions.sort_values([dataset.time, *dataset.key, *known], ignore_index=True)
    return Landed(day, newest(dataset, ordered), ordered, len(found), tuple(refused))


def newest(dataset: Dataset, rows: pd.DataFrame, known_by: datetime | None = None) -> pd.DataFrame:
    """The newest version of each row; ``known_by`` a time, if the dataset says when its rows became known."""
    if dataset.known_at is None:
        return rows
    known = rows if known_by is None else rows[rows[dataset.known_at] <= known_by]
    last = known.sort_values(dataset.known_at, kind="stable").drop_duplicates(list(dataset.key), keep="last")
    return last.sort_index().reset_index(drop=True)


def _read_file(objects: ObjectStore, info: ObjectInfo) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(objects.get(info.key)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadData(f"{info.key} is not a Parquet file ({error}): write it again with pandas or pyarrow") from error


def _checked_together(files: list[pd.DataFrame], name: str, dataset: Dataset, day: date) -> pd.DataFrame | None:
    """All files of a day checked at once, which takes as long as one; None if that says nothing of each of them."""
    if len({tuple(file.dtypes.items()) for file in files}) != 1:
        return None
    try:
        return _checked(pd.concat(files, ignore_index=True), "", name, dataset, day)
    except BadData:
        return None


def _checked(raw: pd.DataFrame, key: str, name: str, dataset: Dataset, day: date) -> pd.DataFrame:
    rows = _validated(raw, key, dataset)
    times = rows[dataset.time].dt.date
    astray = rows[times != day]
    if name in ("events", "labels") and len(astray):
        raise BadData(f"{key}: {len(astray)} rows have {dataset.time} outside {day}: land them in the folder of their own day")
    return rows


def _validated(raw: pd.DataFrame, key: str, dataset: Dataset) -> pd.DataFrame:
    from pandera.errors import SchemaErrors

    missing = [column for column in dataset.columns if column not in raw.columns]
    if missing:
        raise BadData(
            f"{key}: columns {', '.join(missing)} are missing, got {', '.join(map(str, raw.columns))}: add them, null where unknown"
        )
    try:
        validated: pd.DataFrame = schema(dataset).validate(raw[list(dataset.columns)], lazy=True)
    except SchemaErrors as error:
        failed = error.failure_cases.head(3)
        cases = "; ".join(
            f"{row.column}: got {_shown(dataset, str(row.column), row.failure_case)}, expected {row.check}" for row in failed.itertuples()
        )
        raise BadData(
            f"{key}: {len(error.failure_cases)} values break the schema, first {cases}: mend the file and land it again"
        ) from error
    return validated


def _shown(dataset: Dataset, column: str, value: object) -> str:
    declared = dataset.columns.get(column)
    return HIDDEN if declared is not None and declared.pii else repr(value)


def schema(dataset: Dataset):  # type: ignore[no-untyped-def]  # pandera is imported late, so its type cannot be named here
    """The pandera schema of a dataset's columns."""
    return _schema(tuple(dataset.columns.items()))


@cache
def _schema(columns: tuple[tuple[str, Column], ...]):  # type: ignore[no-untyped-def]  # as above
    import pandera.pandas as pa

    return pa.DataFrameSchema(
        {name: pa.Column(_DTYPES[column.type], _checks(column), nullable=column.nullable, coerce=True) for name, column in columns}
    )


def _checks(column: Column):  # type: ignore[no-untyped-def]  # as above
    import pandera.pandas as pa

    checks = []
    if column.minimum is not None:
        checks.append(pa.Check.ge(column.minimum))
    if column.maximum is not None:
        checks.append(pa.Check.le(column.maximum))
    return checks


def empty(dataset: Dataset) -> pd.DataFrame:
    """No rows, with the columns and types of the dataset."""
    return pd.DataFrame({name: pd.Series(dtype=_DTYPES[column.type]) for name, column in dataset.columns.items()})


def _quarantine(objects: ObjectStore, info: ObjectInfo, reason: str) -> Quarantined:
    copy = f"landing/quarantine/{info.key.removeprefix('landing/')}"
    objects.put(copy, objects.get(info.key))
    objects.put(f"{copy}.reason.json", json.dumps({"file": info.key, "etag": info.etag, "reason": reason}).encode())
    return Quarantined(info.key, reason)
