"""The steps of a release as actions on the platform: look, decide, change the policy. Dagster is not needed for any."""

import hashlib
from dataclasses import replace
from datetime import UTC
from typing import Any

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.changes import change_at
from mlops_assets.core import evidence, policy_changes
from mlops_assets.core import policy as policies
from mlops_assets.core.canary import Decision, Move, decide, plan_steps
from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.errors import IllegalChange, NotFound
from mlops_assets.core.evidence import SCORE_BINS, UNIT_SIGNS, Flips, Labelled, Logged, Observation
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.replay import evidence_of
from mlops_assets.core.verdict import Outcome
from mlops_assets.ports import Platform
from mlops_assets.reconcile import converge_traffic, reconcile

GATE_TAG, GATE_EVIDENCE_TAG = "quality_gate", "gate_evidence"
"""The tags of a registered version under which its evaluation leaves the gate's outcome, and where its evidence lies."""

LOG_COLUMNS = ["request_id", "release", "role", "unit", "score", "decision"]
"""What a canary reads of the prediction log."""


def plan_of(platform: Platform, spec: ModelSpec) -> Canary:
    """The model's canary plan at the platform's pace."""
    return spec.canary.at_pace(platform.pace)


def look(platform: Platform, spec: ModelSpec, policy: Policy) -> Observation:
    """What has been seen of the present canary step, now.

    The running observation is kept in the object store, so that neither a restarted gateway nor a restarted daemon loses what was
    counted before; the first look of a step starts it.
    """
    key, now = running_key(policy), platform.clock()
    samples = platform.gateway.sample(policy.model)
    try:
        seen = decode(Observation, platform.objects.get(key), key)
    except NotFound:
        seen = None
    # An early version counted traffic and not what was to be expected of it: half of both would look like harm.
    if seen is None or (seen.traffic and not seen.expected):
        seen = evidence.begin(samples, platform.predictions.position(policy.model), now)
    else:
        logged = platform.predictions.read(policy.model, seen.log_position, LOG_COLUMNS)
        seen = evidence.observe(seen, samples, logged_of(policy, logged.rows, logged.position), now)
    if spec.canary.guardrails.max_brier_increase is not None:
        seen = replace(seen, labelled=labelled(platform, spec, policy))
    platform.objects.put(key, encode(seen))
    return seen


def logged_of(policy: Policy, rows: Any, position: str) -> Logged:
    """What champion and challenger have logged, counted. In a shadow step the challenger's answers are those to its copies.

    Args:
        rows: a frame with ``LOG_COLUMNS``.
    """
    import numpy as np

    scores, units, answers = {}, {}, answers_of(policy, rows)
    for release, found in answers.items():
        histogram, _ = np.histogram(np.clip(found["score"], 0, 1), bins=SCORE_BINS, range=(0, 1))
        scores[release] = tuple(int(count) for count in histogram)
        units[release] = unit_signs(found["unit"])
    flips = {}
    if policy.mirror is not None and len(answers) == 2:
        ours, theirs = answers.values()
        flips = {policy.mirror.release: flips_of(ours, theirs)}
    return Logged(position, scores, units, flips)


def answers_of(policy: Policy, rows: Any) -> dict[str, Any]:
    """The rows that champion and challenger answered, in this order; in a shadow step the challenger's are those to its copies."""
    if not len(rows):
        return {}
    challenger = policy.challenger.release if policy.challenger else None
    found = {}
    for release in (policy.champion, challenger):
        role = "shadow" if policy.mirror is not None and release == challenger else "live"
        answered = rows[(rows["release"] == release) & (rows["role"] == role)]
        if release is not None and len(answered):
            found[release] = answered
    return found


def labelled(platform: Platform, spec: ModelSpec, policy: Policy) -> dict[str, Labelled]:
    """What has come true of all that was answered since the step began. Counted anew at each look: labels come in no order."""
    from mlops_assets.adapters import labels

    assert policy.challenger is not None
    since = platform.predictions.position(spec.name, policy.challenger.entered_at)
    rows = platform.predictions.read(spec.name, since, ["release", "role", *labels.COLUMNS]).rows
    found = answers_of(policy, rows).items()
    return {release: labels.squared_errors(platform.objects, spec, answered, platform.pii_key) for release, answered in found}


def unit_signs(units: Any) -> tuple[int, ...]:
    """The sum over the rows of the ``UNIT_SIGNS`` random signs of each row's unit, which are the bits of its hash."""
    import numpy as np
    import pandas as pd

    counts = units.value_counts()
    hashes = pd.util.hash_array(counts.index.to_numpy(object), categorize=False)
    bits = (hashes[:, None] >> np.arange(UNIT_SIGNS, dtype=np.uint64)) & np.uint64(1)
    return tuple(int(total) for total in counts.to_numpy() @ (1 - 2 * bits.astype(int)))


def flips_of(ours: Any, theirs: Any) -> Flips:
    """Decisions of both on the requests that are in both frames. A request whose other answer is logged later is not counted."""
    both = ours[["request_id", "decision"]].merge(theirs[["request_id", "decision"]], on="request_id", suffixes=("", "_theirs"))
    return Flips(len(both), int((both["decision"].astype(bool) != both["decision_theirs"].astype(bool)).sum()))


