"""A past release is decided again from what was kept of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mlops_assets import cli
from mlops_assets.adapters import holdout_scores
from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.canary import Move
from mlops_assets.core.errors import BadData, DigestMismatch, NotFound, SpecError
from mlops_assets.core.gate_spec import Slice
from mlops_assets.core.policy import Author
from mlops_assets.core.replay import Evidence, GateEvidence, judge_again, replay
from mlops_assets.core.verdict import Outcome, combine
from mlops_assets.operations import Operator
from mlops_assets.replay import Overlay, Replayed, ReplayedGate, overlay_of, replay_release, show
from mlops_assets.rollout import evidence_key, holds_prefix
from tests.assets.gifts import DAYS, NAME, Gifts, Moods
from tests.world import World


@pytest.fixture(scope="module")
def lived(shop: Gifts) -> World:
    """v1 is champion; v2 went through its whole canary and was promoted; v3 broke at canary-5."""
    world, moods = shop.copy(shop.with_first_release())
    shop.train(world)
    shop.go_on(world, [5, 7, 7, 9])
    assert world.policy(NAME).champion == "v2"
    shop.land(world, DAYS + 2)
    shop.go_on(world, [5])
    _break(shop, world, moods, "v3")
    return world


def _break(shop: Gifts, world: World, moods: Moods, release: str) -> None:
    moods.raising.add(release)
    world.settle()
    shop.serve(world)
    world.settle()
    assert world.policy(NAME).last(release).action == "abort"


def named(world: World, release: str) -> list[str]:
    """The evidence of the decisions of a canary that changed something."""
    log = [change for change in world.policy(NAME).log if change.release == release and change.author.evidence]
    return [change.author.evidence for change in log if change.action not in ("stage", "refuse")]


def moved(world: World, release: str, overlay: Overlay | None = None) -> list[Replayed]:
    """The decisions of a canary that changed something."""
    life = replay_release(world.platform, NAME, release, overlay)
    return [one for one in life if isinstance(one, Replayed) and one.change is not None]


def gate(world: World, release: str, overlay: Overlay | None = None) -> ReplayedGate:
    first, *others = replay_release(world.platform, NAME, release, overlay)
    assert isinstance(first, ReplayedGate)
    assert not any(isinstance(other, ReplayedGate) for other in others)
    return first


def test_every_decision_of_a_whole_life_comes_out_the_same(lived: World) -> None:
    lives = {release: replay_release(lived.platform, NAME, release) for release in ("v1", "v2", "v3")}
    moves = {release: [str(one.now.move) for one in moved(lived, release)] for release in lives}
    assert moves == {"v1": ["promote"], "v2": ["advance", "advance", "advance", "promote"], "v3": ["advance", "abort"]}
    assert all(one.same for life in lives.values() for one in life)
    outcomes = {release: (gate(lived, release).evidence.question is not None, combine(gate(lived, release).now)) for release in lives}
    assert outcomes == {"v1": (False, Outcome.PASS), "v2": (True, Outcome.PASS), "v3": (True, Outcome.PASS)}


def test_the_looks_at_which_a_release_was_held_are_kept_too(lived: World) -> None:
    life = replay_release(lived.platform, NAME, "v2")
    held = [one for one in life if isinstance(one, Replayed) and one.change is None]
    assert {one.evidence.policy.challenger.step_name for one in held} == {"shadow", "canary-5", "canary-25", "canary-50"}
    assert {(one.now.move, one.same) for one in held} == {(Move.HOLD, True)}
    times = [one.evidence.decided_at for one in life if isinstance(one, Replayed)]
    assert times == sorted(times)
    assert printed(lived, "v2").count(": held") == len(held)


def test_a_held_look_that_was_changed_is_refused_by_name(lived: World) -> None:
    key = lived.objects.list(holds_prefix(NAME, "v3"))[0].key
    data = lived.objects.get(key)
    lived.objects.put(key, data + b" ")
    try:
        with pytest.raises(DigestMismatch, match=f"the evidence '{key}' was changed"):
            replay_release(lived.platform, NAME, "v3")
    finally:
        lived.objects.put(key, data)


@pytest.mark.parametrize(
    ("text", "outcome", "told"),
    [
        ("gates: {floor: 0.99}", Outcome.FAIL, "below its floor of 0.990"),
        ("gates: {default: improve, min_uplift: 0.2, target_uplift: 0.3}", Outcome.FAIL, "'improve' asks for better by 0.2000"),
        ("gates: {metric: brier}", Outcome.PASS, "brier uplift"),
        ("gates: {confidence: 0.9}", Outcome.PASS, "auc uplift"),
    ],
)
def test_other_gates_judge_the_scores_of_then(lived: World, tmp_path: Path, text: str, outcome: Outcome, told: str) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text(text)
    judged = gate(lived, "v2", overlay_of(file))
    assert not judged.same
    assert combine(judged.now) is outcome
    assert told in "; ".join(verdict.reason for verdict in judged.now)
    assert all(one.same for one in moved(lived, "v2", overlay_of(file)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gates: {slices: [{column: channel, value: fax, floor: 0.5}]}", "got channel=fax, expected only slices that were kept: channel="),
        ("gates: {blocks: day}", "gates.blocks: got 'day', expected 'none' or 'none'"),
        ("gates: {max_latency_ms: 5}", "no latency was measured then"),
    ],
)
def test_gates_that_ask_for_what_was_not_kept_are_told_so(lived: World, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text(text)
    judged = gate(lived, "v2", overlay_of(file))
    assert (judged.now, judged.same) == (None, False)
    assert told in judged.why_not
    assert told in printed(lived, "v2", file)


@pytest.mark.long
def test_slices_blocks_and_budgets_come_out_the_same(shop: Gifts) -> None:
    slices = (Slice("channel", "app", 0.5), Slice("channel", "web", 0.5))
    gates = replace(shop.spec.gates, slices=slices, blocks="unit", max_ece=0.3, max_latency_ms=1000.0, max_model_bytes=10**9)
    world, _ = shop.world(replace(shop.spec, gates=gates))
    shop.first_release(world)
    shop.train(world)
    world.settle()
    judged = gate(world, "v2")
    assert judged.same
    names = {verdict.name for verdict in judged.now}
    assert {"auc[channel=app]", "auc[channel=web]", "ece", "latency_ms", "model_bytes", "refresh"} <= names
    again = judge_again(
        judged.evidence, holdout_scores.read(world.objects, NAME, judged.evidence.scores, 0.5), replace(gates, slices=slices[:1])
    )
    assert [verdict.name for verdict in again.verdicts if "channel" in verdict.name] == ["auc[channel=app]"]


def test_scores_that_are_gone_are_named(lived: World) -> None:
    key = f"tables/{NAME}/sets/{gate(lived, 'v3').evidence.scores}.parquet"
    data = lived.objects.get(key)
    lived.objects.delete(key)
    try:
        with pytest.raises(NotFound, match="of scores, which the gate of v3 of gift-returns judged, is gone"):
            replay_release(lived.platform, NAME, "v3")
    finally:
        lived.objects.put(key, data)


def test_decisions_at_another_pace_come_out_the_same(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    world.platform = replace(world.platform, pace=7.0)
    shop.train(world)
    shop.go_on(world, [1, 1, 1, 2])
    life = moved(world, "v2")
    assert [str(one.now.move) for one in life] == ["advance", "advance", "advance", "promote"]
    assert all(one.same and one.evidence.pace == 7.0 for one in life)


def test_a_person_who_promotes_against_the_canary_is_not_what_the_canary_said(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    world.settle()
    Operator(world.platform, NAME, Author("ada", "we know better")).promote(shop.spec)
    (one,) = moved(world, "v2")
    assert (one.change.action, one.now.move, one.same) == ("promote", Move.HOLD, True)
    assert "promote by ada, although the canary said hold" in printed(world, "v2")


def test_a_looser_guardrail_would_have_held_what_was_aborted(lived: World, tmp_path: Path) -> None:
    file = tmp_path / "loose.yaml"
    file.write_text("canary: {guardrails: {max_error_rate: 1.0, max_error_increase: 1.0}}")
    advanced, aborted = moved(lived, "v3", overlay_of(file))
    assert (advanced.evidence.decision.move, aborted.evidence.decision.move) == (Move.ADVANCE, Move.ABORT)
    assert "requests failed" in aborted.evidence.decision.reason
    assert aborted.now.move is Move.HOLD


def test_what_a_policy_file_does_not_name_stays_as_it_was(lived: World, tmp_path: Path) -> None:
    file = tmp_path / "nothing-new.yaml"
    file.write_text("canary: {deadline: 24h}")
    assert all(one.same for one in replay_release(lived.platform, NAME, "v2", overlay_of(file)))


def test_a_stricter_guardrail_would_have_stopped_what_was_promoted(lived: World, tmp_path: Path) -> None:
    file = tmp_path / "strict.yaml"
    file.write_text("canary: {guardrails: {max_score_shift: 1.0e-6}}")
    life = moved(lived, "v2", overlay_of(file))
    assert not any(one.same for one in life)
    assert Move.PROMOTE not in {one.now.move for one in life}
    told = printed(lived, "v2", file)
    assert f" of {len(replay_release(lived.platform, NAME, 'v2'))} decisions differ" in told
    assert "score_shift" in told


def test_a_defs_yaml_replaces_the_whole_plan(lived: World, tmp_path: Path) -> None:
    file = tmp_path / "defs.yaml"
    file.write_text(
        "type: mlops_assets.components.ModelComponent\n"
        "attributes: {canary: {deadline: 100d, first_bake: 1h, steps: [{name: canary-50, weight: 50, bake: 99d}]}}"
    )
    life = moved(lived, "v2", overlay_of(file))
    assert [one.now and one.now.move for one in life] == [None, None, None, Move.HOLD]
    assert "this plan has no such step" in printed(lived, "v2", file)


def test_an_approval_counts_for_the_step_that_it_was_given_for(lived: World) -> None:
    (_, at_five, *_) = moved(lived, "v2")
    _, five, *others = at_five.evidence.plan.steps
    asks = replace(five, approval=True)
    challenger = replace(at_five.evidence.policy.challenger, resumed_step=1)
    approved = replace(at_five.evidence, policy=replace(at_five.evidence.policy, challenger=challenger))
    shorter = replace(approved.plan, steps=(asks, *others))
    assert replay(at_five.evidence, shorter).move is Move.HOLD
    assert replay(approved, shorter).move is Move.ADVANCE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("canary: {guardrails: {max_eror_rate: 0.1}}", "did you mean 'max_error_rate'"),
        ("canary: {deadline: 3}", "expected a duration"),
        ("gates: {flor: 0.1}", "did you mean 'floor'"),
        ("gates: {confidence: 2}", "gates.confidence: got 2"),
        ("guardrails: {}", "there is no section 'canary'"),
        ("- 1", "there is no section 'canary'"),
        ("", "there is no section 'canary'"),
        ("canary: [", "cannot be read"),
        ("attributes: {name: x}", "there is no section 'canary'"),
    ],
)
def test_a_policy_file_that_says_nothing_usable_is_refused(lived: World, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(SpecError, match=told):
        replay_release(lived.platform, NAME, "v2", overlay_of(file))


def test_evidence_that_was_changed_is_refused_by_name(lived: World) -> None:
    key = named(lived, "v3")[-1]
    data = lived.objects.get(key)
    lived.objects.put(key, data.replace(b'"errors": ', b'"errors": 0', 1))
    try:
        with pytest.raises(DigestMismatch, match=f"the evidence '{key}' was changed"):
            replay_release(lived.platform, NAME, "v3")
    finally:
        lived.objects.put(key, data)


def test_evidence_that_is_gone_is_named(lived: World) -> None:
    key = named(lived, "v2")[0]
    data = lived.objects.get(key)
    lived.objects.delete(key)
    try:
        with pytest.raises(NotFound, match=f"the evidence '{key}', which the policy of {NAME} names, is gone"):
            replay_release(lived.platform, NAME, "v2")
    finally:
        lived.objects.put(key, data)


@pytest.mark.parametrize(
    ("model", "release", "told"),
    [
        ("no-such", "v1", f"there is no model 'no-such', expected one of {NAME}"),
        (NAME, "v9", "has no release 'v9', expected one of v1, v2, v3"),
    ],
)
def test_a_model_or_release_that_never_was_is_told_with_those_that_were(lived: World, model: str, release: str, told: str) -> None:
    with pytest.raises(NotFound, match=told):
        replay_release(lived.platform, model, release)


def test_a_release_that_its_gate_refused_is_refused_again(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world, behave="noise")
    world.settle()
    (judged,) = replay_release(world.platform, NAME, "v2")
    assert (judged.change.action, judged.same, combine(judged.now)) == ("refuse", True, Outcome.FAIL)


def test_a_release_that_was_not_judged_yet_has_nothing_to_replay(shop: Gifts) -> None:
    world, _ = shop.copy(shop.with_first_release())
    shop.train(world)
    with pytest.raises(NotFound, match="no decision with evidence was made, got register: it had not come so far"):
        replay_release(world.platform, NAME, "v2")


def test_evidence_survives_the_way_into_its_document_with_every_type(lived: World) -> None:
    for release in ("v1", "v2", "v3"):
        for one in moved(lived, release):
            data = encode(one.evidence)
            assert decode(Evidence, data, "e") == one.evidence
            assert evidence_key(NAME, data) == one.change.author.evidence
        judged = gate(lived, release)
        data = encode(judged.evidence)
        assert decode(GateEvidence, data, "e") == judged.evidence
        assert evidence_key(NAME, data) == judged.change.author.evidence


def test_a_document_of_other_types_is_not_read(lived: World) -> None:
    data = lived.objects.get(named(lived, "v3")[-1])
    document = json.loads(data)
    for path, value in {("plan", "deadline"): 3, ("decision", "move"): "fly", ("plan", "warm_for"): "soon"}.items():
        wrong = json.loads(json.dumps(document))
        wrong["evidence"][path[0]][path[1]] = value
        with pytest.raises(BadData, match=f"evidence.{path[0]}.{path[1]}|not a readable evidence"):
            decode(Evidence, json.dumps(wrong).encode(), "e")


@pytest.mark.parametrize(("changed", "code"), [(False, 0), (True, 1)])
def test_the_command_ends_with_one_only_where_this_program_decides_otherwise(
    lived: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: bool, code: int
) -> None:
    monkeypatch.setattr("mlops_assets.adapters.local.local_platform", lambda: lived.platform)
    if changed:
        monkeypatch.setattr("mlops_assets.replay.replay", lambda evidence, plan: replace(replay(evidence, plan), reason="other"))
    file = tmp_path / "policy.yaml"
    file.write_text("canary: {guardrails: {max_score_shift: 1.0e-6}}")
    assert CliRunner().invoke(cli.app, ["replay", NAME, "--release", "v2"]).exit_code == code
    assert CliRunner().invoke(cli.app, ["replay", NAME, "--release", "v2", "--policy", str(file)]).exit_code == 0
    unknown = CliRunner().invoke(cli.app, ["replay", NAME, "--release", "v9"])
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "error: gift-returns has no release 'v9'" in unknown.stderr


def printed(world: World, release: str, policy: Path | None = None) -> str:
    console = Console(width=300, record=True, quiet=False)
    with console.capture() as captured:
        replayed = replay_release(world.platform, NAME, release, overlay_of(policy) if policy else None)
        show(replayed, NAME, release, policy, console)
    return captured.get()
