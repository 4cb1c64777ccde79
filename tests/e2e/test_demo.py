"""A short demo on the real stack: releases, rollbacks by hand, and the death of every process."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date

import dagster as dg
import psutil
import pytest

from mlops_assets.adapters.supervisor import SOCKET, Supervisor
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.policy import Policy, release_number, stage_of
from mlops_assets.demo import play as demo
from mlops_assets.demo.report import instance_of
from mlops_assets.reconcile import differences
from mlops_assets.records import records_of
from mlops_assets.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

WARM_SECONDS, COLD_SECONDS = 3.0, 60.0
"""From the call of ``mlops rollback`` to the last answer of the release that leaves. To a warm one the goal is a second, most of it the
start of Python; a test must hold on a busy machine too."""


def mlops(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mlops_assets", *arguments], capture_output=True, text=True, timeout=120, check=False)


def wait_until(happened: Callable[[], bool], within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if happened():
            return True
        time.sleep(0.5)
    return False


def roll_back(story: demo.Story, *options: str) -> tuple[str, str, float]:
    """``mlops rollback``: the release that left, the one that came, and how long the first still answered."""
    leaving, began = str(story.policy().champion), time.monotonic()
    done = mlops("rollback", demo.MODEL, *options, "--reason", "a test of the night")
    assert done.returncode == 0, done.stderr
    time.sleep(2)
    seconds = story.traffic.last_answer[leaving] - began
    print(f"mlops rollback: {leaving} answered for {seconds:.2f} s after the call")
    return leaving, str(story.policy().champion), seconds


def wrongly_recorded(story: demo.Story) -> dict[tuple[str, str | None, int], int]:
    """The changes of the policy that Dagster does not have exactly once, with how often it has them."""
    wanted = [record for change in story.policy().log for record in records_of(change)]
    found: Counter[tuple[str, str | None, int]] = Counter()
    with instance_of(story.settings) as instance:
        for noun in {record.noun for record in wanted}:
            key = dg.AssetRecordsFilter(dg.AssetKey([story.spec.slug, noun]))
            for record in instance.fetch_materializations(key, limit=1000).records:
                materialization = record.asset_materialization
                if materialization and (generation := materialization.metadata.get("generation")):
                    found[noun, materialization.partition, int(generation.value)] += 1
    names = [(record.noun, record.partition, record.change.generation) for record in wanted]
    return {name: found[name] for name in {*names, *found} if found[name] != 1 or name not in names}


def is_settled(story: demo.Story) -> bool:
    try:
        policy = story.policy()
        quiet = policy.challenger is None and not policy.candidates
        return quiet and not differences(story.platform, demo.MODEL) and not wrongly_recorded(story)
    except MlopsError:
        return False


def test_two_releases_reach_production_and_a_rollback_needs_neither_dagster_nor_mlflow(story: demo.Story) -> None:
    demo.first_release(story)
    demo.second_release(story)
    assert [(step.name, step.reason) for step in story.steps if not step.ok] == []
    assert story.policy().champions == ("v1", "v2")

    supervisor = Supervisor(story.settings.home / SOCKET)
    for service in ("daemon", "webserver", "code", "mlflow"):
        supervisor.call("stopProcess", service)
    left, came, seconds = roll_back(story)

    assert (left, came) == ("v2", "v1")
    assert seconds < WARM_SECONDS
    assert story.traffic.last_answer["v1"] > story.traffic.last_answer["v2"]
    assert story.traffic.failed == 0, story.traffic.answers


def test_what_was_done_by_hand_is_recorded_once_when_dagster_is_back(story: demo.Story) -> None:
    Stack(story.settings).up()
    assert wait_until(lambda: is_settled(story), within=120), (differences(story.platform, demo.MODEL), wrongly_recorded(story))
    policy = story.policy()
    assert {release: stage_of(policy, release) for release in policy.digests} == {"v1": "Production", "v2": "Archived"}


def test_a_release_survives_the_death_of_every_process(story: demo.Story) -> None:
    """Each process is killed once while a release is on its way. It may end in production or be aborted, but nowhere between."""
    story.land(date(2013, 3, 5), date(2013, 3, 20))
    order = ["run worker", "daemon", "code", "run worker", "webserver", "mlflow", "s3", "envoy", "champion", "supervisord", "challenger"]
    deadline = time.monotonic() + 600
    while order and time.monotonic() < deadline:
        # A fast machine has gone through the canary before the others have had their turn.
        name = "challenger" if "challenger" in order and victims(story, "challenger") else order[0]
        pids = victims(story, name)
        if not pids:
            time.sleep(0.2)
            continue
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        if name == "supervisord":
            Stack(story.settings).up()
        order.remove(name)
        # Time for what was killed to come back, and for the release to go on.
        time.sleep(10)

    assert order == []
    assert wait_until(lambda: came_to_an_end(story.policy()), within=420), story.policy()
    assert wait_until(lambda: is_settled(story), within=120), (differences(story.platform, demo.MODEL), wrongly_recorded(story))
    # Two releases may be rolled back to one: the first by hand, v3 by its objective when it is killed as champion.
    entered = Counter((change.release, change.action, change.attempt, change.step, change.left) for change in story.policy().log)
    assert [action for action, times in entered.items() if times > 1] == []
    assert wait_until(lambda: mlops("status").returncode == 0, within=30), mlops("status").stdout


def came_to_an_end(policy: Policy) -> bool:
    """Whether a release after v2 did: v3, or v4 if the run was killed that had just registered v3, which nobody knows then."""
    later = [release for release in policy.digests if release_number(release) > 2]
    return any(policy.last(release, "promote", "abort", "refuse") is not None for release in later)


def victims(story: demo.Story, name: str) -> list[int]:
    """The pids to kill; none if it does not run now."""
    supervisor = Supervisor(story.settings.home / SOCKET)
    if name == "supervisord":
        return [int((story.settings.home / "supervisord.pid").read_text())]
    if name == "run worker":
        code = supervisor.process("code")
        return list(run_workers(int(code["pid"]))) if code and code["pid"] else []
    if name in ("champion", "challenger"):
        policy = story.policy()
        release = policy.champion if name == "champion" else policy.challenger and policy.challenger.release
        name = f"{demo.MODEL}.{release}"
    info = supervisor.process(name)
    return [int(info["pid"])] if info and info["pid"] else []


def run_workers(code_server: int) -> Iterator[int]:
    """Runs are forked from a process that the code server has for it."""
    for child in psutil.Process(code_server).children(recursive=True):
        try:
            if child.ppid() != code_server:
                yield child.pid
        except psutil.NoSuchProcess:
            continue


def test_a_rollback_to_a_release_that_no_longer_runs_starts_it(story: demo.Story) -> None:
    assert wait_until(lambda: not runs(story, "v2"), within=180)
    failed = story.traffic.failed
    _, came, seconds = roll_back(story, "--to", "v2")
    assert came == "v2"
    assert seconds < COLD_SECONDS
    assert story.traffic.failed == failed


def runs(story: demo.Story, release: str) -> bool:
    return any(deployment.release == release for deployment in story.platform.deployments.running(demo.MODEL))
