"""The names of a model's assets, groups and partitions: the one place that spells them."""

import dagster as dg

from mlops_assets.core.model_spec import ModelSpec


def key(spec: ModelSpec, noun: str) -> dg.AssetKey:
    return dg.AssetKey([spec.slug, noun])


def group(spec: ModelSpec, stage: str) -> str:
    return f"{spec.slug}_{stage}"


def releases(spec: ModelSpec) -> dg.DynamicPartitionsDefinition:
    """The release axis of a model: one partition a version."""
    return dg.DynamicPartitionsDefinition(name=releases_name(spec))


def releases_name(spec: ModelSpec) -> str:
    return f"{spec.slug}_releases"


def days(spec: ModelSpec) -> dg.DailyPartitionsDefinition:
    """The event days of a model's data, in UTC."""
    return dg.DailyPartitionsDefinition(spec.data.start.isoformat(), end_date=spec.data.end.isoformat() if spec.data.end else None)
