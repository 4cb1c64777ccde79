"""The names of a model's assets, groups and partitions: the one place that spells them."""

from datetime import UTC, datetime

import dagster as dg

from mlops_assets.core.hourly import HOUR
from mlops_assets.core.model_spec import ModelSpec

HOUR_FORMAT = "%Y-%m-%d-%H:%M"
"""How Dagster names hourly partitions."""


def key(spec: ModelSpec, noun: str) -> dg.AssetKey:
    return dg.AssetKey([spec.slug, noun])


def group(spec: ModelSpec, stage: str) -> str:
    return f"{spec.slug}_{stage}"


def releases(spec: ModelSpec) -> dg.DynamicPartitionsDefinition:
    """The release axis of a model: one partition a version."""
    return dg.DynamicPartitionsDefinition(name=releases_name(spec))


def releases_name(spec: ModelSpec) -> str:
    return f"{spec.slug}_releases"


def release_pool(spec: ModelSpec) -> str:
    """Of its runs one at a time makes a step of a canary. A rollback is in no pool: it waits for nobody."""
    return f"{spec.slug}_release"


def training_pool(spec: ModelSpec) -> str:
    """Of its runs one at a time trains."""
    return f"{spec.slug}_training"


def days(spec: ModelSpec) -> dg.DailyPartitionsDefinition:
    """The event days of a model's data, in UTC."""
    return dg.DailyPartitionsDefinition(spec.data.start.isoformat(), end_date=spec.data.end.isoformat() if spec.data.end else None)


def hours(spec: ModelSpec) -> dg.HourlyPartitionsDefinition:
    """The event hours of what a model is asked, in UTC, from the first day of its data on."""
    first, end = spec.data.start, spec.data.end
    return dg.HourlyPartitionsDefinition(f"{first}-00:00", end_date=f"{end}-00:00" if end else None)


def partition(hour: datetime) -> str:
    """The partition of an event hour."""
    return hour.astimezone(UTC).strftime(HOUR_FORMAT)


def hours_between(first: str, last: str) -> tuple[datetime, ...]:
    """The event hours of the partitions from one to another."""
    start, end = (datetime.strptime(name, HOUR_FORMAT).replace(tzinfo=UTC) for name in (first, last))
    return tuple(start + n * HOUR for n in range((end - start) // HOUR + 1))
