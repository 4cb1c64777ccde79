"""Who had the traffic when, as the log of the policy tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mlops_assets.core.policy import Change, Policy


@dataclass(frozen=True)
class Span:
    """From one change of the traffic to the next: percent of the units by release, and who got copies of the requests.

    ``end`` is None for the present one.
    """

    start: datetime
    end: datetime | None
    change: Change
    weights: Mapping[str, int] = field(default_factory=dict)
    mirror: str | None = None


def spans(policy: Policy) -> tuple[Span, ...]:
    """Every span of a model's traffic, oldest first."""
    found: list[Span] = []
    champion: str | None = None
    for change in policy.log:
        if change.action not in ("begin", "advance", "abort", "promote", "rollback", "retire", "reinstate"):
            continue
        if change.action in ("promote", "rollback"):
            champion = change.release
        weights, mirror = {champion: 100} if champion and change.action != "retire" else {}, None
        if change.action in ("begin", "advance"):
            mirror = change.release if change.mirror else None
            others = {champion: 100 - change.weight} if champion else {}
            weights = weights if mirror else {**others, change.release: change.weight}
        if found:
            found[-1] = Span(found[-1].start, change.at, found[-1].change, found[-1].weights, found[-1].mirror)
        found.append(Span(change.at, None, change, weights, mirror))
    return tuple(found)
