"""What a person does in the Dagster UI, through the same GraphQL calls: materialize assets, with a config from the launchpad."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.settings import HOST, Settings


def materialize(
    settings: Settings, assets: Sequence[Sequence[str]], config: Mapping[str, Any] | None = None, partition: str | None = None
) -> str:
    """Launch one run of these assets; returns its id."""
    import dagster as dg
    from dagster_graphql import DagsterGraphQLClient

    client = DagsterGraphQLClient(HOST, port_number=settings.dagster_port)
    tags = {"dagster/partition": partition} if partition else {}
    keys = [dg.AssetKey(list(asset)) for asset in assets]
    return client.submit_job_execution("__ASSET_JOB", run_config=dict(config or {}), tags=tags, asset_selection=keys)
