"""How long what a model leaves behind is kept, and what of it may go."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from mlops_assets.core.policy import Policy, needed
from mlops_assets.core.spec_checks import require


@dataclass(frozen=True)
class Retention:
    """Of what a model leaves behind, how long each kind is kept.

    Args:
        predictions: the prediction log as it was shipped, once its answers are counted by hour. ``mlops explain`` looks no further back.
        monitoring: the answers by hour, their profiles, labels and verdicts; in event time, back from the newest answer.
        reports: the HTML pages beside drift reports, likewise.
        evidence: what decisions were made of, and what ``mlops replay`` decides them again from.
        releases: the files of an archived release, from its last change on. After it no rollback goes there.
    """

    predictions: timedelta = timedelta(days=90)
    monitoring: timedelta = timedelta(days=400)
    reports: timedelta = timedelta(days=60)
    evidence: timedelta = timedelta(days=3 * 365)
    releases: timedelta = timedelta(days=365)

    def __post_init__(self) -> None:
        for item in fields(self):
            kept = getattr(self, item.name)
            require(kept >= timedelta(days=1), f"retention.{item.name}: got {kept}, expected a day at least, e.g. '90d'")


@dataclass(frozen=True)
class Item:
    """Something that is stored: its key, the time by which it is as old as it is, and its bytes."""

    key: str
    at: datetime
    size: int


def past(items: Iterable[Item], before: datetime, needed_keys: Iterable[str] = (), needed_prefixes: Sequence[str] = ()) -> tuple[Item, ...]:
    """Those of a time before ``before`` that nothing needs, in their order."""
    keys = frozenset(needed_keys)
    return tuple(item for item in items if item.at < before and item.key not in keys and not item.key.startswith(tuple(needed_prefixes)))


def past_releases(policy: Policy, kept: timedelta, now: datetime) -> tuple[str, ...]:
    """The releases that nothing needs and that no change has been about for ``kept``, in the order in which they were registered."""
    last = {release: change.at for change in policy.log for release in (change.release, change.left) if release}
    spare = [release for release in policy.digests if release not in needed(policy, now)]
    return tuple(release for release in spare if release in last and last[release] < now - kept)


def evidence_needed(policy: Policy, now: datetime) -> frozenset[str]:
    """The evidence by which the releases that are needed got where they are."""
    releases = needed(policy, now)
    return frozenset(change.author.evidence for change in policy.log if change.author.evidence and change.release in releases)


def log_needed_since(policy: Policy, counted_to: datetime | None, before: datetime) -> datetime:
    """From when on the prediction log is kept: at most from ``before``, and all that a canary or the hourly run has still to read.

    Args:
        counted_to: up to where the log has been counted by hour; None if it never was.
        before: what is older is past its time.

    A retired model's is counted by nobody any more, and waits for nobody.
    """
    since = [before]
    if policy.challenger is not None:
        since.append(policy.challenger.entered_at)
    if policy.retired_at is None:
        since.append(counted_to or datetime.min.replace(tzinfo=before.tzinfo))
    return min(since)
