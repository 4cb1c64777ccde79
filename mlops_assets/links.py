"""Addresses that a person opens: what an asset recorded in the Dagster UI, a run there, a version in MLflow's."""

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote, urlencode

from mlops_assets.core.policy import release_number


def asset_url(dagster_url: str, path: Sequence[str], partition: str | None = None, at: datetime | None = None) -> str:
    """An asset in the Dagster UI: one of its partitions, or what it recorded at a time.

    >>> asset_url("http://127.0.0.1:4000", ("flight_delay", "release"), partition="v3")
    'http://127.0.0.1:4000/assets/flight_delay/release?view=partitions&partition=v3'
    """
    place = f"{dagster_url}/assets/{'/'.join(quote(part, safe='') for part in path)}"
    if partition is not None:
        return f"{place}?{urlencode({'view': 'partitions', 'partition': partition})}"
    if at is not None:
        return f"{place}?{urlencode({'view': 'events', 'asOf': int(at.timestamp() * 1000)})}"
    return place


def run_url(dagster_url: str, run_id: str) -> str:
    """A run in the Dagster UI."""
    return f"{dagster_url}/runs/{quote(run_id, safe='')}"


def version_url(mlflow_url: str, model: str, release: str) -> str:
    """A release in MLflow's UI.

    >>> version_url("http://127.0.0.1:4002", "flight-delay", "v3")
    'http://127.0.0.1:4002/#/models/flight-delay/versions/3'
    """
    return f"{mlflow_url}/#/models/{quote(model, safe='')}/versions/{release_number(release)}"