def decide_now(platform: Platform, spec: ModelSpec, policy: Policy) -> tuple[Decision, Observation]:
    """Look and decide, as of that look: whoever decides again from what it saw comes to the same."""
    seen = look(platform, spec, policy)
    return decide(plan_of(platform, spec), policy, seen, seen.until), seen


def keep_evidence(platform: Platform, spec: ModelSpec, policy: Policy, seen: Observation, decision: Decision) -> str:
    """Store all that a decision was made of, under its digest, so that it can be decided again; returns the key."""
    data = encode(evidence_of(policy, spec.canary, platform.pace, seen, decision))
    key = evidence_key(policy.model, data)
    platform.objects.create(key, data)
    return key


def keep_hold(platform: Platform, spec: ModelSpec, policy: Policy, seen: Observation, decision: Decision) -> None:
    """Store what a look was made of at which the canary held; the policy, which does not change by it, cannot name it."""
    assert policy.challenger is not None
    data = encode(evidence_of(policy, spec.canary, platform.pace, seen, decision))
    when = seen.until.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    platform.objects.create(f"{holds_prefix(policy.model, policy.challenger.release)}{when}-{hashlib.sha256(data).hexdigest()}.json", data)


def holds_prefix(model: str, release: str) -> str:
    """Under it lies the evidence of the looks at which a release was held, each with its time and digest for a name."""
    return f"evidence/{model}/{release}/holds/"


def evidence_key(model: str, data: bytes) -> str:
    """Where evidence lies: under the digest of its bytes, so that nobody can change it unseen."""
    return f"evidence/{model}/{hashlib.sha256(data).hexdigest()}.json"


def begin_canary(platform: Platform, spec: ModelSpec, release: str, policy: Policy, author: Author, again: bool = False) -> Policy:
    """Let a waiting release into the first step of its canary; with ``again`` also one that was aborted."""
    first, now = plan_steps(plan_of(platform, spec), policy)[0], platform.clock()

    def begun(present: Policy) -> Policy:
        waiting = policy_changes.restart(present, release, author, now) if again and present.candidate(release) is None else present
        return policy_changes.begin(waiting, release, first, author, now)

    changed = change_at(platform, spec.name, policy.generation, begun)
    reconcile(platform, spec.name, spec.serving)
    return changed


def advance_canary(platform: Platform, spec: ModelSpec, policy: Policy, decision: Decision, seen: Observation, author: Author) -> Policy:
    """Let the challenger into its next step, with the evidence kept."""
    assert policy.challenger is not None
    index = policy.challenger.step + 1
    step = plan_steps(plan_of(platform, spec), policy)[index]
    now = platform.clock()
    kept = keep_evidence(platform, spec, policy, seen, decision)
    signed = Author(author.who, decision.reason, author.run_id, kept)
    changed = change_at(platform, spec.name, policy.generation, lambda p: policy_changes.advance(p, index, step, signed, now))
    reconcile(platform, spec.name, spec.serving)
    return changed


def promote(platform: Platform, spec: ModelSpec, release: str, policy: Policy, author: Author, forced: bool) -> tuple[Decision, Policy]:
    """Make the challenger champion. The gate is asked again here, and unless a person forces it, the canary as well.

    Raises:
        IllegalChange: if the release is not in canary, its gate did not pass, or the canary does not say promote.
    """
    if policy.challenger is None or policy.challenger.release != release:
        raise IllegalChange(f"{release} of {spec.name} is not in canary: {policies.describe(policy)}")
    gate = platform.registry.release(spec.name, release).tags.get(GATE_TAG)
    if gate != Outcome.PASS.value:
        raise IllegalChange(f"the quality gate of {release} says {gate!r}, expected 'pass': materialize its evaluation first")
    decision, seen = decide_now(platform, spec, policy)
    if decision.move is not Move.PROMOTE and not forced:
        raise IllegalChange(f"the canary of {release} says {decision.move}: {decision.reason}")
    now = platform.clock()
    kept = keep_evidence(platform, spec, policy, seen, decision)
    signed = Author(author.who, author.why if forced else decision.reason, author.run_id, kept)
    warm_for = plan_of(platform, spec).warm_for
    changed = change_at(platform, spec.name, policy.generation, lambda p: policy_changes.promote(p, signed, now, warm_for))
    converge_traffic(platform, spec.name, spec.serving)
    return decision, changed


def leave(platform: Platform, spec: ModelSpec, release: str, policy: Policy, author: Author, to: str | None) -> Policy:
    """Take a release out: abort its canary if it is the challenger, roll back if it is the champion."""
    now = platform.clock()
    if policy.challenger is not None and policy.challenger.release == release:
        decision, seen = decide_now(platform, spec, policy)
        author = Author(author.who, author.why, author.run_id, keep_evidence(platform, spec, policy, seen, decision))
        changed = change_at(platform, spec.name, policy.generation, lambda p: policy_changes.abort(p, author, now))
    else:
        changed = change_at(platform, spec.name, policy.generation, lambda p: policy_changes.rollback(p, author, now, to))
    converge_traffic(platform, spec.name, spec.serving)
    return changed


def running_key(policy: Policy) -> str:
    """Where the observation of the present canary step is kept."""
    if policy.challenger is None:
        raise IllegalChange(f"{policy.model} has no release in canary")
    challenger = policy.challenger
    return f"evidence/{policy.model}/{challenger.release}/{challenger.attempt}/{challenger.step}-{challenger.step_name}.json"
