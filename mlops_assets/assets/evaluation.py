"""Challenger and champion on the challenger's frozen holdout, within what that holdout may still be asked."""

import json
import time
from dataclasses import dataclass

import numpy as np

from mlops_assets.adapters import holdout_scores, tables
from mlops_assets.adapters.codec import encode
from mlops_assets.adapters.onnx_model import OnnxModel
from mlops_assets.assets.reading import blocks_of, matrix_of
from mlops_assets.assets.training import CAUSE_TAG, HISTORY_TAG, TRIGGER_TAG
from mlops_assets.core import gates, ledger
from mlops_assets.core.certificate import certificate, trained_because
from mlops_assets.core.errors import AlreadyExists
from mlops_assets.core.floors import Footprint
from mlops_assets.core.gate_spec import GatePolicy
from mlops_assets.core.gates import GateResult, Scored
from mlops_assets.core.ledger import Look, Question
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.replay import GateEvidence
from mlops_assets.core.verdict import Verdict
from mlops_assets.ports import Platform, ReleaseInfo, model_key
from mlops_assets.rollout import evidence_key

WARM_UP, TIMED = 50, 500
"""Single-row answers before and within a latency measurement."""


@dataclass(frozen=True)
class Evaluation:
    """What a gate said, for a person too, in markdown; and the key under which lies what it was made of."""

    result: GateResult
    certificate: str
    evidence: str


@dataclass(frozen=True)
class HoldoutAnswer:
    """What a holdout answered, and the looks at it before and after."""

    result: GateResult
    before: tuple[Look, ...] = ()
    looks: tuple[Look, ...] = ()


def evaluate(platform: Platform, spec: ModelSpec, release: str, champion: str | None) -> Evaluation:
    """Judge a release, and the champion if there is one, on the holdout that was frozen for it, and keep the evidence."""
    info = platform.registry.release(spec.name, release)
    policy: GatePolicy = info.tags.get("gate", spec.gates.default)  # type: ignore[assignment]
    holdout, limit = info.tags["holdout"], spec.holdout.min_positives
    scored, footprint = measure(platform, spec, info, champion)
    question = Question(release, champion, policy, spec.gates.metric, spec.gates.border(policy)) if champion else None
    if question is None:
        answer = HoldoutAnswer(gates.evaluate(spec.gates, policy, scored, limit, footprint=footprint))
    else:
        answer = look(platform, spec, holdout, question, scored, footprint)
    scores, verdicts = holdout_scores.write(platform.objects, spec.name, scored), answer.result.verdicts
    kept = GateEvidence(
        spec.gates, policy, holdout, scores, scored.threshold, limit, footprint, question, answer.before, verdicts, platform.clock()
    )
    data = encode(kept)
    key = evidence_key(spec.name, data)
    platform.objects.create(key, data)
    origin = trained_because(info.tags.get(TRIGGER_TAG, "manual"), info.tags.get(CAUSE_TAG, ""))
    page = certificate(spec.name, release, champion, holdout, answer.result, answer.looks, info.tags.get(HISTORY_TAG), origin)
    return Evaluation(answer.result, page, key)


def measure(platform: Platform, spec: ModelSpec, info: ReleaseInfo, champion: str | None) -> tuple[Scored, Footprint]:
    """Score the holdout, and what the release takes to do so."""
    rows = tables.read_set(platform.objects, spec.name, info.tags["holdout"])
    matrix, file = matrix_of(spec, rows), platform.objects.get(info.uri)
    model = OnnxModel.load(file)
    beside = OnnxModel.load(platform.objects.get(model_key(spec.name, champion))).score(matrix) if champion else None
    slices = {part.name: (rows[part.column].astype(str) == part.value).to_numpy() for part in spec.gates.slices}
    label = rows[spec.label.column].to_numpy(dtype=int)
    scored = Scored(label, model.score(matrix), beside, slices, blocks_of(spec, rows), spec.label.decision_threshold)
    latencies = tuple(one_row_latencies(model, matrix).tolist()) if spec.gates.max_latency_ms is not None else None
    return scored, Footprint(len(file), latencies)


def one_row_latencies(model: OnnxModel, matrix: np.ndarray) -> np.ndarray:
    """Milliseconds of answers to one row each, once the model is warm."""
    found = []
    for number in range(WARM_UP + TIMED):
        row = matrix[number % len(matrix)][None, :]
        started = time.perf_counter()
        model.score(row)
        found.append(1e3 * (time.perf_counter() - started))
    return np.array(found[WARM_UP:])


def look(platform: Platform, spec: ModelSpec, holdout: str, question: Question, scored: Scored, footprint: Footprint) -> HoldoutAnswer:
    """Ask the holdout, and enter it in its ledger: once, however often it is repeated."""
    while True:
        looks = looks_at(platform, spec.name, holdout)
        turn = ledger.turn(looks, question, spec.gates)
        result = gates.evaluate(spec.gates, question.policy, scored, spec.holdout.min_positives, turn, footprint)
        if turn.earlier is not None or result.against_champion is None:
            return HoldoutAnswer(result, looks, looks)
        taken = Look(turn.number, question, turn.alpha, result.against_champion.outcome)
        try:
            platform.objects.create(look_key(spec.name, holdout, turn.number), json.dumps(taken.to_dict(), sort_keys=True).encode())
        except AlreadyExists:  # another challenger took this look at the same time: ours is the next, and dearer
            continue
        return HoldoutAnswer(result, looks, (*looks, taken))


def looks_at(platform: Platform, model: str, holdout: str) -> tuple[Look, ...]:
    """The ledger of a holdout, in the order of its looks."""
    found = platform.objects.list(f"evidence/{model}/holdouts/{holdout}/")
    return tuple(Look.from_dict(json.loads(platform.objects.get(info.key))) for info in found)


def look_key(model: str, holdout: str, number: int) -> str:
    """Where a look is kept, never to be overwritten.

    >>> look_key("fraud-detector", "9f86d0", 2)
    'evidence/fraud-detector/holdouts/9f86d0/0002.json'
    """
    return f"evidence/{model}/holdouts/{holdout}/{number:04}.json"


def gate_verdict(result: GateResult) -> Verdict:
    """All verdicts of a gate as the one that Dagster's check shows: the first that did not pass, else the last."""
    shown = next((verdict for verdict in result.verdicts if not verdict.passed), result.verdicts[-1])
    reason = "; ".join(verdict.reason for verdict in result.verdicts)
    return Verdict("quality_gate", result.outcome, shown.value, shown.threshold, reason, shown.sample)
