"""What the exporter reads, a model's trouble never keeping it from the others, and how often: so that it takes little of the machine."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlops_assets.assets.hourly_monitoring import REPORTS
from mlops_assets.components.model import model_definitions
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.exporter.families import AssetSeen, CheckSeen, World, families
from mlops_assets.ports import Platform

SHARE = 0.1
"""Of the time that is spent on reading at most: after a look of a second there is none for nine."""

AT_ONCE = 400
"""Keys that are asked for in one query; SQLite takes some thousand parameters."""

LOOK_BACK = timedelta(days=7)
"""How far back the newest shipment of a model is looked for, once."""

_log = logging.getLogger(__name__)


class Reader:
    """Reads Dagster's instance, the policies and the prediction log of all models.

    A run that has ended, and a materialization that was read, are not read again.
    """

    def __init__(self, specs: Sequence[ModelSpec], platform: Platform, instance: dg.DagsterInstance) -> None:
        self._specs, self._platform, self._instance = specs, platform, instance
        self._slugs = {spec.slug: spec.name for spec in specs}
        self._checks = list(_check_keys(specs))
        self._runs: dict[str, float] = {}
        self._logged: dict[str, datetime] = {}
        self._said: dict[dg.AssetCheckKey, CheckSeen] = {}

    def read(self) -> World:
        policies = self._policies()
        # What is retired is looked after by nobody, so that nobody is to be told that its data are old.
        retired = {policy.model for policy in policies if policy.retired_at is not None}
        assets, checks = ([seen for seen in found if seen.model not in retired] for found in (self._assets(), self._outcomes()))
        return World(assets, checks, policies, self._log_of_all(), self._daemons())  # type: ignore[arg-type]

    def _assets(self) -> Sequence[AssetSeen]:
        records = [record for record in self._instance.get_asset_records() if record.asset_entry.asset_key.path[0] in self._slugs]
        made = [record.asset_entry.last_materialization_record for record in records]
        known = [event for event in made if event is not None and event.asset_materialization is not None]
        seconds = self._durations({event.run_id for event in known})
        return [
            AssetSeen(
                self._slugs[event.asset_key.path[0]],
                event.asset_key.path[-1],
                event.timestamp,
                event.partition_key,
                seconds.get(event.run_id),
                _figures(event.asset_materialization),
            )
            for event in known
            if event.asset_key is not None
        ]

    def _durations(self, run_ids: set[str]) -> Mapping[str, float]:
        self._runs = {run_id: took for run_id, took in self._runs.items() if run_id in run_ids}
        for some in _cut([run_id for run_id in run_ids if run_id and run_id not in self._runs]):
            for record in self._instance.get_run_records(dg.RunsFilter(run_ids=some)):
                if record.start_time is not None and record.end_time is not None:
                    self._runs[record.dagster_run.run_id] = record.end_time - record.start_time
        return self._runs

    def _outcomes(self) -> Sequence[CheckSeen]:
        """A check that is being evaluated still says what it said last, or its alert would end and begin anew."""
        for some in _cut(self._checks):
            for key, record in self._instance.event_log_storage.get_latest_asset_check_execution_by_key(some).items():
                if isinstance(said := record.evaluation, dg.AssetCheckEvaluation):
                    told = said.metadata.get("outcome")
                    outcome = str(told.value) if told is not None else ("pass" if said.passed else "fail")
                    slug, *_, asset = key.asset_key.path
                    self._said[key] = CheckSeen(self._slugs[slug], asset, key.name, outcome, record.create_timestamp)
        return list(self._said.values())

    def _policies(self) -> Sequence[Policy]:
        found = []
        for spec in self._specs:
            try:
                policy = self._platform.policies.read(spec.name)
            except MlopsError as error:
                _log.warning("%s: %s", spec.name, error)
                continue
            if policy.generation:
                found.append(policy)
        return found

    def _log_of_all(self) -> Mapping[str, datetime]:
        since = self._platform.clock() - LOOK_BACK
        for spec in self._specs:
            try:
                newest = self._platform.predictions.newest(spec.name, self._logged.get(spec.name, since))
            except MlopsError as error:
                _log.warning("%s: %s", spec.name, error)
                continue
            if newest is not None:
                self._logged[spec.name] = newest
        return self._logged

    def _daemons(self) -> Mapping[str, float]:
        return {name: beat.timestamp for name, beat in self._instance.get_daemon_heartbeats().items()}


class PlatformCollector(Collector):
    """Shows what was read last. Reading is a thread's, so that a scrape never waits for it.

    Args:
        reader: what to read.
        every: seconds between the ends and beginnings of two looks, at least.
    """

    def __init__(self, reader: Reader, every: float) -> None:
        self._reader, self._every = reader, every
        self._shown: list[Metric] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="read-platform", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def collect(self) -> Iterator[Metric]:
        yield from self._shown

    def look(self) -> float:
        """Read once; returns how many seconds that took."""
        began, read_at = time.monotonic(), time.time()
        shown = list(families(self._reader.read()))
        took = time.monotonic() - began
        self._shown = [
            *shown,
            GaugeMetricFamily("mlops_exporter_read_timestamp_seconds", "When this was read", read_at),
            GaugeMetricFamily("mlops_exporter_read_seconds", "How long that took", took),
        ]
        return took

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            try:
                wait = max(self._every, self.look() * (1 / SHARE - 1))
            except Exception:  # whatever it is must not end the watch; how old the figures are is a figure
                _log.exception("the platform could not be read, trying again in %g s", self._every)
                wait = self._every


def _check_keys(specs: Sequence[ModelSpec]) -> Iterator[dg.AssetCheckKey]:
    """The checks of all models. Those with the same datasets have the same, so that a thousand definitions need not be made."""
    known: dict[tuple[str, ...], list[tuple[Sequence[str], str]]] = {}
    for spec in specs:
        shape = tuple(spec.data.datasets)
        if shape not in known:
            made = model_definitions(spec)
            checked = [asset for asset in (*(made.assets or ()), *(made.asset_checks or ())) if isinstance(asset, dg.AssetsDefinition)]
            hourly = [([report.noun], check) for report in REPORTS for check in report.checks]
            known[shape] = [*((key.asset_key.path[1:], key.name) for asset in checked for key in asset.check_keys), *hourly]
        yield from (dg.AssetCheckKey(dg.AssetKey([spec.slug, *path]), name) for path, name in known[shape])


def _figures(made: dg.AssetMaterialization | None) -> Mapping[str, float]:
    values = {name: value.value for name, value in made.metadata.items()} if made else {}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _cut(items: Sequence) -> Iterator[Sequence]:  # type: ignore[type-arg]
    return (items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE))
