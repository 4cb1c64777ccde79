"""The as-known-at-the-time join as one DuckDB query: each event with the values that were known when it happened.

A row is visible from the later of its two timestamps on. Of the visible ones within their time to live the newest counts: by event
time, then by when it was written, then by its place in the files. The rows of a view are therefore first reduced to those that ever
are their entity's newest, one for each time at which that changes; then the last change before an event is its answer, which is what
an ASOF join finds after one sort of each side. Feast's own join pairs every event with every row of its entity before it ranks them.

Times are whole microseconds since 1970: DuckDB subtracts an interval from a time with a zone by the calendar, which is slow.
"""

# ruff: noqa: S608 : names and strings are quoted; DuckDB takes neither columns nor files as parameters

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_PLACE, _ASKED = "mlops place", "mlops asked at"
"""Names that no column of the events has."""


@dataclass(frozen=True)
class Key:
    """A column of the view's rows, and the one of the events that it must equal."""

    column: str
    asked: str


@dataclass(frozen=True)
class Value:
    """A column of the view's rows, and its name in the answer."""

    column: str
    name: str


@dataclass(frozen=True)
class Rows:
    """The rows of a view, and what is looked up in them.

    Args:
        files: Parquet, in the order in which they were written.
        keys: what an entity is known by; empty if the view has one row at a time for everybody.
        values: what to look up.
        valid_from: the column that says from when on the values are valid.
        known_from: the column that says when they were written; without it they are taken to be known as soon as they are valid.
        ttl: how long values stand, the end included; without it for ever.
    """

    files: tuple[str, ...]
    keys: tuple[Key, ...]
    values: tuple[Value, ...]
    valid_from: str
    known_from: str | None
    ttl: timedelta | None


@dataclass(frozen=True)
class Span:
    """The first and the last time asked for, and how often. Rows that cannot answer are not read."""

    first: datetime
    last: datetime
    count: int

    @property
    def is_short(self) -> bool:
        """Whether leaving out entities that nobody asks for is worth its time; with a million events it is a quarter of the whole."""
        return self.count <= 100_000


def join_query(events: str, columns: Sequence[str], asked_at: str, views: Sequence[Rows], span: Span | None) -> str:
    """The query whose answer is every row of the events once, in their order, with the values of the views beside it.

    Args:
        events: what to select the events from, as it stands behind FROM.
        columns: theirs, all of which come back.
        asked_at: the one that says at which time a row asks.
        views: what to look up, in the order of the answer's columns.
        span: of the events' times, if they have any, and are the same each time they are selected.
    """
    answers = [f"events.{quoted(name)}" for name in columns]
    tables, joins = [f"events AS {'' if span and span.is_short else 'NOT '}MATERIALIZED ({_placed(events, asked_at)})"], []
    for number, view in enumerate(views):
        found = f"view_{number}"
        answers += [f"{_standing(found, view, place)} AS {quoted(value.name)}" for place, value in enumerate(view.values)]
        equal = [f"events.{quoted(key.asked)} = {found}.key_{place}" for place, key in enumerate(view.keys)]
        conditions = " AND ".join([*equal, f"events.{quoted(_ASKED)} >= {found}.visible_from"])
        # Not inside the join: there a name that the files do not have would be looked for in the tables to the left.
        tables.append(f"{found} AS NOT MATERIALIZED ({_changes(view, span)})")
        joins.append(f"ASOF LEFT JOIN {found} ON {conditions}")
    return "\n".join(
        [
            f"WITH {', '.join(tables)}",
            f"SELECT {', '.join(answers)} FROM events",
            *joins,
            f"ORDER BY events.{quoted(_PLACE)}",
        ]
    )


def columns_query(events: str) -> str:
    """The query for the names and types of the events' columns."""
    return f"DESCRIBE SELECT * FROM {events}"


def span_query(events: str, asked_at: str) -> str:
    """The query for the first and the last time asked for, and the number of events."""
    time = f"CAST({quoted(asked_at)} AS TIMESTAMPTZ)"
    return f"SELECT min({time}), max({time}), count(*) FROM {events}"


def quoted(name: str) -> str:
    """A name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as a literal in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _placed(events: str, asked_at: str) -> str:
    return f"SELECT *, row_number() OVER () AS {quoted(_PLACE)}, {_micros(quoted(asked_at))} AS {quoted(_ASKED)} FROM {events}"


def _changes(view: Rows, span: Span | None) -> str:
    """The view's rows that ever are their entity's newest, one for each time at which that changes.

    In the order of ``visible_from`` a row older than one before it never counts. Of those that appear at one time the last counts,
    since ties are ordered by newness. The greatest ``valid_from`` so far is enough to know: among equal ones, what is visible later was
    written later.
    """
    keys = [f"key_{number}" for number in range(len(view.keys))]
    values = [f"value_{number}" for number in range(len(view.values))]
    partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
    return (
        f"SELECT {', '.join([*keys, *values])}, valid_from, visible_from FROM ({_readable(view, span)}) "
        f"WINDOW w AS ({partition}ORDER BY visible_from, valid_from, known_from, file_number, row_number) "
        "QUALIFY valid_from >= max(valid_from) OVER w AND visible_from IS DISTINCT FROM lead(visible_from) OVER w"
    )


def _readable(view: Rows, span: Span | None) -> str:
    """The rows that may answer, under names of ours, so that theirs may be any."""
    own, asked = ([quoted(getattr(key, side)) for key in view.keys] for side in ("column", "asked"))
    valid_from, known_from = quoted(view.valid_from), quoted(view.known_from or view.valid_from)
    columns = [f"{name} AS key_{number}" for number, name in enumerate(own)]
    columns += [f"{quoted(value.column)} AS value_{number}" for number, value in enumerate(view.values)]
    columns += [f"{_micros(valid_from)} AS valid_from", f"{_micros(known_from)} AS known_from"]
    columns += [f"greatest({_micros(valid_from)}, {_micros(known_from)}) AS visible_from"]
    # A row that does not say when it was written is never known to have been there.
    conditions = [f"{name} IS NOT NULL" for name in (valid_from, known_from)]
    if span:
        conditions += [f"{name} <= {_literal(span.last)}" for name in (valid_from, known_from)]
    if span and view.ttl:
        conditions.append(f"{valid_from} >= {_literal(span.first - view.ttl)}")
    if span and span.is_short:
        conditions += [f"{mine} IN (SELECT {theirs} FROM events)" for mine, theirs in zip(own, asked, strict=True)]
    return (
        f"SELECT {', '.join(columns)}, file_index AS file_number, file_row_number AS row_number "
        f"FROM read_parquet([{', '.join(map(text, view.files))}], hive_partitioning = false) WHERE {' AND '.join(conditions)}"
    )


def _standing(found: str, view: Rows, place: int) -> str:
    value = f"{found}.value_{place}"
    if not view.ttl:
        return value
    return f"CASE WHEN {found}.valid_from >= events.{quoted(_ASKED)} - {view.ttl // timedelta(microseconds=1)} THEN {value} END"


def _micros(time: str) -> str:
    return f"epoch_us(CAST({time} AS TIMESTAMPTZ))"


def _literal(time: datetime) -> str:
    return f"TIMESTAMPTZ '{time.astimezone(UTC).isoformat(sep=' ')}'"
