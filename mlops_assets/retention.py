"""Find what is past its time, and delete it. What is told first is what is deleted after: a dry run is the same look."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from mlops_assets.adapters import hours, prediction_log
from mlops_assets.changes import change
from mlops_assets.core.errors import BadData, MlopsError, NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy, needed
from mlops_assets.core.policy_changes import forget
from mlops_assets.core.retention import Item, evidence_needed, log_needed_since, past, past_releases
from mlops_assets.objectives import history_key
from mlops_assets.ports import ObjectInfo, Platform
from mlops_assets.rollout import GATE_EVIDENCE_TAG

FILES_TAG = "files"
"""The tag of a release that tells that its files are kept no longer."""

AUTHOR = Author("retention", "past retention.releases")


@dataclass(frozen=True)
class Count:
    """Of one kind how many objects, and how many bytes together."""

    kind: str
    objects: int
    size: int


@dataclass(frozen=True)
class Past:
    """What of one model is past its time: objects by kind, and the releases that are forgotten with theirs."""

    model: str
    items: dict[str, tuple[Item, ...]]
    releases: tuple[str, ...]

    def counts(self) -> tuple[Count, ...]:
        return tuple(Count(kind, len(items), sum(item.size for item in items)) for kind, items in self.items.items())


def look(platform: Platform, spec: ModelSpec) -> Past:
    """What of a model is past its time now. Nothing is changed.

    Raises:
        MlopsError: if the policy, the registry or the object store cannot be read: then nothing is known to be spare.
    """
    policy, now, kept = platform.policies.read(spec.name), platform.clock(), spec.retention
    releases = past_releases(policy, kept.releases, now)
    found = {
        "predictions": _log(platform, policy, now - kept.predictions),
        "evidence": _evidence(platform, policy, now - kept.evidence),
        "releases": _files(platform, policy, releases, now - kept.releases),
        **_monitored(platform, spec),
    }
    return Past(spec.name, found, releases)


def delete(platform: Platform, spec: ModelSpec, found: Past) -> None:
    """Delete what was found. Any part may be done again: what a killed run has left, the next look finds.

    Raises:
        IllegalChange: if a release is needed by now that was not when we looked; nothing is deleted then.
    """
    if found.releases:  # first of all: from now on no rollback goes there
        change(platform, spec.name, lambda policy: forget(policy, found.releases, AUTHOR, platform.clock()))
    for items in found.items.values():
        for item in items:
            platform.objects.delete(item.key)
    for release in found.releases:
        with suppress(NotFound):
            platform.registry.annotate(spec.name, release, {FILES_TAG: f"deleted {platform.clock():%Y-%m-%d}, past retention.releases"})


def apply(platform: Platform, specs: Sequence[ModelSpec]) -> tuple[list[Past], dict[str, str]]:
    """Delete what is past its time of all models; returns that, and what went wrong by model, which stays with it."""
    done, wrong = [], {}
    for spec in specs:
        try:
            found = look(platform, spec)
            delete(platform, spec, found)
            done.append(found)
        except MlopsError as error:
            wrong[spec.name] = str(error)
    return done, wrong


def _log(platform: Platform, policy: Policy, before: datetime) -> tuple[Item, ...]:
    position = hours.read_progress(platform.objects, policy.model).position
    since = log_needed_since(policy, prediction_log.read_up_to(position), before)
    return past(_named(platform.objects.list(prediction_log.prefix(policy.model))), since)


def _named(listed: Sequence[ObjectInfo]) -> Iterator[Item]:
    """Files of the log by the time in their names; what has none is not ours to delete."""
    for info in listed:
        with suppress(BadData):
            yield Item(info.key, prediction_log.shipped_at(info.key), info.size)


def _monitored(platform: Platform, spec: ModelSpec) -> dict[str, tuple[Item, ...]]:
    """The hours that lie so far back from the newest one with an answer, in event time: a replayed year is as old as it says.

    What the hourly run has still to count, or to hold against labels, stays.
    """
    progress = hours.read_progress(platform.objects, spec.name)
    if progress.newest is None:
        return {}
    ahead = {*progress.unprofiled, *progress.unjoined}
    items: dict[str, list[Item]] = {"monitoring": [], "reports": []}
    for noun, hour, info in hours.every(platform.objects, spec.name):
        if hour not in ahead:
            items["reports" if noun == "reports" else "monitoring"].append(Item(info.key, hour, info.size))
    ages = {"monitoring": spec.retention.monitoring, "reports": spec.retention.reports}
    return {kind: past(items[kind], progress.newest - age) for kind, age in ages.items()}


def _evidence(platform: Platform, policy: Policy, before: datetime) -> tuple[Item, ...]:
    root, now = f"evidence/{policy.model}/", platform.clock()
    releases = needed(policy, now)
    listed = platform.objects.list(root)
    aged = past([Item(info.key, info.modified, info.size) for info in listed], before)
    if not aged:
        return ()
    gates = [platform.registry.release(policy.model, release).tags.get(GATE_EVIDENCE_TAG, "") for release in sorted(releases)]
    keys = {*evidence_needed(policy, now), *(gate.removeprefix("s3://") for gate in gates), history_key(policy.model)}
    # A holdout counts its looks without a gap, and is asked again as long as it stands.
    return past(aged, before, keys, [f"{root}holdouts/", *(f"{root}{release}/" for release in releases)])


def _files(platform: Platform, policy: Policy, releases: Sequence[str], before: datetime) -> tuple[Item, ...]:
    """Of the releases that go, and those that an earlier run forgot and did not come to delete; exports that were never registered, too."""
    root, exports = f"models/{policy.model}/", f"tables/{policy.model}/exports/"
    kept = [release for release in policy.digests if release not in releases]
    listed = [*platform.objects.list(root), *platform.objects.list(exports)]
    items = [Item(info.key, info.modified, info.size) for info in listed]
    digests = [f"{exports}{policy.digests[release]}.onnx" for release in kept]
    # One that is being registered has its file before its policy knows it: that file is young.
    return past(items, before, digests, [f"{root}{release}/" for release in kept])
