"""``mlops explain``: from the id of a request to the release that answered it, what that was made of, and what let it into production."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pandas as pd

from mlops_assets.adapters import labels
from mlops_assets.adapters.codec import decode
from mlops_assets.adapters.onnx_model import OnnxModel
from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, FEATURE_PREFIX
from mlops_assets.assets.skew import with_entities
from mlops_assets.core.errors import MlopsError, NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Change, Policy
from mlops_assets.core.replay import GateEvidence
from mlops_assets.core.shares import spans
from mlops_assets.core.signature import Signature
from mlops_assets.core.verdict import Verdict
from mlops_assets.links import asset_url, run_url, version_url
from mlops_assets.ports import Platform, ReleaseInfo
from mlops_assets.rollout import GATE_EVIDENCE_TAG, GATE_TAG
from mlops_assets.settings import Settings

MADE_OF = ("training_set", "as_of", "trigger", "cause", "git_commit", "git_dirty", "lock_sha256", "feature_hash", "holdout")
"""The tags of a release that tell its origin, in the order in which they are shown."""

Known = TypeVar("Known")


@dataclass(frozen=True)
class Value:
    """An input as it was served, and since when the value was valid that its view had then, as far as the feature store knows."""

    name: str
    value: float | str | None
    origin: str
    since: datetime | None = None


@dataclass(frozen=True)
class Explained:
    """One answer and all that led to it. What could not be had is told in ``notes``, each with why.

    Args:
        role: ``live``, or ``shadow`` for the answer to a copy, which nobody got.
        share: what the release had of the traffic when it answered.
        made_of: the release's origin: ``MADE_OF``, its digest and its MLflow run, as far as its version tells.
        gate: what the quality gate said, and the figures by which it did.
        way: every change of the policy that was about the release until the answer, each with the key of its evidence.
        later: what became of the release since.
        label: what came true; None if that is not known.
        links: addresses in the Dagster UI and in MLflow's.
    """

    request_id: str
    model: str
    release: str
    role: str
    unit: str
    score: float
    decision: bool
    threshold: float | None
    latency_ms: float
    answered_at: datetime
    event_time: datetime
    share: str
    values: tuple[Value, ...]
    entities: Mapping[str, str | None]
    made_of: Mapping[str, str]
    gate: str
    gate_evidence: str
    gate_verdicts: tuple[Verdict, ...]
    way: tuple[Change, ...]
    later: tuple[Change, ...]
    label: int | None
    links: Mapping[str, str]
    notes: tuple[str, ...]

    def to_document(self) -> Any:
        """All of it as JSON knows it, times in ISO 8601."""
        return json.loads(json.dumps(asdict(self), default=lambda value: value.isoformat()))


def explain(
    platform: Platform,
    settings: Settings,
    request_id: str,
    model: str | None,
    back: timedelta,
    spec_of: Callable[[str], ModelSpec],
) -> tuple[Explained, ...]:
    """Explain every answer to a request: the one that was given, and those of releases that got a copy of it.

    Args:
        model: whose; by default the logs of all models are looked through.
        back: how far, from now.
        spec_of: what is declared of a model; may raise.

    Raises:
        NotFound: if no answer is found, with where it was looked for.
    """
    known = platform.policies.models()
    if model is not None and model not in known:
        raise NotFound(f"there is no model {model!r}, expected one of {', '.join(known) or 'none yet'}")
    now = platform.clock()
    models = known if model is None else (model,)
    found = [
        _explained(platform, settings, name, row, spec_of) for name in models for row in _answers(platform, name, request_id, now - back)
    ]
    if not found:
        raise NotFound(
            f"there is no answer to {request_id!r} in what {', '.join(models) or 'no model'} logged from {now - back:%Y-%m-%d %H:%M} to "
            f"{now:%Y-%m-%d %H:%M} UTC: look further back with --since 30d; an answer is in the log a minute or so after it was given, "
            f"and a row of many under the request's id and its place, as {request_id}-0"
        )
    return tuple(sorted(found, key=lambda one: (one.answered_at, one.role)))


def _answers(platform: Platform, model: str, request_id: str, since: datetime) -> list[Mapping[str, Any]]:
    rows = platform.predictions.find(model, request_id, since)
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


@dataclass
class _Notes:
    """Collects what could not be had: an audit tells the rest all the same."""

    told: list[str]

    def attempt(self, make: Callable[[], Known], otherwise: Known) -> Known:
        try:
            return make()
        except MlopsError as error:
            self.told.append(str(error))
            return otherwise


def _explained(
    platform: Platform, settings: Settings, model: str, row: Mapping[str, Any], spec_of: Callable[[str], ModelSpec]
) -> Explained:
    notes, release, at = _Notes([]), row["release"], row["logged_at"].to_pydatetime()
    policy = notes.attempt(lambda: platform.policies.read(model), Policy(model))
    info = notes.attempt(lambda: platform.registry.release(model, release), None)
    signature = notes.attempt(lambda: _signature(platform, info), None) if info else None
    spec = notes.attempt(lambda: spec_of(model), None)
    about = [change for change in policy.log if release in (change.release, change.left)]
    tags = info.tags if info else {}
    evidence = tags.get(GATE_EVIDENCE_TAG, "")
    return Explained(
        **{name: row[name] for name in ("request_id", "release", "role", "unit", "latency_ms")},
        model=model,
        score=float(row["score"]),
        decision=bool(row["decision"]),
        threshold=signature.decision_threshold if signature else None,
        answered_at=at,
        event_time=row["event_time"].to_pydatetime(),
        share=share_at(policy, release, at),
        values=_values(platform, spec, signature, row, notes),
        entities={name.removeprefix(ENTITY_PREFIX): _plain(value) for name, value in row.items() if name.startswith(ENTITY_PREFIX)},
        made_of=_made_of(info),
        gate=tags.get(GATE_TAG, "not asked"),
        gate_evidence=evidence,
        gate_verdicts=notes.attempt(lambda: _gate_verdicts(platform, evidence), ()),
        way=tuple(change for change in about if change.at <= at),
        later=tuple(change for change in about if change.at > at),
        label=notes.attempt(lambda: _label(platform, spec, row), None) if spec else None,
        links=_links(settings, model, release, about),
        notes=tuple(notes.told),
    )


def share_at(policy: Policy, release: str, at: datetime) -> str:
    """What a release had of the traffic at a time."""
    span = next((span for span in reversed(spans(policy)) if span.start <= at), None)
    if span is not None and span.mirror == release:
        return f"challenger at {span.change.step_name}, copies of {span.change.mirror} % of the requests"
    weight = span.weights.get(release, 0) if span is not None else 0
    if span is None or not weight:
        return "no traffic"
    is_challenger = span.change.release == release and span.change.action in ("begin", "advance")
    return f"{f'challenger at {span.change.step_name}' if is_challenger else 'champion'}, {weight} % of the units"


def _signature(platform: Platform, info: ReleaseInfo) -> Signature:
    return OnnxModel.load(platform.objects.get(info.uri)).signature


def _values(
    platform: Platform, spec: ModelSpec | None, signature: Signature | None, row: Mapping[str, Any], notes: _Notes
) -> tuple[Value, ...]:
    """The inputs in the model's order, with where each comes from if the caller did not send it."""
    logged = {name.removeprefix(FEATURE_PREFIX): _plain(value) for name, value in row.items() if name.startswith(FEATURE_PREFIX)}
    if signature is None:
        return tuple(Value(name, value, "unknown") for name, value in logged.items())
    version, marks = signature.features, signature.pii
    origin = {item.name: f"view {view.name}" for view in (version.views if version else ()) for item in view.fields}
    origin |= {item.name: f"computed: {item.expression}" for view in (version.on_demand if version else ()) for item in view.fields}
    since = notes.attempt(lambda: _valid_since(platform, spec, signature, row), {}) if spec and version else {}
    names = [item.name for item in signature.inputs]
    told = {name: {"drop": " (dropped: pii)", "hash": " (hashed: pii)"}.get(marks.get(name, ""), "") for name in names}
    return tuple(Value(name, logged.get(name), origin.get(name, "request") + told[name], since.get(name)) for name in names)


