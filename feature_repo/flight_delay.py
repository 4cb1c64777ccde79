"""The features of ``flight-delay``: the weather at the airport, how late carrier, airport and aircraft have lately been, and the schedule.

Carrier, origin and distance come with the event itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from mlops_assets.core.feature_views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureService, Field, View
from mlops_assets.core.on_demand import Computed, OnDemandView, RequestField

WEATHER = ("temperature", "dewpoint", "humidity", "wind_speed", "precipitation", "pressure", "visibility")
TRAILING_HOURS = (6, 24)
AIRCRAFT_MEMORY = timedelta(days=3)
AIRCRAFT_FLIGHTS = 5
SILENCE = timedelta(hours=48)
"""A carrier or airport without an arrival for this long gets no more rows; its last ones say null, since 24 h are over."""


def _trailing_fields(prefix: str) -> tuple[Field, ...]:
    return tuple(Field(f"{prefix}_{what}_{hours}h") for hours in TRAILING_HOURS for what in ("late_rate", "mean_delay"))


VIEWS = (
    View("weather", "origin", tuple(Field(name) for name in WEATHER), ttl=timedelta(hours=3)),
    View("carrier_delays", "carrier", _trailing_fields("carrier"), ttl=timedelta(hours=2)),
    View("origin_delays", "origin", _trailing_fields("origin"), ttl=timedelta(hours=2)),
    View("aircraft_delays", "tailnum", (Field("aircraft_last_delay"), Field("aircraft_late_rate")), ttl=AIRCRAFT_MEMORY),
)

ON_DEMAND = (
    OnDemandView(
        "schedule",
        request=(RequestField("scheduled_departure", "timestamp"), RequestField("scheduled_arrival", "timestamp")),
        fields=(
            Computed("hour", 'scheduled_departure.getHours("America/New_York")'),
            Computed("weekday", '(scheduled_departure.getDayOfWeek("America/New_York") + 6) % 7'),  # Monday is 0
            Computed("block_minutes", "(scheduled_arrival - scheduled_departure).getMinutes()"),
        ),
    ),
)

SERVICES = (
    FeatureService("flight_delay_v1", tuple(f"{view.name}:{field.name}" for view in (*VIEWS, *ON_DEMAND) for field in view.fields)),
)


def build_views(datasets: Mapping[str, pd.DataFrame], start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
    """The rows of every view that became known from ``start`` up to and without ``end``.

    A row depends only on what was known by its own time, so that any way to cut a year into calls gives the same rows.

    Args:
        datasets: ``events``, ``labels`` and ``weather`` of the days from ``start`` minus five days; more does no harm.
        start: with a zone.
        end: with a zone.
    """
    first, behind = (pd.Timestamp(time).tz_convert("UTC").as_unit("us") for time in (start, end))
    outcomes = _outcomes(datasets["labels"], datasets["events"], behind)
    views = {
        "weather": _weather(datasets["weather"]),
        "carrier_delays": _trailing(outcomes, "carrier", first, behind),
        "origin_delays": _trailing(outcomes, "origin", first, behind),
        "aircraft_delays": _aircraft(outcomes),
    }
    return {view.name: _rows(view, views[view.name], first, behind) for view in VIEWS}


def _outcomes(labels: pd.DataFrame, events: pd.DataFrame, behind: pd.Timestamp) -> pd.DataFrame:
    """How flights came out, with whose they were, in the order in which it became known."""
    whose = _taken(events, {"flight_id": "object", "carrier": "object", "origin": "object", "tailnum": "object"})
    rows = _taken(labels, {"flight_id": "object", "late": "float64", "delay_minutes": "float64", "known_at": "datetime64[us, UTC]"})
    return rows[rows["known_at"] < behind].merge(whose, on="flight_id").sort_values(["known_at", "flight_id"])


def _taken(rows: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    """The columns wanted of a dataset. One of which nothing has landed has neither rows nor columns."""
    return (rows[list(types)] if len(rows) else pd.DataFrame(columns=list(types))).astype(types)


def _rows(view: View, rows: pd.DataFrame, first: pd.Timestamp, behind: pd.Timestamp) -> pd.DataFrame:
    within = rows[(rows[EVENT_TIMESTAMP] >= first) & (rows[EVENT_TIMESTAMP] < behind)]
    return within.assign(**{CREATED_TIMESTAMP: within[EVENT_TIMESTAMP]})[list(view.columns)].reset_index(drop=True)


def _weather(observations: pd.DataFrame) -> pd.DataFrame:
    times = dict.fromkeys(("known_at", "observed_at"), "datetime64[us, UTC]")
    rows = _taken(observations, {"origin": "object", **times, **dict.fromkeys(WEATHER, "float64")})
    newest = rows.sort_values(["known_at", "observed_at", "origin"]).drop_duplicates(["origin", "known_at"], keep="last")
    return newest.rename(columns={"known_at": EVENT_TIMESTAMP})


def _trailing(outcomes: pd.DataFrame, entity: str, first: pd.Timestamp, behind: pd.Timestamp) -> pd.DataFrame:
    """Rates and means of the arrivals that became known in the last hours, at every full hour, for each entity."""
    hours = pd.date_range(first.ceil("h"), behind, freq="h", inclusive="left", unit="us")
    nobody = _trailing_of(entity, "", outcomes[:0], hours[:0])
    parts = [_trailing_of(entity, str(name), rows, hours) for name, rows in outcomes.groupby(entity)]
    return pd.concat([part for part in parts if len(part)] or [nobody], ignore_index=True)


def _trailing_of(entity: str, name: str, rows: pd.DataFrame, hours: pd.DatetimeIndex) -> pd.DataFrame:
    known, asked = (times.to_numpy(dtype="datetime64[us]") for times in (rows["known_at"], hours))
    until = np.searchsorted(known, asked, side="right")
    columns: dict[str, object] = {entity: name, EVENT_TIMESTAMP: hours}
    for window in TRAILING_HOURS:
        since = np.searchsorted(known, asked - np.timedelta64(window, "h"), side="right")
        for what, column in (("late_rate", "late"), ("mean_delay", "delay_minutes")):
            columns[f"{entity}_{what}_{window}h"] = _means(rows[column].to_numpy(dtype=float), since, until)
    heard = until > np.searchsorted(known, asked - np.timedelta64(SILENCE), side="right")
    return pd.DataFrame(columns)[heard]


def _means(values: np.ndarray, since: np.ndarray, until: np.ndarray) -> np.ndarray:
    """The mean of ``values[since:until]`` for each pair; NaN where that is nothing."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    count = until - since
    return np.where(count > 0, (sums[until] - sums[since]) / np.maximum(count, 1), np.nan)


