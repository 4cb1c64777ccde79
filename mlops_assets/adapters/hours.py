"""What was served by event hour: the prediction log compacted to one Parquet file an hour of a model, and what is made of each.

``monitoring/<model>/predictions/<yyyymmddThh>.parquet`` holds the answers of an event hour, each once. Beside them lie
``profiles/<release>/<yyyymmddThh>.json``, ``outcomes/<release>/<yyyymmddThh>.parquet`` (answers with their label),
``performance/<yyyymmddThh>.json`` (verdicts), ``reports/`` (HTML), ``margins.json`` (how far figures stray from what was expected) and
``progress.json``, which says how far all of it has come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.adapters.prediction_log import FEATURE_PREFIX, KEY_COLUMNS
from mlops_assets.adapters.profile_parquet import numbers
from mlops_assets.core.errors import BadData, NotFound
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.hourly import HourProfile, Judged, Progress, hour_named, name_of
from mlops_assets.core.margins import Margins
from mlops_assets.core.profile import Profile, Tally
from mlops_assets.ports import ObjectInfo, ObjectStore

ROWS_AT_ONCE = 1 << 17
"""So many answers are in memory at once as rows; more are read and written as they come."""

LIVE = "live"
Words = Mapping[str, Mapping[str, str]]
"""By input, what stands for what its category was logged as."""

NO_WORDS: Words = {}
Kept = TypeVar("Kept")
_OUTCOMES = pa.schema(
    {
        "unit": pa.string(),
        "event_time": pa.timestamp("us", "UTC"),
        "score": pa.float64(),
        "decision": pa.bool_(),
        "label": pa.int8(),
    }
)


def rows_of(objects: ObjectStore, model: str, hour: datetime, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The answers of an hour; no rows if it has none."""
    data = stored(objects, predictions_key(model, hour))
    if data is None:
        return pd.DataFrame(columns=list(columns or KEY_COLUMNS))
    file = pq.ParquetFile(BytesIO(data))
    wanted = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
    rows: pd.DataFrame = file.read(wanted).to_pandas()
    return rows


def profile_hour(
    objects: ObjectStore,
    model: str,
    hour: datetime,
    inputs: Sequence[Feature],
    base_of: Callable[[str], Profile | None],
    words: Words = NO_WORDS,
) -> dict[str, HourProfile | None]:
    """The live answers of an hour, counted for each release, some rows at a time; None for one that has no baseline.

    Args:
        inputs: of the model; a baseline has a column for each, and one for the score.
        words: what the categories of some inputs are logged as.

    Raises:
        NotFound: if the hour has no answers.
        BadData: if a column is not what its input is.
    """
    key = predictions_key(model, hour)
    file = pq.ParquetFile(BytesIO(objects.get(key)))
    tallies: dict[str, list[Tally] | None] = {}
    columns = [FEATURE_PREFIX + item.name for item in inputs]
    wanted = [*KEY_COLUMNS[1:], "score", "decision", *(name for name in columns if name in file.schema_arrow.names)]
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
        table = pa.Table.from_batches([batch])
        live = table.filter(pc.equal(table["role"], LIVE))
        for release in pc.unique(live["release"]).to_pylist():
            if release not in tallies:
                base = base_of(release)
                tallies[release] = None if base is None else [Tally(column) for column in (*base.columns, base.columns[-1])]
            if (made := tallies[release]) is not None:
                _count(made, live.filter(pc.equal(live["release"], release)), inputs, key, words)
    return {release: None if made is None else _counted(made) for release, made in tallies.items()}


def write_profile(objects: ObjectStore, model: str, release: str, hour: datetime, made: HourProfile) -> None:
    objects.put(_hour_key(model, f"profiles/{release}", hour, "json"), made.to_json().encode())


def read_profiles(objects: ObjectStore, model: str, release: str, after: datetime, until: datetime) -> dict[datetime, HourProfile]:
    """The profiles of a release, of the hours after one and up to another."""
    keys = _hours_in(objects, model, f"profiles/{release}", "json", after, until)
    return {hour: HourProfile.from_json(objects.get(key).decode()) for hour, key in keys}


def profiled_hours(objects: ObjectStore, model: str, release: str, after: datetime, until: datetime) -> list[datetime]:
    """The hours, in their order, of which a release has a profile."""
    return [hour for hour, _ in _hours_in(objects, model, f"profiles/{release}", "json", after, until)]


def write_outcomes(objects: ObjectStore, model: str, release: str, hour: datetime, rows: pd.DataFrame) -> bool:
    """Keep the labelled answers of an hour; returns whether they are others than those that were there.

    Args:
        rows: with unit, event_time, score, decision and label.
    """
    key = _hour_key(model, f"outcomes/{release}", hour, "parquet")
    ordered = rows.sort_values(["event_time", "unit"], ignore_index=True)[_OUTCOMES.names]
    sink = BytesIO()
    pq.write_table(pa.Table.from_pandas(ordered, _OUTCOMES, preserve_index=False), sink, compression="zstd")
    if (there := stored(objects, key)) == sink.getvalue() or (there is None and not len(ordered)):
        return False
    objects.put(key, sink.getvalue())
    return True


def read_outcomes(objects: ObjectStore, model: str, release: str, after: datetime, until: datetime, most: int) -> pd.DataFrame:
    """The labelled answers of a release in the hours after one and up to another; of more than ``most`` those of the newest hours."""
    parts, rows = [], 0
    for _, key in reversed(_hours_in(objects, model, f"outcomes/{release}", "parquet", after, until)):
        parts.append(table_of(objects.get(key)))
        rows += len(parts[-1])
        if rows >= most:
            break
    found: pd.DataFrame = pa.concat_tables([_OUTCOMES.empty_table(), *reversed(parts)]).to_pandas()
    return found


