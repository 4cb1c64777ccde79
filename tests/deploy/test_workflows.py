"""The workflows: what each job runs, runs elsewhere too; what is not ours is pinned; nobody may more than he needs."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request: pytest.FixtureRequest) -> dict:
    return yaml.safe_load(request.param.read_text())


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is(workflow):
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in steps(workflow) if "uses" in step)
    for path in WORKFLOWS:
        assert all(re.search(r"@[0-9a-f]{40} # v\d", line) for line in path.read_text().splitlines() if "uses:" in line)


def test_what_a_job_does_is_a_make_target_that_exists(workflow):
    made = {target for step in steps(workflow) for target in re.findall(r"\bmake ([a-z0-9-]+)", step.get("run", ""))}
    assert made
    assert made <= TARGETS


def test_no_job_may_write_but_the_one_that_comments_and_that_one_runs_no_code_of_the_change(workflow):
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        if "write" in job.get("permissions", {}).values():
            assert job["permissions"] == {"pull-requests": "write"}
            assert not any("checkout" in step.get("uses", "") or "make" in step.get("run", "") for step in job["steps"])


def test_a_checkout_leaves_no_token_behind(workflow):
    kept = [step.get("with", {}).get("persist-credentials") for step in steps(workflow) if "checkout" in step.get("uses", "")]
    assert kept
    assert set(kept) == {False}


def test_a_newer_push_replaces_an_older_one_and_no_job_runs_for_ever(workflow):
    assert "github.ref" in workflow["concurrency"]["group"]
    assert all(job["timeout-minutes"] <= 40 for job in workflow["jobs"].values())


def test_secrets_and_what_others_write_reach_a_shell_through_the_environment_alone(workflow):
    assert not any("${{" in step.get("run", "") for step in steps(workflow))
