"""What both feature stores do alike: find a model's definitions, check rows, and put answers together."""

from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import numpy as np
import pandas as pd

from mlops_assets.adapters import on_demand
from mlops_assets.core.errors import BadData, NotFound, SpecError
from mlops_assets.core.feature_spec import Features
from mlops_assets.core.feature_views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureDefinitions, FeatureService, View, code_hash
from mlops_assets.core.on_demand import OnDemandView

T = TypeVar("T")
_code_hash = cache(code_hash)
TIMESTAMPS = (EVENT_TIMESTAMP, CREATED_TIMESTAMP)


def load_definitions(transform: str) -> FeatureDefinitions:
    """The definitions in the module of ``transform``, e.g. ``feature_repo.flight_delay:build_views``.

    Raises:
        NotFound: if there is no such module.
        SpecError: if it cannot be imported, does not declare ``VIEWS`` and ``SERVICES``, or an expression of ``ON_DEMAND`` is wrong.
    """
    name = transform.partition(":")[0]
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        raise NotFound(f"features.transform: module {name!r} cannot be imported ({error}): correct the path or install it") from error
    except Exception as error:  # the users' code may raise anything, and whatever it is belongs to this model
        raise SpecError(f"features.transform: module {name!r} raised {type(error).__name__}: {error}: mend it there") from error
    views, services = _declared(module, "VIEWS", View), _declared(module, "SERVICES", FeatureService)
    computed = _declared(module, "ON_DEMAND", OnDemandView, default=())
    on_demand.check_names(computed, frozenset(field.name for view in views for field in view.fields))
    source = Path(module.__file__).read_text() if module.__file__ else ""
    return FeatureDefinitions(views, services, _code_hash(source), computed)


def _declared(module: ModuleType, name: str, kind: type[T], default: tuple[T, ...] | None = None) -> tuple[T, ...]:
    found = getattr(module, name, default)
    if not isinstance(found, tuple) or not all(isinstance(item, kind) for item in found):
        raise SpecError(f"{module.__name__}: got {name} = {found!r}, expected a tuple of {kind.__name__}: declare it there")
    return found


def check_day(view: str, day: date, rows: pd.DataFrame) -> pd.DataFrame:
    """One day of a view as it is stored: timestamps in UTC microseconds, all within the day.

    Raises:
        BadData: if a timestamp column is missing, null, without a zone, or of another day.
    """
    missing = [name for name in TIMESTAMPS if name not in rows]
    if missing:
        raise BadData(f"view {view!r} of {day}: {', '.join(missing)} is missing, got {', '.join(rows.columns)}: the transform must add it")
    for name in TIMESTAMPS:
        if not isinstance(rows[name].dtype, pd.DatetimeTZDtype) or rows[name].isna().any():
            raise BadData(f"view {view!r} of {day}: {name} must be a time with its zone in every row, got {rows[name].dtype}")
    checked = rows.assign(**{name: utc_micro(rows[name]) for name in TIMESTAMPS})
    other = checked[checked[EVENT_TIMESTAMP].dt.date != day]
    if len(other):
        raise BadData(f"view {view!r} of {day}: {len(other)} rows lie outside that day (UTC), first {other[EVENT_TIMESTAMP].iloc[0]}")
    return checked


