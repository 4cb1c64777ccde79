"""The steps of a model's CI: one after the other, and none after one that failed."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from mlops_assets.definitions import load_specs
from mlops_assets.model_ci import __main__ as command
from mlops_assets.model_ci import champion, pipeline
from mlops_assets.model_ci.changed import git
from mlops_assets.settings import Settings
from tests.servers import free_base_port

DAYS = timedelta(days=25)
"""So few that the model may just be trained."""


@pytest.fixture
def ci(tmp_path: Path) -> pipeline.ModelCi:
    return pipeline.ModelCi(load_specs()[0], Settings(tmp_path), "HEAD", "refresh", None, tell=lambda _: None)


def test_what_follows_a_failed_check_is_not_run_and_the_reason_is_what_it_printed(ci, monkeypatch):
    monkeypatch.setattr(pipeline, "CHECKS", (("ruff", "--version"), ("ruff", "no-such-command"), ("mypy",)))
    summary = ci.run()
    assert [step.outcome for step in summary.steps[:3]] == ["pass", "fail", "not run"]
    assert "no-such-command" in summary.steps[1].reason
    assert {step.outcome for step in summary.steps[3:]} == {"not run"}
    assert not summary.passed


def test_a_model_that_does_not_exist_is_told_with_those_that_do(capsys):
    assert command.main(["no-such-model"]) == 2
    assert "there is no model 'no-such-model', expected one of flight-delay" in capsys.readouterr().err


def test_a_change_of_no_model_trains_nothing(capsys, monkeypatch):
    monkeypatch.setattr(command, "files_since", lambda commit: ["docs/guides/engineers.md"])
    assert command.main(["--against", "HEAD"]) == 0
    assert "nothing to train" in capsys.readouterr().out


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_commit_becomes_a_staged_deployment_beside_what_its_base_trains(tmp_path_factory, monkeypatch, capsys):
    out = tmp_path_factory.mktemp("ci")
    monkeypatch.setattr(pipeline, "CHECKS", ())
    monkeypatch.setattr(pipeline, "model_tests", lambda spec: [])
    monkeypatch.setattr(champion, "days_wanted", lambda spec: DAYS)
    monkeypatch.setenv("MLOPS_HOME", str(out / "no-production"))
    options = ["--against", "HEAD", "--out", str(out), "--base-port", str(free_base_port())]
    assert command.main(["flight-delay", *options]) == 0, capsys.readouterr().out

    summary = json.loads((out / "flight-delay" / "summary.json").read_text())
    outcomes = {step["name"]: step["outcome"] for step in summary["steps"]}
    assert set(outcomes.values()) == {"pass"}
    assert (summary["release"], summary["passed"]) == ("v2", True)
    assert summary["champion"] == f"what the commit {git(pipeline.ROOT, 'rev-parse', 'HEAD')[:12]} trains (here v1)"
    assert "Judged by policy `refresh` against v1" in (out / "flight-delay" / "comment.md").read_text()
    assert "0 of 200 decisions differ" in summary["steps"][-1]["reason"]
    assert not list((out / "flight-delay" / "stack").glob("supervisor.sock"))