def _valid_since(platform: Platform, spec: ModelSpec, signature: Signature, row: Mapping[str, Any]) -> Mapping[str, datetime]:
    """Of each input that a view has, from when on the newest value was valid that was known when the request was asked."""
    assert signature.features is not None
    present = platform.features.version(spec.features)
    if present.views != signature.features.views or present.service != signature.features.service:
        raise NotFound(f"the views behind {present.service} are others than the release's by now: the times of its values cannot be told")
    entities = [view.entity for view in present.views if row.get(ENTITY_PREFIX + view.entity) is not None]
    named = with_entities(platform, spec, pd.DataFrame([row]), list(dict.fromkeys(entities)))
    if named.empty:
        raise NotFound("no event of that day has the entity behind its pseudonym: the times of the values cannot be told")
    told = {name: str(named[ENTITY_PREFIX + name].iloc[0]) for name in entities}
    newest = platform.features.newest(spec.features, row["event_time"].to_pydatetime(), told)
    return {item.name: at for view in present.views if (at := newest.get(view.name)) is not None for item in view.fields}


def _made_of(info: ReleaseInfo | None) -> dict[str, str]:
    if info is None:
        return {}
    tags = {name: info.tags[name] for name in MADE_OF if name in info.tags}
    return {**tags, "model_sha256": info.digest, "model_file": f"s3://{info.uri}", "mlflow_run": info.run_id}


def _gate_verdicts(platform: Platform, evidence: str) -> tuple[Verdict, ...]:
    return decode(GateEvidence, platform.objects.get(evidence), evidence).verdicts if evidence else ()


def _label(platform: Platform, spec: ModelSpec, row: Mapping[str, Any]) -> int | None:
    day = row["event_time"].date()
    joined = labels.join(pd.DataFrame([row]), labels.known(platform.objects, spec, day, day, platform.pii_key))
    if len(joined):
        return int(joined["label"].iloc[0])
    due = row["event_time"].to_pydatetime() + spec.label.horizon
    raise NotFound(
        f"what came true is not known: no labelled event of {row['event_time']:%Y-%m-%d %H:%M:%S} has this unit; labels are due by "
        f"{due:%Y-%m-%d %H:%M}"
    )


def _links(settings: Settings, model: str, release: str, about: Sequence[Change]) -> dict[str, str]:
    slug = model.replace("-", "_")
    found = {
        noun: asset_url(settings.dagster_url, (slug, noun), partition=release) for noun in ("release", "evaluation", "canary", "promotion")
    }
    registered = next((change.author.run_id for change in about if change.action == "register" and change.author.run_id), None)
    training = {"training": run_url(settings.dagster_url, registered)} if registered else {}
    return {**found, **training, "mlflow": version_url(settings.mlflow_url, model, release)}


def _plain(value: Any) -> Any:
    """A value as the log has it; None where it has none."""
    return None if value is None or value != value else value
