"""Changes of the policy as Dagster's records, each exactly once, whoever made the change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import dagster as dg

from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Change, Policy

NOUNS = {"begin": "canary", "advance": "canary", "abort": "rollback", "promote": "promotion", "rollback": "rollback"}
"""The release asset that each change materializes; other changes are not materializations."""

OF_PRODUCTION = ("promote", "rollback", "retire", "reinstate")
"""The changes by which another release is live than before, or none."""

_LINK = re.compile(r"https?://\S+")
"""What a reason names by its address, such as the alert that led to a rollback."""

_PAGE = 1000


@dataclass(frozen=True)
class Record:
    """One materialization that a change stands for."""

    noun: str
    partition: str | None
    change: Change


def records_of(change: Change) -> Iterator[Record]:
    """What Dagster must show of a change. ``rollback`` has the partition of the release that leaves."""
    noun = NOUNS.get(change.action)
    if noun is not None:
        yield Record(noun, change.left if noun == "rollback" else change.release, change)
    if change.action in OF_PRODUCTION:
        yield Record("production", None, change)


def metadata_of(policy: Policy, change: Change) -> dict[str, dg.MetadataValue | str | int | float]:
    """The facts of a change: what, who, why, when, and the whole way of its release so far."""
    release = change.left if change.action in ("abort", "rollback") and change.left else change.release
    shown: dict[str, dg.MetadataValue | str | int | float] = {
        "action": change.action,
        "release": change.release,
        "generation": change.generation,
        "attempt": change.attempt,
        "step": change.step_name or change.action,
        "who": change.author.who,
        "reason": change.author.why,
        "occurred_at": dg.MetadataValue.timestamp(change.at),
        "trajectory": trajectory(policy, release),
    }
    if change.left:
        shown["left"] = change.left
    if found := _LINK.search(change.author.why):
        shown["link"] = dg.MetadataValue.url(found[0])
    if change.author.evidence:
        shown["evidence"] = dg.MetadataValue.path(f"s3://{change.author.evidence}")
    return shown


def trajectory(policy: Policy, release: str) -> dg.TableMetadataValue:
    """Every change of one release, oldest first."""
    changes = [change for change in policy.log if release in (change.release, change.left)]
    records = [
        dg.TableRecord(
            {
                "generation": change.generation,
                "at": f"{change.at:%Y-%m-%d %H:%M:%S}",
                "action": change.action,
                "step": change.step_name,
                "who": change.author.who,
                "why": change.author.why,
            }
        )
        for change in changes
    ]
    columns = [dg.TableColumn("generation", "int"), *(dg.TableColumn(name) for name in ("at", "action", "step", "who", "why"))]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def is_recorded(instance: dg.DagsterInstance, spec: ModelSpec, record: Record) -> bool:
    """Whether Dagster's event log has a materialization of this very change."""
    return record.change.generation in _recorded_generations(instance, spec, record.noun, record.partition)


def _recorded_generations(instance: dg.DagsterInstance, spec: ModelSpec, noun: str, partition: str | None) -> frozenset[object]:
    partitions = [partition] if partition is not None else None
    wanted = dg.AssetRecordsFilter(dg.AssetKey([spec.slug, noun]), asset_partitions=partitions)
    found: set[object] = set()
    page = instance.fetch_materializations(wanted, limit=_PAGE)
    while page.records:
        made = (event.asset_materialization for event in page.records)
        found |= {value.value for one in made if one and (value := one.metadata.get("generation")) is not None}
        if not page.has_more:
            break
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=page.cursor)
    return frozenset(found)


def write_missing(instance: dg.DagsterInstance, spec: ModelSpec, policy: Policy, after: int) -> int:
    """Record the changes after generation ``after`` that no run recorded; returns up to which generation all are recorded.

    A change whose run is still going is left to that run, and what follows it waits.
    """
    # The steps of a canary share their asset and partition: one query for all of them.
    recorded = cache(lambda noun, partition: _recorded_generations(instance, spec, noun, partition))
    done = after
    for change in policy.log:
        if change.generation <= after:
            continue
        if change.author.run_id is not None and not _is_over(instance, change.author.run_id):
            return done
        for record in records_of(change):
            if change.generation not in recorded(record.noun, record.partition):
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(
                        dg.AssetKey([spec.slug, record.noun]), partition=record.partition, metadata=metadata_of(policy, change)
                    )
                )
        done = change.generation
    return done


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished
