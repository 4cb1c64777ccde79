"""The prediction log: Parquet files in the object store, by model and hour, named by the time at which they were shipped.

``predictions/<model>/hour=<yyyymmddThh>/<yyyymmddThhmmss_microseconds>-<release>-<replica>-<sequence>.parquet``. Replicas write beside
each other, so a name may show up a little after a later one. A :class:`_Position` therefore says up to where everything was read, and
lists what was read of the last ``settle``, as hashes. A shipper that comes later than that takes a new name and leaves an empty object
under the old.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import msgspec

from mlops_assets.core.errors import BadData
from mlops_assets.ports import Clock, ObjectInfo, ObjectStore, Predictions

if TYPE_CHECKING:  # pyarrow costs a serving process 60 MB, which it pays when it ships and not before
    import pandas as pd
    import pyarrow as pa

FEATURE_PREFIX, ENTITY_PREFIX, REQUEST_PREFIX = "feature__", "entity__", "request__"
KEY_COLUMNS = ("request_id", "release", "role")
TOMBSTONE = b""
"""What a shipper leaves under a name that it gave up: an upload still under way can no longer take it."""

_ROWS_AT_ONCE = 1000
"""So many rows become columns at once, since the requests of a release wait for that long."""

_BUCKET = "predictions"
_STAMP = "%Y%m%dT%H%M%S_%f"
_STAMP_LENGTH, _HOUR_LENGTH = 22, 11


class Answer(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One served answer. ``features`` are raw values in the order of the :class:`LoggedInput`; the times have their zone.

    It is written at each request and by place: another order of the fields is another format of :mod:`serving.segments`.
    """

    request_id: str
    unit: str
    role: str
    score: float
    decision: bool
    latency_ms: float
    logged_at: datetime
    event_time: datetime
    features: tuple[float | str | None, ...]


@dataclass(frozen=True, slots=True)
class LoggedInput:
    """A feature as it is logged, an entity by which features were looked up, or a request field from which they were computed.

    The column of a ``category`` holds strings, any other's numbers.
    """

    name: str
    category: bool
    prefix: str = FEATURE_PREFIX

    @property
    def column(self) -> str:
        return self.prefix + self.name


def object_key(model: str, shipped_at: datetime, release: str, replica: str, sequence: int) -> str:
    """Where a file goes that is shipped now.

    >>> object_key("flight-delay", datetime(2026, 11, 23, 10, 5, 0, 42, UTC), "v3", "a1", 7)
    'predictions/flight-delay/hour=20261123T10/20261123T100500_000042-v3-a1-000007.parquet'
    """
    return f"{_place(model, shipped_at.astimezone(UTC).strftime(_STAMP))}-{release}-{replica}-{sequence:06d}.parquet"


