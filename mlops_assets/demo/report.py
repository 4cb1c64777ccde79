"""The table at the end of the demo, each line read back from Dagster's event log, MLflow and Envoy's own counters."""

from typing import Any

from rich.console import Console
from rich.table import Table

from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.demo.traffic import Traffic
from mlops_assets.ports import Platform
from mlops_assets.settings import Settings

NOUNS = ("evaluation", "staging", "canary", "promotion", "rollback")


def report(settings: Settings, platform: Platform, spec: ModelSpec, steps: list[Any], traffic: Traffic, console: Console) -> None:
    """Print one line a release, the steps, and where to look further."""
    instance, counted = instance_of(settings), envoy_requests(platform, spec.name)
    table = Table(
        "release", "stage (MLflow)", "got to (Dagster)", "why", "requests (Envoy)", "evidence", title=f"{spec.name}: what happened"
    )
    for release in instance.get_dynamic_partitions(f"{spec.slug}_releases"):
        noun, metadata = furthest(instance, spec, release)
        info = platform.registry.release(spec.name, release)
        requests = str(counted[release]) if release in counted else "no longer running"
        why = str(metadata.get("reason") or info.tags.get("quality_gate", ""))
        table.add_row(release, info.tags.get("stage", ""), noun, why, requests, str(metadata.get("evidence", "")))
    console.print(table)
    told = Table("step", "happened", "seconds", "runs", title="the story")
    for step in steps:
        told.add_row(step.name, "[green]yes[/]" if step.ok else f"[red]no: {step.reason}[/]", f"{step.seconds:.0f}", str(len(step.run_ids)))
    console.print(told)
    console.print(f"answers by release: {traffic.by_release()}, failed: {traffic.failed}")
    console.print(
        f"Dagster  {settings.dagster_url}\nMLflow   {settings.mlflow_url}\nendpoint {settings.gateway_url}/models/{spec.name}/predict"
    )


def instance_of(settings: Settings) -> Any:
    """The stack's Dagster instance."""
    import dagster as dg

    return dg.DagsterInstance.from_config(str(settings.dagster_home))


def latest(instance: Any, spec: ModelSpec, noun: str) -> Any:
    """An asset's newest materialization; None if there is none."""
    import dagster as dg

    event = instance.get_latest_materialization_event(dg.AssetKey([spec.slug, noun]))
    return event.asset_materialization if event is not None else None


def furthest(instance: Any, spec: ModelSpec, release: str) -> tuple[str, dict[str, Any]]:
    """The last of the release stages that has a materialization for this release, and its metadata."""
    import dagster as dg

    for noun in reversed(NOUNS):
        filters = dg.AssetRecordsFilter(dg.AssetKey([spec.slug, noun]), asset_partitions=[release])
        found = instance.fetch_materializations(filters, limit=1).records
        if found and found[0].asset_materialization:
            return noun, {name: value.value for name, value in found[0].asset_materialization.metadata.items()}
    return "registered", {}


def envoy_requests(platform: Platform, model: str) -> dict[str, int]:
    """Requests that the gateways have counted, by release that still has a cluster."""
    totals: dict[str, int] = {}
    for sample in platform.gateway.sample(model):
        for release, counts in sample.traffic.items():
            totals[release] = totals.get(release, 0) + counts.requests
    return totals
