"""The prediction log put into the files of its event hours, each answer once (the layout: :mod:`mlops_assets.adapters.hours`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_assets.adapters.hours import LIVE, ROWS_AT_ONCE, predictions_key, stored, table_of
from mlops_assets.adapters.prediction_log import KEY_COLUMNS
from mlops_assets.core.hourly import HOUR, hour_of
from mlops_assets.ports import ObjectStore


@dataclass(frozen=True)
class Compacted:
    """An hour after answers were added to it: how many were new, and how many it has."""

    added: int
    rows: int


def add(objects: ObjectStore, model: str, answers: pd.DataFrame) -> dict[datetime, Compacted]:
    """Add answers to the files of their hours; those that were there before, by request id, release and role, change nothing.

    Every hour of theirs is told that has a file, also if nothing was new: that may be what a run wrote that was killed then.

    An answer that was repeated across the end of an hour counts in the one that had it first. Memory holds these answers, and the
    compressed files of three hours with the keys of their answers.

    Args:
        answers: as :meth:`mlops_assets.ports.PredictionLog.read` gives them, each once.
    """
    found: dict[datetime, Compacted] = {}
    files = _Files(objects, model)
    table, places = _table(answers), answers.groupby(answers["event_time"].dt.floor("h")).indices
    for start, rows in sorted(((pd.Timestamp(str(start)), rows) for start, rows in places.items()), key=lambda part: part[0]):
        hour = hour_of(start.to_pydatetime())
        new = table.take(rows)
        for near in (hour - HOUR, hour, hour + HOUR):
            known = files.marks(near)
            new = new.filter(pc.invert(pc.is_in(_marks(new), known))) if known is not None else new
        if len(new):
            files.put(hour, _with(files.get(hour), new), _marks(new))
        if (there := files.marks(hour)) is not None:
            found[hour] = Compacted(len(new), len(there))
    return found


def newest_live(answers: pd.DataFrame) -> datetime | None:
    """The hour of the newest answer that somebody got; None without any."""
    live = answers[answers["role"] == LIVE] if len(answers) else answers
    return hour_of(live["event_time"].max().to_pydatetime()) if len(live) else None


class _Files:
    """The files of a few neighbouring hours and the keys of their answers, read once while hours are gone through in order."""

    _KEPT = 3

    def __init__(self, objects: ObjectStore, model: str) -> None:
        self._objects, self._model = objects, model
        self._kept: OrderedDict[datetime, tuple[bytes | None, pa.Array | None]] = OrderedDict()

    def get(self, hour: datetime) -> bytes | None:
        return self._read(hour)[0]

    def marks(self, hour: datetime) -> pa.Array | None:
        """The keys of the answers that the hour has; None if it has none."""
        return self._read(hour)[1]

    def put(self, hour: datetime, data: bytes, new: pa.Array) -> None:
        """Write the file of an hour after answers with ``new`` keys were added to it."""
        self._objects.put(predictions_key(self._model, hour), data)
        old = self.marks(hour)
        self._keep(hour, data, new if old is None else pa.concat_arrays([old, new]))

    def _read(self, hour: datetime) -> tuple[bytes | None, pa.Array | None]:
        if hour not in self._kept:
            data = stored(self._objects, predictions_key(self._model, hour))
            self._keep(hour, data, None if data is None else _marks(table_of(data, KEY_COLUMNS)))
        return self._kept[hour]

    def _keep(self, hour: datetime, data: bytes | None, marks: pa.Array | None) -> None:
        self._kept[hour] = (data, marks)
        self._kept.move_to_end(hour)
        while len(self._kept) > self._KEPT:
            self._kept.popitem(last=False)


def _marks(table: pa.Table) -> pa.Array:
    """One string a row, by which an answer is known again."""
    joined = pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in KEY_COLUMNS), "\n")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _table(rows: pd.DataFrame) -> pa.Table:
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
    # the memory log keeps whole numbers as they were asked
    schema = pa.schema([(field.name, _wide(field.type)) for field in table.schema])
    return table.cast(schema)


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.float64()
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_dictionary(kind) else kind


def _with(there: bytes | None, new: pa.Table) -> bytes:
    """The file with more answers, its old ones first. Row groups are written as they are read."""
    old = None if there is None else pq.ParquetFile(BytesIO(there))
    schema = _together([new.schema] if old is None else [old.schema_arrow, new.schema])
    sink = BytesIO()
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=strings) as writer:
        for batch in _parts(old, new):
            writer.write_table(_conform(batch, schema))
    return sink.getvalue()


def _parts(old: pq.ParquetFile | None, new: pa.Table) -> Iterator[pa.Table]:
    """All rows in parts of a size; the last old one, which is mostly smaller, goes with the new."""
    last: pa.Table | None = None
    for batch in old.iter_batches(ROWS_AT_ONCE) if old is not None else ():
        if last is not None:
            yield last
        last = pa.Table.from_batches([batch])
    if last is None:
        yield new
        return
    schema = _together([last.schema, new.schema])
    yield pa.concat_tables([_conform(last, schema), _conform(new, schema)])


def _together(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns of all; one that is a number here and a string there is a string."""
    kinds: dict[str, set[pa.DataType]] = {}
    for field in (field for schema in schemas for field in schema):
        kinds.setdefault(field.name, set()).update(() if pa.types.is_null(field.type) else {field.type})
    return pa.schema([(name, pa.float64() if not of else of.pop() if len(of) == 1 else pa.string()) for name, of in kinds.items()])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if table.schema.equals(schema):
        return table
    columns = [table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(columns, schema=schema)
