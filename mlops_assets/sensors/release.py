"""Take a release through its stages: one move a look."""

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.changes import change
from mlops_assets.core import policy_changes
from mlops_assets.core.canary import Move
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy, newest_ahead, next_waiting, release_number
from mlops_assets.ports import Platform
from mlops_assets.rollout import decide_now, keep_hold
from mlops_assets.sensors.tick import Tick, ask_for_run, is_given_up, runs_of, without_figures


def look_at_release(tick: Tick, spec: ModelSpec) -> None:
    """One move of the model's releases: the canary's first, else the next in line, else what is newly registered."""
    if (spec.name, "release") in tick.busy:
        return
    policy = tick.platform.policies.read(spec.name)
    if policy.retired_at is not None:
        return
    policy = refuse_overtaken(tick.platform, policy)
    if policy.challenger is not None:
        _move_challenger(tick, spec, policy)
    elif (waiting := next_waiting(policy)) is not None:
        reason = "passed its smoke test, and no other release is in canary"
        _request_action(tick, spec, policy, "canary", waiting, f"{waiting} {reason}", ("canary",))
    registered = [c.release for c in policy.candidates if c.state in ("registered", "staging")]
    if registered and not tick.requests:
        _evaluate(tick, spec, max(registered, key=release_number))


def refuse_overtaken(platform: Platform, policy: Policy) -> Policy:
    """Candidates older than the champion or the challenger go no further."""
    newest = newest_ahead(policy)
    author = Author("release sensor", f"overtaken by v{newest}")
    for candidate in policy.candidates:
        if release_number(candidate.release) < newest:
            policy = change(platform, policy.model, lambda p, r=candidate.release: policy_changes.refuse(p, r, author, platform.clock()))  # type: ignore[misc]
    return policy


def _move_challenger(tick: Tick, spec: ModelSpec, policy: Policy) -> None:
    assert policy.challenger is not None
    decision, seen = decide_now(tick.platform, spec, policy)
    release, reason = policy.challenger.release, decision.reason
    if decision.move is Move.ADVANCE:
        _request_action(tick, spec, policy, "canary", release, reason, ("canary",))
    elif decision.move is Move.PROMOTE:
        _request_action(tick, spec, policy, "promotion", release, reason, ("promotion", "production"))
    elif decision.move is Move.ABORT:
        _request_action(tick, spec, policy, "rollback", release, reason, ("rollback", "production"))
    elif tick.state.get("held") != _held(policy, reason):
        tick.state = {"held": _held(policy, reason)}
        keep_hold(tick.platform, spec, policy, seen, decision)
        # Dagster shows an observation's metadata among the materialization's: another name, or it would hide why it advanced.
        metadata = {"last_hold": f"{policy.challenger.step_name}: {reason}"}
        tick.events.append(dg.AssetObservation(keys.key(spec, "canary"), partition=release, metadata=metadata))


def _held(policy: Policy, reason: str) -> str:
    """What a hold is about, so that it is observed once."""
    return f"{policy.generation} {without_figures(reason)}"


def _request_action(tick: Tick, spec: ModelSpec, policy: Policy, noun: str, release: str, reason: str, nouns: tuple[str, ...]) -> None:
    intent = f"{spec.name}/{release}/{noun}/{policy.generation}"
    config = {"who": "release sensor", "reason": reason, "expected_generation": policy.generation}
    op = f"{spec.slug}__{noun}"
    ask_for_run(tick, spec, intent, nouns, "release", {"ops": {op: {"config": config}}}, release, for_ever=True)


def _evaluate(tick: Tick, spec: ModelSpec, release: str) -> None:
    """Ask for its evaluation and staging, or refuse a release that was tried often enough."""
    intent = f"{spec.name}/{release}/evaluate"
    past = runs_of(tick.instance, intent)
    if is_given_up(past):
        author = Author("release sensor", f"its evaluation and staging came to nothing in {len(past)} runs: look at their logs")
        change(tick.platform, spec.name, lambda p: policy_changes.refuse(p, release, author, tick.platform.clock()))
    else:
        ask_for_run(tick, spec, intent, ("evaluation", "staging"), "release", {}, release)
