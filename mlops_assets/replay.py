"""``mlops replay``: the decisions of a past release, made again from the evidence that was kept of them. Only S3 is needed."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from mlops_assets.adapters import holdout_scores
from mlops_assets.adapters.codec import decode
from mlops_assets.core.canary import Decision
from mlops_assets.core.canary_spec import Canary
from mlops_assets.core.errors import BadData, DigestMismatch, NotFound, SpecError
from mlops_assets.core.gate_spec import GatePolicy, Gates
from mlops_assets.core.policy import Change
from mlops_assets.core.replay import Evidence, GateEvidence, judge_again, replay
from mlops_assets.core.verdict import Verdict, combine
from mlops_assets.ports import ObjectStore, Platform
from mlops_assets.rollout import evidence_key, holds_prefix

Spec = TypeVar("Spec", Canary, Gates)


@dataclass(frozen=True)
class Overlay:
    """What is asked about: from what was declared then to something else. None leaves it as it was.

    ``policy`` is the gate's policy, where the file names one.
    """

    canary: Callable[[Canary], Canary] | None = None
    gates: Callable[[Gates], Gates] | None = None
    policy: GatePolicy | None = None


@dataclass(frozen=True)
class Replayed:
    """One decision of a canary beside the one of now.

    ``change`` is what came of it, None if the release was held; ``now`` is None where the other plan has no such step.
    """

    change: Change | None
    evidence: Evidence
    now: Decision | None

    @property
    def same(self) -> bool:
        """Whether every figure and every word is the same, to the last bit."""
        return self.now is not None and _text(self.evidence.decision.to_dict()) == _text(self.now.to_dict())

    @property
    def title(self) -> str:
        then, challenger = self.evidence.decision, self.evidence.policy.challenger
        assert challenger is not None  # else nothing could have been decided
        forced = "" if self.change is None or self.change.action == then.move.value else f", although the canary said {then.move}"
        what = f"{self.change.action} by {self.change.author.who}" if self.change else "held"
        return f"[bold]{challenger.step_name}[/] {self.evidence.decided_at:%Y-%m-%d %H:%M:%S}: {what}{forced}"

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        then, now = self.evidence.decision, self.now
        told = f"{now.move}: {now.reason}" if now else "this plan has no such step"
        same = now is not None and (then.move, then.reason) == (now.move, now.reason)
        yield "decision", f"{then.move}: {then.reason}", told, "yes" if same else "no"
        yield from _verdict_rows(then.verdicts, now.verdicts if now else ())


@dataclass(frozen=True)
class ReplayedGate:
    """The verdicts of a quality gate beside those of now.

    ``now`` is None where the other gates cannot be asked of what was kept; ``why_not`` says why.
    """

    change: Change
    evidence: GateEvidence
    now: tuple[Verdict, ...] | None
    why_not: str = ""

    @property
    def same(self) -> bool:
        """Whether every figure and every word is the same, to the last bit."""
        return self.now is not None and _text([v.to_dict() for v in self.evidence.verdicts]) == _text([v.to_dict() for v in self.now])

    @property
    def title(self) -> str:
        asked = self.evidence.question
        against = f"against {asked.champion} by '{self.evidence.policy}'" if asked else "without a champion"
        return f"[bold]quality gate[/] {self.evidence.judged_at:%Y-%m-%d %H:%M:%S}: {against}"

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        then, now = combine(self.evidence.verdicts), combine(self.now) if self.now is not None else None
        yield "outcome", then.value, now.value if now else self.why_not, "yes" if then == now else "no"
        yield from _verdict_rows(self.evidence.verdicts, self.now or ())


def replay_release(platform: Platform, model: str, release: str, overlay: Overlay | None = None) -> tuple[Replayed | ReplayedGate, ...]:
    """Make every decision on a release again of which evidence was kept, oldest first: the gate's, and each of its canary.

    Args:
        overlay: makes another plan, or other gates, of those of then; ``None`` decides by those of then.

    Raises:
        NotFound: if there is no such model or release, or evidence of it is missing.
        DigestMismatch: if evidence is not what was written.
        BadData: if evidence cannot be read.
    """
    asked, objects, decided = overlay or Overlay(), platform.objects, _decided(platform, model, release)
    gates = [_judged_again(objects, model, change, asked) for change in decided if change.action in ("stage", "refuse")]
    made = [(change, _kept(objects, model, change)) for change in decided if change.action not in ("stage", "refuse")]
    looks = [(change, decode(Evidence, data, change.author.evidence or "")) for change, data in made]
    canary = sorted([*looks, *((None, held) for held in _held(objects, model, release))], key=lambda look: look[1].decided_at)
    plan = asked.canary
    return (*gates, *(Replayed(change, kept, replay(kept, plan(kept.plan) if plan else None)) for change, kept in canary))


def overlay_of(path: Path) -> Overlay:
    """What a file says of canary and gates: a ``defs.yaml`` replaces both whole, a file with these sections alone the fields it names.

    Raises:
        SpecError: if the file says nothing of either, or something that is not allowed.
    """
    import yaml

    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    whole = document.get("attributes") if isinstance(document, Mapping) else None
    sections = whole if isinstance(whole, Mapping) else document if isinstance(document, Mapping) else {}
    canary, gates = (sections.get(name) for name in ("canary", "gates"))
    if not isinstance(canary, Mapping) and not isinstance(gates, Mapping):
        raise SpecError(
            f"{path}: there is no section 'canary' or 'gates', expected a defs.yaml, or canary: {{guardrails: {{max_error_rate: 0.01}}}}"
        )
    return Overlay(
        _laid_over(path, "canary", Canary, canary, bool(whole)) if isinstance(canary, Mapping) else None,
        _laid_over(path, "gates", Gates, gates, bool(whole)) if isinstance(gates, Mapping) else None,
        gates.get("default") if isinstance(gates, Mapping) and not whole else None,
    )


def show(replayed: Sequence[Replayed | ReplayedGate], model: str, release: str, policy: Path | None, console: Console) -> None:
    """Print what was decided then and now, decision by decision."""
    what = f"as {policy} would have it" if policy else "by the plan and the gates of then"
    console.print(f"{model} {release}: {len(replayed)} decisions, {what}\n")
    for one in replayed:
        console.print(one.title, highlight=False)
        table = Table("", "then", "now", "same")
        for row in one.rows():
            table.add_row(*row)
        console.print(table)
    differ = sum(not one.same for one in replayed)
    console.print(f"{differ} of {len(replayed)} decisions differ" if differ else "the same, bit for bit")
    if policy and differ:
        console.print("Each is decided on what was seen then; what the other plan would have seen after its first difference nobody knows.")


def _decided(platform: Platform, model: str, release: str) -> list[Change]:
    known = platform.policies.models()
    if model not in known:
        raise NotFound(f"there is no model {model!r}, expected one of {', '.join(known) or 'none yet'}")
    log = platform.policies.read(model).log
    of_release = [change for change in log if change.release == release]
    if not of_release:
        releases = ", ".join(dict.fromkeys(change.release for change in log)) or "none yet"
        raise NotFound(f"{model} has no release {release!r}, expected one of {releases}")
    # What led to a rollback is what gateways counted of a champion: that is no decision of a gate or a canary.
    decided = [change for change in of_release if change.author.evidence and change.action != "rollback"]
    if not decided:
        actions = ", ".join(change.action for change in of_release)
        raise NotFound(f"of {release} of {model} no decision with evidence was made, got {actions}: it had not come so far")
    return decided


def _kept(objects: ObjectStore, model: str, change: Change) -> bytes:
    key = change.author.evidence or ""
    try:
        data = objects.get(key)
    except NotFound as error:
        raise _gone(f"the evidence {key!r}, which the policy of {model} names,") from error
    if (proper := evidence_key(model, data)) != key:
        raise _changed(key, proper)
    return data


def _held(objects: ObjectStore, model: str, release: str) -> Iterator[Evidence]:
    """The looks at which a release was held."""
    for info in objects.list(holds_prefix(model, release)):
        data = objects.get(info.key)
        when, _, digest = info.key.rpartition("/")[2].removesuffix(".json").rpartition("-")
        if (proper := hashlib.sha256(data).hexdigest()) != digest:
            raise _changed(info.key, f"{when}-{proper}.json")
        yield decode(Evidence, data, info.key)


def _judged_again(objects: ObjectStore, model: str, change: Change, overlay: Overlay) -> ReplayedGate:
    evidence = decode(GateEvidence, _kept(objects, model, change), change.author.evidence or "")
    try:
        scored = holdout_scores.read(objects, model, evidence.scores, evidence.threshold)
    except NotFound as error:
        raise _gone(f"the table {evidence.scores} of scores, which the gate of {change.release} of {model} judged,") from error
    gates = overlay.gates(evidence.gates) if overlay.gates else None
    try:
        return ReplayedGate(change, evidence, judge_again(evidence, scored, gates, overlay.policy).verdicts)
    except (SpecError, BadData) as error:
        return ReplayedGate(change, evidence, None, str(error))


def _gone(what: str) -> NotFound:
    return NotFound(f"{what} is gone: restore it from a backup of the bucket")


def _changed(key: str, proper: str) -> DigestMismatch:
    return DigestMismatch(
        f"the evidence {key!r} was changed after it was written: by its bytes it would be {proper!r}. "
        f"Nothing was decided from it: restore an earlier version of the object"
    )


def _laid_over(path: Path, name: str, cls: type[Spec], section: Mapping[str, Any], whole: bool) -> Callable[[Spec], Spec]:
    return lambda then: _read(path, name, cls, section if whole else _merged(asdict(then), section))


def _read(path: Path, name: str, cls: type[Spec], section: Mapping[str, Any]) -> Spec:
    from pydantic import ValidationError

    from mlops_assets.components.attributes import build, model_of

    try:
        read: Spec = build(cls, model_of(cls).model_validate(dict(section)))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors())
        raise SpecError(f"{path}: {name}: {told}") from error
    return read


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section; a list replaces a list."""
    both = {
        name: _merged(below[name], above[name]) for name in above if isinstance(above[name], Mapping) and isinstance(below.get(name), dict)
    }
    return {**below, **above, **both}


def _verdict_rows(then: Sequence[Verdict], now: Sequence[Verdict]) -> Iterator[tuple[str, str, str, str]]:
    before, after = ({verdict.name: verdict for verdict in verdicts} for verdicts in (then, now))
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        same = old is not None and new is not None and _text(old.to_dict()) == _text(new.to_dict())
        yield name, *(f"{v.outcome}: {v.reason}" if v else "" for v in (old, new)), "yes" if same else "no"


def _text(value: Any) -> str:
    """All figures with all their digits."""
    return json.dumps(value, sort_keys=True)
