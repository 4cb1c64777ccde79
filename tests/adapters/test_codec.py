"""Policies and observations survive the way into a document and back."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.canary import Decision, Move
from mlops_assets.core.canary_spec import Canary, Guardrails, Step
from mlops_assets.core.errors import BadData
from mlops_assets.core.evidence import Expected, Flips, GatewaySample, Labelled, Observation, Traffic
from mlops_assets.core.policy import Author, Candidate, Challenger, Change, Mirror, Policy
from mlops_assets.core.replay import Evidence
from mlops_assets.core.verdict import Outcome, Verdict

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
FULL = Policy(
    "fraud-detector",
    7,
    ("v1", "v2"),
    Challenger("v3", 1, 2, "canary-25", NOW, paused=True, resumed_step=1),
    (Candidate("v4", "waiting", NOW),),
    {"v2": 75, "v3": 25},
    Mirror("v4", 50),
    {"v1": NOW + timedelta(hours=1)},
    {"v1": "d" * 64},
    (Change(7, NOW, "advance", "v3", Author("release sensor", "passed: “every” guardrail", "run-1", "evidence/ab"), 1, 2, "canary-25"),),
)


def test_a_full_policy_comes_back_equal():
    assert decode(Policy, encode(FULL), "p") == FULL


def test_an_empty_policy_comes_back_equal():
    assert decode(Policy, encode(Policy("m")), "p") == Policy("m")


@given(
    st.dictionaries(st.text(), st.integers(0, 100)),
    st.lists(st.text()),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-5))])),
)
def test_any_names_and_times_come_back_equal(weights, champions, time):
    policy = Policy("m", champions=tuple(champions), weights=weights, warm={"v1": time})
    assert decode(Policy, encode(policy), "p") == policy


def test_an_observation_comes_back_equal():
    sample = GatewaySample("local", "2026-11-23", {"v1": Traffic(10, 1, tuple(range(22)))})
    seen = Observation(
        NOW,
        NOW,
        {"v1": Traffic(3, 0)},
        {"v1": Expected(0.1, (1 / 3, 2.0))},
        {"v1": (1, 2, 3)},
        {"v1": (-1, 1)},
        {"v2": Flips(4, 1)},
        {"v2": Labelled(4, 0.3)},
        {"local": sample},
        "position",
    )
    assert decode(Observation, encode(seen), "o") == seen


@given(
    st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=365_000)), st.floats(allow_nan=False, allow_infinity=False)
)
def test_evidence_comes_back_equal_to_the_microsecond_and_the_last_bit(bake, value):
    plan = Canary((Step("canary-5", bake, weight=5),), deadline=bake + timedelta(microseconds=1), first_bake=bake)
    verdict = Verdict("error_rate", Outcome.FAIL, value, None, "“why”", 3)
    evidence = Evidence(FULL, plan, 7.5, Observation(NOW, NOW), NOW, Decision(Move.ABORT, "why", (verdict,)))
    data = encode(evidence)
    assert decode(Evidence, data, "e") == evidence
    assert encode(decode(Evidence, data, "e")) == data


def test_a_limit_that_was_written_as_a_whole_number_stays_one():
    plan = Canary((Step("canary-5", timedelta(1), weight=5),), timedelta(2), timedelta(1), Guardrails(max_latency_ratio=2))
    evidence = Evidence(FULL, plan, 1, Observation(NOW, NOW), NOW, Decision(Move.HOLD, "why", ()))
    assert repr(decode(Evidence, encode(evidence), "e").plan.guardrails.max_latency_ratio) == "2"


def test_a_figure_that_is_infinite_does_not_keep_evidence_from_being_kept():
    verdict = Verdict("latency", Outcome.FAIL, float("inf"), 2.0, "why")
    plan = Canary((Step("canary-5", timedelta(1), weight=5),), timedelta(2), timedelta(1))
    evidence = Evidence(FULL, plan, 1.0, Observation(NOW, NOW), NOW, Decision(Move.ABORT, "why", (verdict,)))
    assert decode(Evidence, encode(evidence), "e") == evidence


def test_the_same_policy_gives_the_same_bytes():
    assert encode(FULL) == encode(decode(Policy, encode(FULL), "p"))


def test_a_document_without_a_field_that_has_a_default_is_read():
    assert decode(Policy, b'{"version": 1, "policy": {"model": "m", "generation": 3}}', "p") == Policy("m", 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"generation": "7"}, "policy.generation"),
        ({"generation": True}, "policy.generation"),
        ({"champions": "v1"}, "policy.champions"),
        ({"weights": {"v1": 0.5}}, "policy.weights.v1"),
        ({"warm": {"v1": "2026-11-23T12:00:00"}}, "zone"),
        ({"warm": {"v1": "tomorrow"}}, "tomorrow"),
        ({"mirror": {"release": "v1"}}, "percent"),
        ({"candidates": [{"release": "v1", "state": "flying", "since": "2026-11-23T12:00:00+00:00"}]}, "flying"),
        ({"colour": "red"}, "policy.colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_document_is_refused_by_the_name_of_its_field(change, told):
    document = json.loads(encode(Policy("m")))
    document["policy"] |= change
    with pytest.raises(BadData, match=told):
        decode(Policy, json.dumps(document).encode(), "policies/m.json")


def test_a_newer_version_is_refused():
    with pytest.raises(BadData, match="version 2"):
        decode(Policy, b'{"version": 2, "policy": {}}', "p")
