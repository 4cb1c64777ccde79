import json

import pytest

from mlops_assets.core.verdict import Outcome, Verdict, combine


def verdict(outcome: Outcome) -> Verdict:
    return Verdict("auc", outcome, 0.7, 0.6, "because", 100)


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ([], "inconclusive"),
        (["pass"], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive"], "inconclusive"),
        (["fail", "pass"], "fail"),
        (["fail", "inconclusive", "pass"], "fail"),
    ],
)
def test_one_failure_fails_and_one_doubt_leaves_it_open(outcomes, together):
    assert combine(verdict(Outcome(outcome)) for outcome in outcomes) == together


def test_a_verdict_travels_as_json():
    assert json.loads(json.dumps(verdict(Outcome.FAIL).to_dict())) == {
        "name": "auc",
        "outcome": "fail",
        "value": 0.7,
        "threshold": 0.6,
        "reason": "because",
        "sample": 100,
    }


def test_only_a_pass_has_passed():
    assert [verdict(outcome).passed for outcome in Outcome] == [True, False, False]
