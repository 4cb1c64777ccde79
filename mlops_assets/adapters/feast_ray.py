"""Feast's Ray store, as known at the time: the join of :mod:`feast_offline` on as many machines as a Ray cluster has.

An event's answer depends on the event and the rows of the views, on no other event. So the events are cut by time, and each slice is a
task that runs the one query there is over what its events can see. Whatever else Feast asks for is left to its Ray store.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.repo_config import RepoConfig
from pydantic import PositiveInt

from mlops_assets.adapters.duckdb_join import join_slice
from mlops_assets.adapters.feast_offline import AsKnown, AsKnownRetrievalJob
from mlops_assets.core.errors import MlopsError, Unavailable

# Ray reads them while it is imported. The first makes a Ray that is started here listen on loopback alone, on Linux too; asked for
# 127.0.0.1, as Feast does, it takes the machine's outer address. It changes nothing for a cluster that is there already.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from feast.infra.offline_stores.contrib.ray_offline_store.ray import RayOfflineStore, RayOfflineStoreConfig
from feast.infra.ray_initializer import ensure_ray_initialized
from ray.exceptions import RayError, RayTaskError


class AsKnownRayOfflineStoreConfig(RayOfflineStoreConfig):
    """What ``offline_store`` in ``feature_store.yaml`` may say beside what Feast's Ray store may.

    Of the latter ``ray_address`` names the cluster (else RAY_ADDRESS in the environment; else a Ray is started on this machine),
    ``ray_conf`` goes to ``ray.init``, and ``worker_task_options`` to every task.

    Args:
        memory_limit: what DuckDB may hold in one task, as it writes sizes.
        temp_directory: where a task puts what does not fit; by default where its machine has its temporary files.
        threads: of one task. Ray takes a task for one core, unless ``worker_task_options`` has another ``num_cpus``.
        events_per_task: into slices of how many events a question is cut.
    """

    type: str = "mlops_assets.adapters.feast_ray.AsKnownRayOfflineStore"  # type: ignore[assignment]  # as Feast finds what it does not ship
    memory_limit: str = "1GB"
    temp_directory: str | None = None
    threads: PositiveInt = 1
    events_per_task: PositiveInt = 100_000


class SlicedRetrievalJob(AsKnownRetrievalJob):
    """A join that is still to be run, on Ray."""

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        settings = self._config.offline_store
        with self._connection() as opened:
            events = opened.sql(f"SELECT * FROM {self._events}").to_arrow_table()  # noqa: S608 : a name of ours, or the caller's query
        order = pc.sort_indices(events, [(self._asked_at, "ascending")])
        slices = [order[start : start + settings.events_per_task] for start in range(0, max(len(order), 1), settings.events_per_task)]
        with _ray_errors(settings):
            _connect(self._config)
            task = ray.remote(join_slice).options(**(settings.worker_task_options or {}))
            asked = [task.remote(events.take(places), self._asked_at, self._views, self._limits) for places in slices]
            answers = ray.get(asked, timeout=timeout)
        return pa.concat_tables(answers).take(pc.sort_indices(order))

    def _write(self, path: Path) -> None:
        pq.write_table(self._to_arrow_internal(), path)


class AsKnownRayOfflineStore(AsKnown, RayOfflineStore):  # type: ignore[misc]  # as in feast_offline
    """The offline store of a cluster. The events, of a query too, and their values must fit into the memory of this machine."""

    job = SlicedRetrievalJob


def _connect(config: RepoConfig) -> None:
    """Have Feast join the cluster, or start a Ray here, unless this process has one already."""
    if ray.is_initialized():
        return
    host, _, port = _address(config.offline_store).removeprefix("ray://").rpartition(":")
    if host:  # Ray itself would try for minutes.
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    ensure_ray_initialized(config, force_reinit=True)


def _address(settings: Any) -> str:
    return settings.ray_address or os.environ.get("RAY_ADDRESS") or "this machine"


@contextmanager
def _ray_errors(settings: Any) -> Iterator[None]:
    """What a task raised on purpose as it is; of Ray itself, that it is unavailable."""
    try:
        yield
    except (RayError, OSError, RuntimeError, ValueError) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, MlopsError):
            raise cause from error
        mend = "see that it is up and has memory, or correct ray_address and ray_conf in feature_store.yaml, and try again"
        raise Unavailable(f"Ray at {_address(settings)!r} could not join the features: {error}; {mend}") from error
