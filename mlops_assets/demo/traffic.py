"""Requests at a steady rate: real flights, each with the features that were known when it was asked about."""

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd

from mlops_assets.adapters.feature_rows import load_definitions
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.defs.flight_delay import landing
from mlops_assets.settings import HOST


class Caller:
    """What a booking system knows: the features of any flight of the year, as of two hours before its departure."""

    def __init__(self, spec: ModelSpec, start: date, end: date) -> None:
        from feature_repo.flight_delay import build_views

        days = [start + timedelta(days=n) for n in range((end - start).days)]
        datasets = {
            "events": pd.concat([landing.events(day) for day in days]),
            "labels": pd.concat([landing.labels(day) for day in days]),
            "weather": pd.concat([landing.weather(day) for day in days]),
        }
        self._spec, self._events, self._store = spec, datasets["events"], MemoryFeatureStore()
        first = datetime.combine(start, datetime.min.time(), UTC)
        definitions = load_definitions(spec.features.transform)
        for view, rows in build_views(datasets, first, first + timedelta(days=len(days))).items():
            for day, part in rows.groupby(rows["event_timestamp"].dt.date):
                self._store.write(definitions.view(view), day, part, first)

    def rows(self, start: date, end: date) -> pd.DataFrame:
        """The flights asked about in ``[start, end)``, each with its features as of then."""
        chosen = self._events[(self._events["event_time"].dt.date >= start) & (self._events["event_time"].dt.date < end)]
        return self._store.as_of(self._spec.features, chosen.rename(columns={"event_time": "event_timestamp"}).reset_index(drop=True))

    def requests(self, start: date, end: date) -> list[dict[str, Any]]:
        """One request body a flight asked about in ``[start, end)``."""
        rows = self.rows(start, end)
        on_demand = self._store.version(self._spec.features).on_demand
        computed = {item.name for view in on_demand for item in view.fields}
        said = [item.name for view in on_demand for item in view.request]  # all of them times
        sent = rows[[name for name in self._spec.features.names if name not in computed]]
        sent = sent.assign(**{name: [when.isoformat() for when in rows[name]] for name in said}).astype(object)
        inputs = sent.where(sent.notna(), None).to_dict("records")
        times = [when.isoformat() for when in rows["event_timestamp"]]
        units = rows[self._spec.features.unit].astype(str)
        known = rows[list(self._spec.features.entities)].astype(object)
        entities = known.where(known.notna(), None).to_dict("records")
        names = ("unit", "event_time", "entities", "inputs")
        return [dict(zip(names, told, strict=True)) for told in zip(units, times, entities, inputs, strict=True)]


class Traffic:
    """Threads that send requests through the gateway until they are told to stop.

    Args:
        model: who is asked.
        port: of the gateway.
        rate: requests a second, all threads together.
        host: of the gateway.
    """

    def __init__(self, model: str, port: int, rate: float, threads: int = 4, host: str = HOST) -> None:
        self._path, self._host, self._port, self._pause = f"/models/{model}/predict", host, port, threads / rate
        self._pool: Sequence[bytes] = ()
        self._units: Sequence[str] = ()
        self._turn = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answers: Counter[tuple[str, int]] = Counter()
        self.last_answer: dict[str, float] = {}
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(threads)]

    def play(self, requests: Sequence[dict[str, Any]]) -> None:
        """From now on send these, in their order, and from the first again when all were sent."""
        pool, units = [json.dumps(request).encode() for request in requests], [request["unit"] for request in requests]
        with self._lock:
            self._pool, self._units, self._turn = pool, units, itertools.count()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)

    @property
    def failed(self) -> int:
        """Requests that got no answer of a release, after the first release went into production."""
        return sum(count for (release, status), count in self.answers.items() if status >= 500 and release != "none yet")

    def by_release(self) -> dict[str, int]:
        """Answers of each release."""
        totals: Counter[str] = Counter()
        for (release, status), count in self.answers.items():
            if status == http.client.OK:
                totals[release] += count
        return dict(totals)

    def _send(self) -> None:
        connection, due, served = None, time.monotonic(), False
        while not self._stop.is_set():
            due = max(due + self._pause, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            with self._lock:
                if not self._pool:
                    continue
                place = next(self._turn) % len(self._pool)
                body, unit = self._pool[place], self._units[place]
            connection = connection or http.client.HTTPConnection(self._host, self._port, timeout=10)
            release, status = self._ask(connection, body, unit)
            served = served or status == http.client.OK
            if status == 0:
                connection.close()
                connection = None
            with self._lock:
                self.answers[release if served else "none yet", status or 599] += 1
                self.last_answer[release] = time.monotonic()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes, unit: str) -> tuple[str, int]:
        try:
            connection.request("POST", self._path, body, {"content-type": "application/json", "x-unit": unit})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return "no answer", 0
        return response.getheader("x-mlops-release", "no release"), response.status
