"""What CI tells programs and people."""

import json

from mlops_assets.model_ci.summary import Step, Summary

STEPS = (Step("training", "pass", 61.2, "v2"), Step("evaluation", "fail", 9.0, "worse | by 0.1\nthan v1"), Step("staging", "not run"))
CERTIFICATE = "# m v2: fail\n\nJudged.\n"


def test_it_passed_only_if_every_step_ran_and_passed():
    assert not Summary("m", "c", "v2", "v1", STEPS).passed
    assert not Summary("m", "c", "v2", "v1", (STEPS[0], STEPS[2])).passed
    assert Summary("m", "c", "v2", "v1", STEPS[:1]).passed


def test_a_program_reads_outcome_steps_and_certificate():
    read = json.loads(Summary("m", "c", "v2", "production's v7 (here v1)", STEPS, CERTIFICATE).to_json())
    assert (read["passed"], read["release"], read["seconds"], read["certificate"]) == (False, "v2", 70.2, CERTIFICATE)
    assert [step["outcome"] for step in read["steps"]] == ["pass", "fail", "not run"]


def test_a_comment_is_one_table_whatever_a_reason_holds_and_the_certificate_below():
    lines = Summary("m", "0123456789abcdef", "v2", "production's v7 (here v1)", STEPS, CERTIFICATE).to_markdown().splitlines()
    assert lines[0] == "## ❌ m at `0123456789ab`: fail"
    assert "| evaluation | ❌ | 9 | worse \\| by 0.1 than v1 |" in lines
    assert "| staging | – | 0 |  |" in lines
    assert lines[-3:] == ["### m v2: fail", "", "Judged."]