def conform(view: View, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in the view's columns and types. A field that the stored rows do not have yet is null; of equal rows the last counts.

    Raises:
        BadData: if the entity column is missing or null in some row, or a number is none.
    """
    if view.entity not in rows or rows[view.entity].isna().any():
        raise BadData(f"view {view.name!r}: entity column {view.entity!r} is missing or null in some rows, got {', '.join(rows.columns)}")
    full = rows.reindex(columns=list(view.columns))
    try:
        typed = full.astype({field.name: "float64" for field in view.fields if field.type == "float"})
    except (TypeError, ValueError) as error:
        raise BadData(f"view {view.name!r}: {error}; declare the field as 'string' or mend the transform") from error
    typed = typed.astype(dict.fromkeys((view.entity, *(field.name for field in view.fields if field.type == "string")), "object"))
    return typed.drop_duplicates([view.entity, *TIMESTAMPS], keep="last").reset_index(drop=True)


TRANSFORM = "transform"
"""Under this name stored rows carry the hash of the code that computed them."""


def rewritten(
    view: View, day: date, stored: pd.DataFrame | None, rows: pd.DataFrame, written_at: datetime, transform: str = ""
) -> pd.DataFrame | None:
    """One day of a view after ``rows`` were written to it; ``None`` if they say nothing new.

    The first rows of a day are taken at their word. Later ones are held against the newest row of the same entity and time: equal ones say
    nothing, others are added as known from ``written_at`` on, and where a row is gone, so is a row of nulls. What could be seen before
    ``written_at`` stays; what could not is replaced. A field that the stored rows do not have yet is filled in where they are equal.

    Rows that another ``transform`` computed are no history of these: all of them are replaced.
    """
    said = conform(view, check_day(view.name, day, rows))
    said.attrs = {TRANSFORM: transform}
    if stored is None or stored.attrs.get(TRANSFORM, transform) != transform:
        return said
    kept = conform(view, stored)
    if said.equals(kept) and set(view.columns) <= set(stored.columns):
        return None
    added = [field.name for field in view.fields if field.name not in stored]
    before, now = _aligned(view, kept, said)
    equal = _equal_rows(before, now, [field.name for field in view.fields if field.name not in added])
    filled = equal & before["place"].notna() & now["place"].notna()
    for name in added:
        kept.loc[before.loc[filled, "place"].astype(int), name] = now.loc[filled, name].to_numpy()
    if equal.all() and not (added and filled.any()):
        return None
    written = pd.Series(pd.Timestamp(written_at).tz_convert("UTC"), index=now.index)
    known_from = utc_micro(pd.concat([before[CREATED_TIMESTAMP], now[CREATED_TIMESTAMP], written], axis=1).max(axis=1))
    late = now.assign(**{CREATED_TIMESTAMP: known_from})[~equal].reset_index()
    whole = conform(view, pd.concat([kept, late], ignore_index=True))
    whole.attrs = {TRANSFORM: transform}
    return whole


def _aligned(view: View, stored: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What both say of each entity and time: the row written last, with its ``place``, which is null where there is none."""
    key = [view.entity, EVENT_TIMESTAMP]
    placed = (frame.assign(place=range(len(frame))).sort_values(CREATED_TIMESTAMP, kind="stable") for frame in (stored, rows))
    before, now = (frame.drop_duplicates(key, keep="last").set_index(key) for frame in placed)
    either = before.index.union(now.index, sort=False)
    return before.reindex(either), now.reindex(either)


def _equal_rows(before: pd.DataFrame, now: pd.DataFrame, fields: list[str]) -> "pd.Series[bool]":
    """Which rows say what was said before. A sum that begins on another day rounds otherwise: nine digits are enough."""
    equal = before["place"].notna() | now["place"].isna()  # a new row is new though all its values be null
    for name in fields:
        left, right = before[name], now[name]
        same = np.isclose(left, right, rtol=1e-9, atol=0) if left.dtype == float else left == right
        equal &= same | (left.isna() & right.isna())
    return equal


def empty(view: View) -> pd.DataFrame:
    """No rows, in the view's columns and types."""
    times = pd.Series(dtype="datetime64[us, UTC]")
    return conform(view, pd.DataFrame(dict.fromkeys(TIMESTAMPS, times) | {view.entity: pd.Series(dtype=object)}))


def visible(view: View, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that ever are an entity's newest, with ``visible_from``, in that order.

    A row is visible from the later of its timestamps on. Then the newest counts: by ``event_timestamp``, and among equal
    ones by ``created_timestamp``; so a late correction of an old value does not hide a newer value.
    """
    ordered = rows.sort_values(list(TIMESTAMPS), kind="stable").reset_index(drop=True)
    ordered["newness"] = ordered.index
    ordered["visible_from"] = ordered[list(TIMESTAMPS)].max(axis=1)
    ordered = ordered.sort_values(["visible_from", "newness"])
    newest = ordered.groupby(view.entity)["newness"].cummax()
    return ordered[ordered["newness"] == newest].drop(columns="newness")


def latest(view: View, rows: pd.DataFrame, until: datetime) -> pd.DataFrame:
    """The row of each entity that stands at ``until``, sorted by entity; those past their time to live are left out."""
    moment = pd.Timestamp(until)
    standing = rows[rows[EVENT_TIMESTAMP].between(moment - view.ttl, moment) & (rows[CREATED_TIMESTAMP] <= moment)]
    newest = standing.sort_values(list(TIMESTAMPS), kind="stable").drop_duplicates(view.entity, keep="last")
    return newest[list(view.columns)].sort_values(view.entity).reset_index(drop=True)


def of_entity(view: View, rows: pd.DataFrame, entities: Mapping[str, str] | None) -> pd.DataFrame:
    """The rows of one entity alone, if any are asked for."""
    return rows if entities is None else rows[rows[view.entity] == entities.get(view.entity)]


def newest_value(view: View, rows: pd.DataFrame, until: datetime) -> datetime | None:
    """Since when the newest value of the view has been valid that is known by ``until``. A row of nulls is none."""
    moment = pd.Timestamp(until)
    known = rows[(rows[list(TIMESTAMPS)] <= moment).all(axis=1) & rows[[field.name for field in view.fields]].notna().any(axis=1)]
    return known[EVENT_TIMESTAMP].max().to_pydatetime() if len(known) else None


def changed(view: View, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The rows to write so that a store that holds ``before`` holds ``after``: an entity that no longer stands gets nulls."""
    same = after.merge(before, how="inner", on=list(view.columns))[view.entity]
    new = after[~after[view.entity].isin(same)]
    gone = before[~before[view.entity].isin(after[view.entity])][[view.entity, *TIMESTAMPS]]
    return pd.concat([new, conform(view, gone)], ignore_index=True) if len(gone) else new.reset_index(drop=True)


def check_entities(features: Features, projection: tuple[View, ...], entities: pd.DataFrame, timed: bool) -> None:
    """See that the columns to look values up by are there, else :class:`BadData`."""
    wanted = list(dict.fromkeys(view.entity for view in projection)) + ([EVENT_TIMESTAMP] if timed else [])
    missing = [name for name in wanted if name not in entities]
    if missing:
        raise BadData(f"service {features.service!r} looks up by {', '.join(missing)}, got columns {', '.join(entities.columns)}: add them")
    if timed and not isinstance(entities[EVENT_TIMESTAMP].dtype, pd.DatetimeTZDtype):
        raise BadData(f"{EVENT_TIMESTAMP} must be a time with its zone, got {entities[EVENT_TIMESTAMP].dtype}: localize it to UTC")


def assemble(features: Features, definitions: FeatureDefinitions, entities: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """The entity rows as they were given, beside them the values looked up and computed; every input of the model must be among them.

    Raises:
        BadData: if an input is neither a field of the service nor a column of the entities, or one cannot be computed from them.
    """
    frame = _beside(entities, values.set_axis(entities.index, axis=0))
    computed = on_demand.computed(definitions.computed(features.service), frame)
    frame = _beside(frame, computed)
    missing = [name for name in features.names if name not in frame]
    if missing:
        raise BadData(
            f"inputs {', '.join(missing)} are neither fields of service {features.service!r} nor columns of the rows asked for: "
            "add them to the service or to the events"
        )
    numbers = [name for name in computed.select_dtypes("number") if name in {item.name for item in features.inputs if item.categories}]
    if numbers and len(frame):
        raise BadData(f"inputs {', '.join(numbers)} have categories, and are computed as numbers: write an expression that is a string")
    return frame


def beside_each_other(values: list[pd.DataFrame], rows: int) -> pd.DataFrame:
    """The values of some views as one frame of so many rows; without any view it has no columns."""
    return pd.concat(values, axis=1) if values else pd.DataFrame(index=range(rows))


def _beside(rows: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([rows.drop(columns=[name for name in values if name in rows]), values], axis=1)


def utc_micro(times: "pd.Series[pd.Timestamp]") -> "pd.Series[pd.Timestamp]":
    return times.dt.tz_convert("UTC").astype("datetime64[us, UTC]")