def hours_of_day(objects: ObjectStore, model: str, day: str) -> list[datetime]:
    """The hours of a day (ISO) that have answers."""
    prefix = f"{_prefix(model)}predictions/{day.replace('-', '')}T"
    return [_hour_in(info.key) for info in objects.list(prefix)]


def write_judged(objects: ObjectStore, model: str, hour: datetime, judged: Judged) -> None:
    objects.put(_hour_key(model, "performance", hour, "json"), encode(judged))


def read_judged(objects: ObjectStore, model: str, hour: datetime) -> Judged | None:
    """The verdict that was made on the performance up to an hour; None if none was."""
    return _document(Judged, objects, _hour_key(model, "performance", hour, "json"))


def write_margins(objects: ObjectStore, model: str, margins: Margins) -> None:
    objects.put(f"{_prefix(model)}margins.json", encode(margins))


def read_margins(objects: ObjectStore, model: str) -> Margins:
    """What the labels have taught so far of how far a model's figures stray; empty before the first."""
    return _document(Margins, objects, f"{_prefix(model)}margins.json") or Margins()


def is_progress(key: str) -> bool:
    """Whether an object says how far a model's answers have been watched: a copy that has it before the hours loses none of them."""
    return key.endswith("/progress.json")


def write_progress(objects: ObjectStore, model: str, progress: Progress) -> None:
    objects.put(f"{_prefix(model)}progress.json", encode(progress))


def read_progress(objects: ObjectStore, model: str) -> Progress:
    """How far this model's answers have been watched; the beginning if they never were."""
    return _document(Progress, objects, f"{_prefix(model)}progress.json") or Progress()


def predictions_key(model: str, hour: datetime) -> str:
    """Where the answers of an hour lie.

    >>> from datetime import UTC
    >>> predictions_key("flight-delay", datetime(2013, 1, 1, 10, tzinfo=UTC))
    'monitoring/flight-delay/predictions/20130101T10.parquet'
    """
    return _hour_key(model, "predictions", hour, "parquet")


def report_key(model: str, release: str, hour: datetime) -> str:
    """Where the HTML report of the window up to an hour lies."""
    return _hour_key(model, f"reports/{release}", hour, "html")


def every(objects: ObjectStore, model: str) -> Iterator[tuple[str, datetime, ObjectInfo]]:
    """All that is kept of hours: what it is (``predictions``, ``reports`` ...), of which hour, and the object."""
    for info in objects.list(_prefix(model)):
        noun, slash, name = info.key.removeprefix(_prefix(model)).partition("/")
        with suppress(ValueError):  # what has no hour in its name, as a model's progress, is of none
            if slash:
                yield noun, hour_named(name.rsplit("/", 1)[-1].partition(".")[0]), info


def _count(tallies: Sequence[Tally], rows: pa.Table, inputs: Sequence[Feature], key: str, words: Words) -> None:
    """Add rows of one release to its tallies: a tally an input, one of the scores, one of the scores of the yes."""
    *features, score, yes = tallies
    if len(features) != len(inputs):
        raise BadData(f"{key}: a baseline of {len(features)} features, the model has {len(inputs)}: it was trained on others, train again")
    for tally, feature in zip(features, inputs, strict=True):
        name = FEATURE_PREFIX + feature.name
        if name in rows.column_names:
            for chunk in rows[name].chunks:
                tally.add(numbers(_readable(chunk, words.get(feature.name)), feature, key))
        else:
            tally.add(np.full(len(rows), np.nan, dtype=np.float32))
    scores = rows["score"].to_numpy()
    score.add(scores)
    yes.add(scores[rows["decision"].to_numpy().astype(bool)])


def _readable(values: pa.Array, words: Mapping[str, str] | None) -> pa.Array:
    return values if words is None else pa.array([words.get(value, value) for value in values.to_pylist()], pa.string())


def _counted(tallies: Sequence[Tally]) -> HourProfile:
    *columns, yes = (tally.profile() for tally in tallies)
    return HourProfile(Profile(tuple(columns)), yes)


def table_of(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """A small file. For these, handing columns to threads costs more than reading them."""
    return pq.ParquetFile(pa.BufferReader(data)).read(None if columns is None else list(columns), use_threads=False)


def _hours_in(objects: ObjectStore, model: str, noun: str, ending: str, after: datetime, until: datetime) -> list[tuple[datetime, str]]:
    first, last = _hour_key(model, noun, after, ending), _hour_key(model, noun, until, ending)
    listed = objects.list(f"{_prefix(model)}{noun}/", after=first)
    return [(_hour_in(info.key), info.key) for info in listed if info.key <= last]


def _hour_key(model: str, noun: str, hour: datetime, ending: str) -> str:
    return f"{_prefix(model)}{noun}/{name_of(hour)}.{ending}"


def _hour_in(key: str) -> datetime:
    return hour_named(key.rsplit("/", 1)[1].partition(".")[0])


def _prefix(model: str) -> str:
    return f"monitoring/{model}/"


def stored(objects: ObjectStore, key: str) -> bytes | None:
    """An object's bytes; None if there is none."""
    try:
        return objects.get(key)
    except NotFound:
        return None


def _document(kind: type[Kept], objects: ObjectStore, key: str) -> Kept | None:
    data = stored(objects, key)
    return None if data is None else decode(kind, data, key)