def shipped_at(key: str) -> datetime:
    """The time in an object's name; :class:`BadData` if it has none."""
    name = key.rsplit("/", 1)[-1]
    try:
        return datetime.strptime(name[:_STAMP_LENGTH], _STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadData(f"object {key!r}: its name does not begin with a time such as 20261123T100500_000042: remove it") from error


def read_up_to(position: str) -> datetime | None:
    """Up to when everything was read that a position stands for; None for the beginning. :class:`BadData` if it is no position."""
    settled = _Position.parse(position).settled
    return datetime.strptime(settled, _STAMP).replace(tzinfo=UTC) if settled else None


def to_parquet(model: str, release: str, inputs: Sequence[LoggedInput], answers: Sequence[Answer]) -> bytes:
    """Answers of one release as a Parquet file. The same answers give the same bytes."""
    return encode_table(to_table(model, release, inputs, answers))


def to_table(model: str, release: str, inputs: Sequence[LoggedInput], answers: Sequence[Answer]) -> pa.Table:
    """Answers of one release as the columns of the log."""
    import pyarrow as pa

    schema = _schema(inputs)
    chunks = [answers[start : start + _ROWS_AT_ONCE] for start in range(0, len(answers), _ROWS_AT_ONCE)]
    return pa.Table.from_batches([_batch(model, release, chunk, schema) for chunk in chunks], schema).combine_chunks()


def encode_table(table: pa.Table) -> bytes:
    """The log's columns as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [field.name for field in table.schema if pa.types.is_string(field.type)]
    buffer = BytesIO()
    # numbers differ from row to row: a dictionary of them takes longer and more room than they do
    pq.write_table(table, buffer, compression="zstd", use_dictionary=strings)
    return buffer.getvalue()


def _schema(inputs: Sequence[LoggedInput]) -> pa.Schema:
    import pyarrow as pa

    text, number, time = pa.string(), pa.float64(), pa.timestamp("us", "UTC")
    told = {"request_id": text, "release": text, "role": text, "unit": text, "score": number, "decision": pa.bool_()}
    told |= {"latency_ms": number, "logged_at": time, "event_time": time, "model": text}
    return pa.schema([*told.items(), *((each.column, text if each.category else number) for each in inputs)])


def _batch(model: str, release: str, answers: Sequence[Answer], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [
        [answer.request_id for answer in answers],
        [release] * len(answers),
        [answer.role for answer in answers],
        [answer.unit for answer in answers],
        [answer.score for answer in answers],
        [answer.decision for answer in answers],
        [answer.latency_ms for answer in answers],
        [answer.logged_at for answer in answers],
        [answer.event_time for answer in answers],
        [model] * len(answers),
        *zip(*[answer.features for answer in answers], strict=True),
    ]
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


class S3PredictionLog:
    """:class:`mlops_assets.ports.PredictionLog` over the files that serving processes ship.

    Args:
        objects: where they are shipped to.
        settle: how much later than its name says a file may show up, the difference of the machines' clocks included. It delays
            nothing: files are read at once, and remembered for this long.
        clock: the present time.
    """

    def __init__(self, objects: ObjectStore, settle: timedelta = timedelta(seconds=60), clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._objects, self._settle, self._clock = objects, settle, clock

    def read(self, model: str, after: str = "", columns: Sequence[str] | None = None, limit: int | None = None) -> Predictions:
        """The answers that were shipped since ``after`` was current, in the order of the log; the file with row ``limit`` is the last.

        A request that was answered twice (a client's retry) counts once within one read, by request id, release and role. A column
        that a file does not have is null.

        Raises:
            BadData: if ``after`` is no position, or an object is no such file.
        """
        position = _Position.parse(after)
        listed = self._objects.list(prefix(model), after=_place(model, position.settled) if position.settled else "")
        wanted = None if columns is None else tuple(dict.fromkeys([*KEY_COLUMNS, *columns]))
        taken, tables = [], []
        for entry in listed:
            taken.append(entry)
            if entry.size > len(TOMBSTONE) and _mark(entry.key) not in position.seen:
                tables.append(_read(self._objects.get(entry.key), entry.key, wanted))
            if limit is not None and sum(len(table) for table in tables) >= limit:
                break
        rows = _concatenate(tables, wanted).to_pandas().drop_duplicates(list(KEY_COLUMNS), ignore_index=True)
        end = self._advance(model, position, taken).text()
        return Predictions(rows if columns is None else rows[list(columns)], end)

    def position(self, model: str, at: datetime | None = None) -> str:
        """The present end of the log: what is shipped from now on comes after it. With ``at``, what was shipped since then does."""
        if at is not None:
            return _Position(at.astimezone(UTC).strftime(_STAMP)).text()
        floor = (self._clock().astimezone(UTC) - self._settle).strftime(_STAMP)
        listed = self._objects.list(prefix(model), after=_place(model, floor))
        return _Position(floor, tuple(_mark(entry.key) for entry in listed)).text()

    def newest(self, model: str, since: datetime) -> datetime | None:
        """When the newest file was shipped, by its name, if that was after ``since``."""
        listed = self._objects.list(prefix(model), after=_place(model, since.astimezone(UTC).strftime(_STAMP)))
        times = [shipped_at(entry.key) for entry in listed if entry.size > len(TOMBSTONE)]
        return max((at for at in times if at > since), default=None)

    def find(self, model: str, request_id: str, since: datetime) -> pd.DataFrame:
        """The answers to a request that were shipped since a time. The newest files are read first, and no more of them than it takes.

        Those who answer the same request, and a copy of it, do so at about the same time, and an answer is never shipped before it was
        logged: so once one is found, only files count that were shipped later than a little before that.
        """
        found: list[pa.Table] = []
        earliest: datetime | None = None
        for entry in reversed(self._objects.list(prefix(model), after=_place(model, since.astimezone(UTC).strftime(_STAMP)))):
            if earliest is not None and shipped_at(entry.key) < earliest - self._settle:
                break
            if entry.size > len(TOMBSTONE) and (answers := _of_request(self._objects.get(entry.key), entry.key, request_id)) is not None:
                found.append(answers)
                earliest = min([*answers["logged_at"].to_pylist(), *([earliest] if earliest else [])])
        rows: pd.DataFrame = _concatenate(found, None).to_pandas().drop_duplicates(list(KEY_COLUMNS), ignore_index=True)
        return rows

    def _advance(self, model: str, position: _Position, listed: Sequence[ObjectInfo]) -> _Position:
        if not listed:
            return position
        # the clock of one shipper that is fast must not hide what the others ship
        latest = min(shipped_at(listed[-1].key), self._clock().astimezone(UTC))
        settled = max(position.settled, (latest - self._settle).strftime(_STAMP))
        return _Position(settled, tuple(_mark(entry.key) for entry in listed if entry.key > _place(model, settled)))


@dataclass(frozen=True)
class _Position:
    """Everything named before ``settled`` was read, and of what is named after it the files in ``seen``."""

    settled: str = ""
    seen: tuple[str, ...] = ()

    def text(self) -> str:
        return json.dumps([self.settled, *self.seen], separators=(",", ":")) if self.settled else ""

    @classmethod
    def parse(cls, text: str) -> _Position:
        if not text:
            return cls()
        try:
            settled, *seen = json.loads(text)
            datetime.strptime(settled, _STAMP).replace(tzinfo=UTC)
        except (ValueError, TypeError) as error:
            raise BadData(
                f"position of the prediction log: got {text[:60]!r}, expected one that it gave out itself: begin with ''"
            ) from error
        return cls(settled, tuple(seen))


def _place(model: str, stamp: str) -> str:
    """Where the names begin that were given at a time. They are in the order of time."""
    return f"{prefix(model)}hour={stamp[:_HOUR_LENGTH]}/{stamp}"


def prefix(model: str) -> str:
    """Where the log of a model lies."""
    return f"{_BUCKET}/{model}/"


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _read(data: bytes, key: str, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(BytesIO(data))
        return file.read(None if columns is None else [name for name in columns if name in file.schema_arrow.names])
    except pa.ArrowException as error:
        raise BadData(f"object {key!r}: got no Parquet file ({error}): remove it, or restore it") from error


def _of_request(data: bytes, key: str, request_id: str) -> pa.Table | None:
    """A file's answers to a request; None if it has none. Only the column of ids is read of most files."""
    import pyarrow.compute as pc

    if not pc.any(pc.equal(_read(data, key, ("request_id",))["request_id"], request_id)).as_py():
        return None
    table = _read(data, key, None)
    return table.filter(pc.equal(table["request_id"], request_id))


def _concatenate(tables: Sequence[pa.Table], columns: Sequence[str] | None) -> pa.Table:
    """The tables below each other. A feature that was a number in one release and a category in another becomes a string."""
    import pyarrow as pa

    empty = _schema(()).empty_table()
    types: dict[str, set[pa.DataType]] = {field.name: {field.type} for field in empty.schema}
    for table in tables:
        for field in table.schema:
            types.setdefault(field.name, set()).add(field.type)
    for name in columns or ():
        types.setdefault(name, {pa.float64()})
    names = list(types) if columns is None else list(columns)
    schema = pa.schema([(name, types[name].copy().pop() if len(types[name]) == 1 else pa.string()) for name in names])
    return pa.concat_tables([_conform(table, schema) for table in (empty, *tables)])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    if table.schema.equals(schema):
        return table
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)