def _aircraft(outcomes: pd.DataFrame) -> pd.DataFrame:
    """At each arrival of an aircraft: how late it was, and the share of late ones among its last five of three days."""
    rows = outcomes.dropna(subset=["tailnum"]).sort_values(["tailnum", "known_at", "flight_id"])
    rows = rows.drop_duplicates(["tailnum", "known_at"], keep="last")
    by_aircraft = rows.groupby("tailnum")
    late, flights = _sum_of(_recent(rows, by_aircraft, back) for back in range(AIRCRAFT_FLIGHTS))
    return pd.DataFrame(
        {
            "tailnum": rows["tailnum"],
            EVENT_TIMESTAMP: rows["known_at"],
            "aircraft_last_delay": rows["delay_minutes"],
            "aircraft_late_rate": late / flights,
        }
    )


def _recent(rows: pd.DataFrame, by_aircraft: "DataFrameGroupBy[Any, Literal[True]]", back: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the flight ``back`` arrivals ago was late and whether it counts."""
    counts = (rows["known_at"] - by_aircraft["known_at"].shift(back)) <= AIRCRAFT_MEMORY
    return by_aircraft["late"].shift(back).where(counts, 0).to_numpy(dtype=float), counts.to_numpy(dtype=float)


def _sum_of(pairs: Iterable[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    late, flights = zip(*pairs, strict=True)
    return np.sum(late, axis=0), np.sum(flights, axis=0)
