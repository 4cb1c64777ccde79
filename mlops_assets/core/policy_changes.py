"""The legal changes of a policy, and no other.

Each takes a policy, returns the next generation, and refuses with :class:`IllegalChange` whatever the present state does not allow. A
store writes the result by compare-and-swap.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlops_assets.core.errors import IllegalChange
from mlops_assets.core.policy import (
    PROMOTED,
    Action,
    Author,
    Candidate,
    CandidateState,
    Challenger,
    Change,
    Mirror,
    Policy,
    describe,
    needed,
    newest_ahead,
    release_number,
)

if TYPE_CHECKING:
    from mlops_assets.core.canary_spec import Step


def register(policy: Policy, release: str, digest: str, author: Author, now: datetime) -> Policy:
    """A new release exists. Registering it again changes nothing."""
    if policy.digests.get(release) == digest:
        return policy
    _require(
        release not in policy.digests,
        f"{release} of {policy.model} is registered with digest {policy.digests.get(release)}, got {digest}: register a new version",
    )
    candidates = (*policy.candidates, Candidate(release, "registered", now))
    changed = replace(policy, candidates=candidates, digests={**policy.digests, release: digest})
    return _log(changed, "register", release, author, now)


def stage(policy: Policy, release: str, author: Author, now: datetime) -> Policy:
    """The release passed its evaluation: it is to run, without traffic."""
    return _move(policy, release, "stage", "staging", ("registered",), author, now)


def accept(policy: Policy, release: str, author: Author, now: datetime) -> Policy:
    """The release passed its smoke test: it waits for its canary."""
    return _move(policy, release, "accept", "waiting", ("staging",), author, now)


def refuse(policy: Policy, release: str, author: Author, now: datetime) -> Policy:
    """The release did not pass, or a newer one overtook it: it goes no further."""
    if policy.candidate(release) is None and policy.last(release, "refuse"):
        return policy
    _require(policy.candidate(release) is not None, f"{release} of {policy.model} is not a candidate: {describe(policy)}")
    return _log(_without_candidates(policy, {release}), "refuse", release, author, now)


def begin(policy: Policy, release: str, step: Step, author: Author, now: datetime) -> Policy:
    """A waiting release enters its canary at step 0. Older waiting releases are overtaken."""
    _require_in_use(policy)
    candidate = policy.candidate(release)
    _require(policy.challenger is None, f"{policy.model} has a release in canary already: {describe(policy)}. Abort it first")
    _require(
        candidate is not None and candidate.state == "waiting",
        f"{release} of {policy.model} does not wait for a canary: {describe(policy)}",
    )
    for overtaken in [c.release for c in policy.candidates if c.state == "waiting" and release_number(c.release) < release_number(release)]:
        policy = refuse(policy, overtaken, replace(author, why=f"overtaken by {release}"), now)
    attempt = 1 + sum(1 for change in policy.log if change.release == release and change.action == "begin")
    challenger = Challenger(release, attempt, 0, step.name, now)
    changed = _with_step(replace(_without_candidates(policy, {release}), challenger=challenger), step)
    return _log(changed, "begin", release, author, now, attempt=attempt, step=0, step_name=step.name)


def advance(policy: Policy, index: int, step: Step, author: Author, now: datetime) -> Policy:
    """The challenger enters step ``index`` of its plan, the one after its present step."""
    challenger = _challenger(policy)
    _require(
        index == challenger.step + 1,
        f"{challenger.release} is at step {challenger.step} ({challenger.step_name}), the next is {challenger.step + 1}, got {index}",
    )
    _require(not challenger.paused, f"{challenger.release} is paused: 'mlops resume {policy.model}' first")
    entered = replace(challenger, step=index, step_name=step.name, entered_at=now)
    changed = _with_step(replace(policy, challenger=entered), step)
    return _log(changed, "advance", challenger.release, author, now, challenger.attempt, index, step.name)


def abort(policy: Policy, author: Author, now: datetime) -> Policy:
    """The challenger leaves its canary; all traffic is the champion's again."""
    challenger = _challenger(policy)
    changed = _all_to_champion(replace(policy, challenger=None, mirror=None))
    return _log(
        changed,
        "abort",
        challenger.release,
        author,
        now,
        challenger.attempt,
        challenger.step,
        challenger.step_name,
        left=challenger.release,
    )


