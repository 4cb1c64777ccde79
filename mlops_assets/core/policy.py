"""The policy document of a model: what should be live, and the log of how it came to be so.

It is the only state of a release. Gateway routes, deployments, MLflow's aliases and tags and Dagster's records are projections
of it. :mod:`mlops_assets.core.policy_changes` has every legal change of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

CandidateState = Literal["registered", "staging", "waiting"]
_OfRelease = Literal["register", "stage", "accept", "refuse", "promote", "rollback", "forget"]
_OfCanary = Literal["begin", "advance", "abort", "pause", "resume", "restart"]
Action = Literal[_OfRelease, _OfCanary, "retire", "reinstate", "restore"]
PROMOTED = -1
"""The step of a change that is not a step of the canary plan."""


@dataclass(frozen=True)
class Author:
    """Who changes the policy and why; ``run_id`` is the Dagster run that does it, if one does."""

    who: str
    why: str
    run_id: str | None = None
    evidence: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A release on its way to a canary."""

    release: str
    state: CandidateState
    since: datetime


@dataclass(frozen=True)
class Challenger:
    """The one release in canary. ``resumed_step`` is the step that a person last approved."""

    release: str
    attempt: int
    step: int
    step_name: str
    entered_at: datetime
    paused: bool = False
    resumed_step: int | None = None


@dataclass(frozen=True)
class Mirror:
    """A copy of ``percent`` of the requests goes to ``release``; its answers are thrown away."""

    release: str
    percent: int


@dataclass(frozen=True)
class Change:
    """One line of the log: the change that made ``generation``.

    ``weight`` and ``mirror`` are what ``release`` has after it, ``left`` is the release that lost its traffic by it.
    """

    generation: int
    at: datetime
    action: Action
    release: str
    author: Author
    attempt: int = 0
    step: int = PROMOTED
    step_name: str = ""
    left: str | None = None
    weight: int = 0
    mirror: int = 0


@dataclass(frozen=True)
class Policy:
    """What should be live of one model.

    Args:
        champions: those that were champion and were not rolled back, oldest first; the last is the champion.
        weights: percent of the units by release.
        warm: releases that are kept running without traffic, and until when.
        digests: sha256 of each registered release's model, so that a rollback needs no registry.
        retired_at: since when nothing of this model is to be live; ``None`` if it is in use. What was stays written.
    """

    model: str
    generation: int = 0
    champions: tuple[str, ...] = ()
    challenger: Challenger | None = None
    candidates: tuple[Candidate, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    mirror: Mirror | None = None
    warm: Mapping[str, datetime] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    log: tuple[Change, ...] = ()
    retired_at: datetime | None = None

    @property
    def champion(self) -> str | None:
        """The release in production; none of a retired model's."""
        return self.champions[-1] if self.champions and self.retired_at is None else None

    @property
    def previous(self) -> str | None:
        """The one that a rollback goes to; none of a retired model's."""
        return self.champions[-2] if len(self.champions) > 1 and self.retired_at is None else None

    def candidate(self, release: str) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.release == release), None)

    def last(self, release: str, *actions: Action) -> Change | None:
        """The newest change of ``release``, among ``actions`` if any are given."""
        matching = (c for c in reversed(self.log) if c.release == release and (not actions or c.action in actions))
        return next(matching, None)

    def live_releases(self, now: datetime) -> frozenset[str]:
        """The releases that must be running: those with traffic, those being staged, the next in line, and the warm ones."""
        if self.retired_at is not None:
            return frozenset()
        live = {release for release, weight in self.weights.items() if weight > 0}
        if self.mirror:
            live.add(self.mirror.release)
        live |= {release for release, until in self.warm.items() if now < until}
        live |= {candidate.release for candidate in self.candidates if candidate.state == "staging"}
        if (following := next_waiting(self)) is not None:
            live.add(following)
        return frozenset(live)


def release_number(release: str) -> int:
    """The version behind a release's name.

    >>> release_number("v12")
    12
    """
    return int(release.removeprefix("v"))


def next_waiting(policy: Policy) -> str | None:
    """The newest release that waits for its canary; older ones are overtaken when it begins."""
    if policy.retired_at is not None:
        return None
    waiting = [candidate.release for candidate in policy.candidates if candidate.state == "waiting"]
    return max(waiting, key=release_number, default=None)


def newest_ahead(policy: Policy) -> int:
    """The version in production or in canary, whichever is newer; 0 without either. Older releases go no further."""
    ahead = (policy.champion, policy.challenger.release if policy.challenger else None)
    return max((release_number(release) for release in ahead if release), default=0)


def needed(policy: Policy, now: datetime) -> frozenset[str]:
    """The releases that may get traffic without another training: in production or before that, also of a retired model, in canary,
    on their way there, or warm.
    """
    ahead = {policy.challenger.release} if policy.challenger else set()
    warm = {release for release, until in policy.warm.items() if now < until}
    return frozenset({*policy.champions[-2:], *ahead, *(candidate.release for candidate in policy.candidates), *warm})


def describe(policy: Policy) -> str:
    """One line for a person: what is live and what is on its way."""
    if policy.retired_at is not None:
        return f"retired since {policy.retired_at:%Y-%m-%d}, last champion {policy.champions[-1] if policy.champions else 'none'}"
    parts = [f"champion {policy.champion or 'none'}"]
    if challenger := policy.challenger:
        paused = ", paused" if challenger.paused else ""
        parts.append(f"challenger {challenger.release} at {challenger.step_name}{paused}")
    parts += [f"{candidate.release} {candidate.state}" for candidate in policy.candidates]
    return ", ".join(parts)


def stage_of(policy: Policy, release: str) -> str:
    """The release's stage as the registry shows it: ``None``, ``Staging``, ``Production`` or ``Archived``."""
    if release == policy.champion:
        return "Production"
    if policy.challenger and policy.challenger.release == release:
        return "Staging"
    if candidate := policy.candidate(release):
        return "None" if candidate.state == "registered" else "Staging"
    return "Archived"
