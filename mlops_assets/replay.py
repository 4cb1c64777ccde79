"""``mlops replay``: the decisions of a past release, made again from the evidence that was kept of them. Only S3 is needed."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlops_assets.adapters.codec import decode_evidence
from mlops_assets.core.canary import Decision
from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.errors import DigestMismatch, NotFound, SpecError
from mlops_assets.core.policy import Change
from mlops_assets.core.replay import Evidence, replay
from mlops_assets.ports import ObjectStore, Platform
from mlops_assets.rollout import evidence_key

Overlay = Callable[[Canary], Canary]
"""From the plan of then to the one that is asked about."""


@dataclass(frozen=True)
class Replayed:
    """One decision of then beside the one of now; ``now`` is ``None`` where the other plan has no such step."""

    change: Change
    evidence: Evidence
    now: Decision | None

    @property
    def same(self) -> bool:
        """Whether every figure and every word is the same, to the last bit."""
        return self.now is not None and _text(self.evidence.decision) == _text(self.now)


def replay_release(platform: Platform, model: str, release: str, overlay: Overlay | None = None) -> tuple[Replayed, ...]:
    """Make every decision on a release again of which evidence was kept, oldest first.

    Args:
        overlay: makes another plan of the one of then; ``None`` decides by the one of then.

    Raises:
        NotFound: if there is no such model or release, or evidence of it is missing.
        DigestMismatch: if evidence is not what was written.
        BadData: if evidence cannot be read.
    """
    changes = _decided(platform, model, release)
    return tuple(_again(change, _kept(platform.objects, model, change.author.evidence or ""), overlay) for change in changes)


def overlay_of(path: Path) -> Overlay:
    """What a file says of the canary: a ``defs.yaml`` replaces the whole plan, a file with nothing but ``canary:`` the fields it names.

    Raises:
        SpecError: if the file says nothing of a canary, or something that a plan does not allow.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    whole = document.get("attributes") if isinstance(document, Mapping) else None
    section = (whole if isinstance(whole, Mapping) else document or {}).get("canary") if isinstance(document, Mapping) else None
    if not isinstance(section, Mapping):
        raise SpecError(f"{path}: there is no section 'canary', expected a defs.yaml, or canary: {{guardrails: {{max_error_rate: 0.01}}}}")
    return lambda plan: _plan(path, section if whole else _merged(asdict(plan), section))


def show(replayed: tuple[Replayed, ...], model: str, release: str, policy: Path | None, console: Console) -> None:
    """Print what was decided then and now, decision by decision."""
    what = f"as {policy} would have it" if policy else "by the plan of then"
    console.print(f"{model} {release}: {len(replayed)} decisions, {what}\n")
    for one in replayed:
        change, then, challenger = one.change, one.evidence.decision, one.evidence.policy.challenger
        assert challenger is not None  # else nothing could have been decided
        forced = "" if change.action == then.move.value else f", although the canary said {then.move}"
        when = f"{one.evidence.decided_at:%Y-%m-%d %H:%M:%S}"
        console.print(f"[bold]{challenger.step_name}[/] {when}: {change.action} by {change.author.who}{forced}", highlight=False)
        table = Table("", "then", "now", "same")
        for row in _rows(then, one.now):
            table.add_row(*row)
        console.print(table)
    differ = sum(not one.same for one in replayed)
    console.print(f"{differ} of {len(replayed)} decisions differ" if differ else "the same, bit for bit")
    if policy and differ:
        console.print("Each is decided on what was seen then; what the other plan would have seen after its first difference nobody knows.")
    console.print("Not replayed: looks at which the canary held, and the quality gate, whose scores are not kept.")


def _decided(platform: Platform, model: str, release: str) -> list[Change]:
    known = platform.policies.models()
    if model not in known:
        raise NotFound(f"there is no model {model!r}, expected one of {', '.join(known) or 'none yet'}")
    log = platform.policies.read(model).log
    of_release = [change for change in log if change.release == release]
    if not of_release:
        releases = ", ".join(dict.fromkeys(change.release for change in log)) or "none yet"
        raise NotFound(f"{model} has no release {release!r}, expected one of {releases}")
    decided = [change for change in of_release if change.author.evidence]
    if not decided:
        actions = ", ".join(change.action for change in of_release)
        raise NotFound(f"of {release} of {model} no decision with evidence was made, got {actions}: its canary had not come so far")
    return decided


def _kept(objects: ObjectStore, model: str, key: str) -> Evidence:
    try:
        data = objects.get(key)
    except NotFound as error:
        raise NotFound(
            f"the evidence {key!r}, which the policy of {model} names, is gone: restore it from a backup of the bucket"
        ) from error
    if (proper := evidence_key(model, data)) != key:
        raise DigestMismatch(
            f"the evidence {key!r} was changed after it was written: by its bytes it would be {proper!r}. "
            f"Nothing was decided from it: restore an earlier version of the object"
        )
    return decode_evidence(data, key)


def _again(change: Change, evidence: Evidence, overlay: Overlay | None) -> Replayed:
    return Replayed(change, evidence, replay(evidence, overlay(evidence.plan) if overlay else None))


def _plan(path: Path, section: Mapping[str, Any]) -> Canary:
    from pydantic import ValidationError

    from mlops_assets.components.attributes import build, model_of

    try:
        plan: Canary = build(Canary, model_of(Canary).model_validate(dict(section)))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
        raise SpecError(f"{path}: canary: {told}") from error
    return plan


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section; a list replaces a list."""
    both = {
        name: _merged(below[name], above[name]) for name in above if isinstance(above[name], Mapping) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}


def _rows(then: Decision, now: Decision | None) -> Iterator[tuple[str, str, str, str]]:
    yield "decision", f"{then.move}: {then.reason}", f"{now.move}: {now.reason}" if now else "this plan has no such step", _same(then, now)
    before, after = ({v.name: v for v in decision.verdicts} if decision else {} for decision in (then, now))
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        yield name, *(f"{v.outcome}: {v.reason}" if v else "" for v in (old, new)), "yes" if now and _text(old) == _text(new) else "no"


def _same(then: Decision, now: Decision | None) -> str:
    return "yes" if now and _text(then) == _text(now) else "no"


def _text(value: Any) -> str:
    """All figures with all their digits."""
    return json.dumps(value.to_dict() if value is not None else None, sort_keys=True)