def restart(policy: Policy, release: str, author: Author, now: datetime) -> Policy:
    """An aborted release waits for its canary again; that will be its next attempt. One that waits already is left as it is."""
    candidate = policy.candidate(release)
    if candidate is not None and candidate.state == "waiting":
        return policy
    _require_in_use(policy)
    last = policy.last(release)
    _require(
        last is not None and last.action == "abort",
        f"{release} of {policy.model} was not aborted, got {last.action if last else 'no such release'}: only an aborted canary is "
        f"begun again ({describe(policy)})",
    )
    ahead = newest_ahead(policy)
    _require(release_number(release) > ahead, f"{release} of {policy.model} was overtaken by v{ahead}: train a new release")
    candidates = (*policy.candidates, Candidate(release, "waiting", now))
    return _log(replace(policy, candidates=candidates), "restart", release, author, now)


def promote(policy: Policy, author: Author, now: datetime, warm_for: timedelta) -> Policy:
    """The challenger becomes champion with all traffic; the one before stays warm for ``warm_for``."""
    challenger = _challenger(policy)
    warm = {release: until for release, until in policy.warm.items() if until > now}
    if policy.champion is not None:
        warm[policy.champion] = now + warm_for
    warm.pop(challenger.release, None)
    changed = _all_to_champion(
        replace(policy, champions=(*policy.champions, challenger.release)[-10:], challenger=None, mirror=None, warm=warm)
    )
    return _log(changed, "promote", challenger.release, author, now, challenger.attempt, left=policy.champion)


def rollback(policy: Policy, author: Author, now: datetime, to: str | None = None) -> Policy:
    """The champion leaves production for ``to``, by default the champion before it. A canary under way is aborted first."""
    _require_in_use(policy)
    leaving = policy.champion
    if leaving is None:
        raise IllegalChange(f"{policy.model} has no release in production, so there is none to roll back: {describe(policy)}")
    target = to or policy.previous
    if target is None:
        raise IllegalChange(
            f"{leaving} is the first release of {policy.model}, there is no previous one to go back to. What can be done: "
            f"train and promote another, or stop the traffic in front of the gateway"
        )
    way_out = f"'mlops abort {policy.model}' ends the canary there is" if policy.challenger else "name another release with --to"
    _require(target != leaving, f"{target} of {policy.model} is in production already: {way_out}")
    was_champion = [change.release for change in policy.log if change.action == "promote"]
    kept_ones = ", ".join(release for release in dict.fromkeys(was_champion) if release in policy.digests)
    _require(
        target in was_champion,
        f"{target} of {policy.model} was never in production, got --to {target}, expected one of {kept_ones}: "
        "a release gets there first by its canary",
    )
    _require(target in policy.digests, f"{target} of {policy.model} is kept no longer (retention.releases), expected one of {kept_ones}")
    if policy.challenger is not None:
        policy = abort(policy, replace(author, why=f"{leaving} is rolled back: {author.why}", evidence=None), now)
    kept = policy.champions[: policy.champions.index(target)] if target in policy.champions else policy.champions[:-1]
    warm = {release: until for release, until in policy.warm.items() if release != target and until > now}
    changed = _all_to_champion(replace(policy, champions=(*kept, target), warm=warm))
    return _log(changed, "rollback", target, author, now, left=leaving)


def pause(policy: Policy, author: Author, now: datetime) -> Policy:
    """The canary stays where it is until a person resumes it. Its guardrails still abort it."""
    challenger = _challenger(policy)
    if challenger.paused:
        return policy
    changed = replace(policy, challenger=replace(challenger, paused=True))
    return _log(changed, "pause", challenger.release, author, now, challenger.attempt, challenger.step, challenger.step_name)


def resume(policy: Policy, author: Author, now: datetime) -> Policy:
    """A paused canary goes on and bakes anew; one that is not paused has a person's approval of its present step.

    A canary that was paused while it waited for approval still waits for it afterwards: an approval is of figures that one has seen.
    """
    challenger = _challenger(policy)
    if challenger.paused:
        going = replace(challenger, paused=False, entered_at=now)
    elif challenger.resumed_step == challenger.step:
        return policy
    else:
        going = replace(challenger, resumed_step=challenger.step)
    changed = replace(policy, challenger=going)
    return _log(changed, "resume", challenger.release, author, now, challenger.attempt, challenger.step, challenger.step_name)


def retire(policy: Policy, author: Author, now: datetime) -> Policy:
    """Take the whole model out of use: no traffic, nothing that runs, until it is reinstated. A canary under way is aborted first.

    Candidates wait where they are. Retiring a retired model changes nothing.
    """
    _require(policy.generation > 0, f"{policy.model} has no release yet, so there is nothing to retire: remove its defs.yaml")
    if policy.retired_at is not None:
        return policy
    if policy.challenger is not None:
        policy = abort(policy, replace(author, why=f"{policy.model} is retired: {author.why}", evidence=None), now)
    leaving = policy.champion
    changed = replace(policy, weights={}, mirror=None, warm={}, retired_at=now)
    return _log(changed, "retire", leaving or "", author, now, left=leaving)


def reinstate(policy: Policy, author: Author, now: datetime) -> Policy:
    """Bring a retired model back: all traffic is its last champion's. One that is in use is left as it is."""
    _require(policy.generation > 0, f"{policy.model} has no release yet: train one first")
    if policy.retired_at is None:
        return policy
    changed = _all_to_champion(replace(policy, retired_at=None))
    return _log(changed, "reinstate", changed.champion or "", author, now)


def restore(policy: Policy, seen: int, author: Author, now: datetime) -> Policy:
    """A policy from a backup is in force again.

    Args:
        seen: the newest generation that anybody may have followed meanwhile. The next one is newer, or it would be ignored.
    """
    newest = replace(policy, generation=max(policy.generation, seen))
    return _log(newest, "restore", policy.champion or "", author, now)


def forget(policy: Policy, releases: Collection[str], author: Author, now: datetime) -> Policy:
    """These releases are kept no longer: nothing can bring one back. Those that are forgotten already change nothing.

    Raises:
        IllegalChange: if one of them is needed (see :func:`needed`).
    """
    lost = sorted(set(releases) & needed(policy, now), key=release_number)
    _require(not lost, f"{', '.join(lost)} of {policy.model} cannot be forgotten: {describe(policy)}")
    for release in sorted(set(releases) & policy.digests.keys(), key=release_number):
        champions = tuple(each for each in policy.champions if each != release)
        digests = {each: digest for each, digest in policy.digests.items() if each != release}
        warm = {each: until for each, until in policy.warm.items() if each != release}
        policy = _log(replace(policy, champions=champions, digests=digests, warm=warm), "forget", release, author, now)
    return policy


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise IllegalChange(message)


def _require_in_use(policy: Policy) -> None:
    _require(policy.retired_at is None, f"{policy.model} is retired: 'mlops reinstate {policy.model} --reason ...' brings it back")


def _challenger(policy: Policy) -> Challenger:
    if policy.challenger is None:
        raise IllegalChange(f"{policy.model} has no release in canary: {describe(policy)}")
    return policy.challenger


def _move(
    policy: Policy, release: str, action: Action, to: CandidateState, allowed: tuple[CandidateState, ...], author: Author, now: datetime
) -> Policy:
    candidate = policy.candidate(release)
    if candidate is not None and candidate.state == to:
        return policy
    _require_in_use(policy)
    if candidate is None or candidate.state not in allowed:
        raise IllegalChange(
            f"{release} of {policy.model} cannot be {to}: expected it to be {' or '.join(allowed)}, got: {describe(policy)}"
        )
    moved = tuple(Candidate(release, to, now) if c.release == release else c for c in policy.candidates)
    return _log(replace(policy, candidates=moved), action, release, author, now)


def _without_candidates(policy: Policy, releases: set[str]) -> Policy:
    return replace(policy, candidates=tuple(c for c in policy.candidates if c.release not in releases))


def _all_to_champion(policy: Policy) -> Policy:
    return replace(policy, weights={policy.champion: 100} if policy.champion else {})


def _with_step(policy: Policy, step: Step) -> Policy:
    challenger = _challenger(policy)
    if policy.champion is None:
        return replace(policy, weights={challenger.release: 100}, mirror=None)
    if step.mirror:
        return replace(_all_to_champion(policy), mirror=Mirror(challenger.release, step.mirror))
    return replace(policy, weights={policy.champion: 100 - step.weight, challenger.release: step.weight}, mirror=None)


def _log(
    policy: Policy,
    action: Action,
    release: str,
    author: Author,
    now: datetime,
    attempt: int = 0,
    step: int = PROMOTED,
    step_name: str = "",
    left: str | None = None,
) -> Policy:
    weight = policy.weights.get(release, 0) if action != "abort" else 0
    mirror = policy.mirror.percent if policy.mirror and policy.mirror.release == release else 0
    change = Change(policy.generation + 1, now, action, release, author, attempt, step, step_name, left, weight, mirror)
    return replace(policy, generation=change.generation, log=(*policy.log, change))
