"""The story, step by step, and what became of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlops_assets.adapters.envoy_access import CALLERS_VARIABLE, TLS_VARIABLE, TOKENS_VARIABLE
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Change, Policy, describe
from mlops_assets.demo.report import report
from mlops_assets.demo.traffic import Caller, Traffic
from mlops_assets.ports import Platform
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack

MODEL = "flight-delay"
PACE = 10_800
"""Three hours of the canary plan pass in a second: its 24 hours take 8 seconds."""

RATE = 200.0
"""Requests a second. New York's airports see about 920 flights a day; at this pace that would be 115."""

PATIENCE = 420.0
"""Seconds after which a step of the story has not happened."""

MARK = "made-by-demo"
YEAR = (date(2013, 1, 1), date(2013, 5, 3))
ENVIRONMENT = {
    "MLOPS_PACE": str(PACE),
    "MLOPS_SENSOR_SECONDS": "2",
    "MLOPS_REPLAY": "1",
    "MLOPS_LOG_ROTATE_SECONDS": "2",
    # the demo's callers bring nothing
    **dict.fromkeys((TOKENS_VARIABLE, TLS_VARIABLE, CALLERS_VARIABLE), ""),
}


@dataclass
class Step:
    """One step of the story. ``ok`` only if it was seen to happen."""

    name: str
    ok: bool = False
    reason: str = ""
    run_ids: list[str] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Story:
    """What the demo knows while it plays.

    Args:
        settings: of the stack.
        platform: its adapters.
        spec: of the model.
        console: where progress is told.
        traffic: the callers; by default those of the stack's own gateway.
        patience: seconds after which a step has not happened.
    """

    def __init__(
        self,
        settings: Settings,
        platform: Platform,
        spec: ModelSpec,
        console: Console,
        traffic: Traffic | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.settings, self.platform, self.spec, self.console = settings, platform, spec, console
        self.caller = Caller(spec, *YEAR)
        self.traffic = traffic or Traffic(MODEL, settings.gateway_port, RATE)
        self.patience = patience
        self.steps: list[Step] = []

    def policy(self) -> Policy:
        return self.platform.policies.read(MODEL)

    def land(self, start: date, end: date) -> int:
        """What others do every night: files of these days appear in the landing bucket."""
        from mlops_assets.defs.flight_delay.landing import files_of_batch

        files = files_of_batch(start, end)
        for file in files:
            self.platform.objects.put(file.key, file.data)
        return len(files)

    def ask_about(self, start: date, end: date) -> None:
        """From now on the requests are about flights of these days."""
        self.traffic.play(self.caller.requests(start, end))

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Play one step; when it does not happen the story goes on, and says so at the end."""
        step, began, generation = Step(name), time.monotonic(), self.policy().generation
        self.steps.append(step)
        try:
            yield step
            step.ok = True
        except (MlopsError, TimeoutError, subprocess.SubprocessError) as error:
            step.reason = str(error)
        policy = self.policy()
        changes = [change for change in policy.log if change.generation > generation]
        step.run_ids = list(dict.fromkeys([*step.run_ids, *(change.author.run_id for change in changes if change.author.run_id)]))
        step.releases = list(dict.fromkeys(change.release for change in changes))
        step.weights = dict(policy.weights)
        step.seconds = round(time.monotonic() - began, 1)
        mark = "[green]done[/]" if step.ok else "[red]did not happen[/]"
        self.console.print(f"{mark} {name} ({step.seconds:.0f} s): {step.reason}")

    def wait_for(self, what: str, happened: Callable[[Policy], Change | None], within: float | None = None) -> Change:
        """Watch the policy until a change is found, for ``within`` seconds instead of the story's patience.

        Raises:
            TimeoutError: if it does not come.
        """
        within = within or self.patience
        deadline = time.monotonic() + within
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what)
            while time.monotonic() < deadline:
                policy = self.policy()
                found = happened(policy)
                if found is not None:
                    return found
                progress.update(task, description=f"{what}: {describe(policy)}")
                time.sleep(0.5)
        raise TimeoutError(f"{what} did not happen within {within:.0f} s: {describe(self.policy())}")


def play(stay: bool) -> bool:
    """Play the story on a fresh stack; returns whether every step happened. The stack is stopped at the end."""
    console = Console()
    settings = fresh(Settings.from_environment())
    os.environ.update(ENVIRONMENT)
    stack = Stack(settings)
    # A shell that starts us with '&' has SIGINT ignored; ended either way, the stack goes down with us.
    for ended_by in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ended_by, _interrupt)
    try:
        stack.up(lambda line: console.print(f"[dim]{line}[/]"))
        steps = tell(settings, console)
        well = all(step.ok for step in steps)
        if stay:
            console.print("the stack stays up until Ctrl-C")
            _until_interrupted()
        return well
    finally:
        stack.down(lambda line: console.print(f"[dim]{line}[/]"))


def fresh(settings: Settings) -> Settings:
    """The demo starts from nothing. It clears what an earlier demo left, and nothing else.

    Raises:
        MlopsError: if the home holds something that no demo made.
    """
    home = settings.home
    if home.exists() and any(home.iterdir()):
        if not (home / MARK).exists():
            raise MlopsError(
                f"{home} holds a stack that is not a demo's, and the demo starts from nothing: set MLOPS_HOME to another folder"
            )
        Stack(settings).down()
        shutil.rmtree(home)
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).touch()
    return settings


def tell(settings: Settings, console: Console) -> list[Step]:
    """The five steps of the story, then the report."""
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.definitions import load_specs

    spec = next(spec for spec in load_specs() if spec.name == MODEL)
    story = Story(settings, local_platform(settings), spec, console)
    try:
        first_release(story)
        second_release(story)
        broken_release(story)
        season_turns(story)
        rolled_back_by_hand(story)
    finally:
        story.traffic.stop()
    report(settings, story.platform, spec, story.steps, story.traffic, console)
    document = {"steps": [asdict(step) for step in story.steps], "answers": story.traffic.by_release(), "failed": story.traffic.failed}
    Path(settings.home / "demo.json").write_text(json.dumps(document, indent=1, default=str))
    return story.steps


def first_release(story: Story) -> None:
    with story.step("1. the first weeks land: v1 in production") as step:
        story.land(date(2013, 1, 1), date(2013, 2, 10))
        story.ask_about(date(2013, 2, 24), date(2013, 3, 3))
        story.traffic.start()
        step.reason = story.wait_for("v1 is promoted", _promoted("v1")).author.why


def second_release(story: Story) -> None:
    with story.step("2. more weeks land: v2 through shadow, 5, 25, 50 %") as step:
        story.land(date(2013, 2, 10), date(2013, 3, 5))
        change = story.wait_for("v2 is promoted", _promoted("v2"))
        step.reason = change.author.why
        step.facts["trajectory"] = _trajectory(story.policy(), "v2")
        if [entry["weight"] for entry in step.facts["trajectory"] if entry["action"] in ("begin", "advance", "promote")] != [
            0,
            5,
            25,
            50,
            100,
        ]:
            raise MlopsError(f"v2 did not go through every step: {step.facts['trajectory']}")


def broken_release(story: Story) -> None:
    """Fine offline: AUC does not see calibration. Wrong live: it warns of most flights.

    An engineer wants more recall and trains with ``scale_pos_weight`` 6 from the launchpad. The ranking stays as good, so the gate
    passes; but the scores are no probabilities any more, and the decision threshold of 0.3 means something else.
    """
    from mlops_assets.demo.dagster_ui import materialize

    with story.step("3. a release that is fine offline and wrong live: aborted in canary") as step:
        op = f"{story.spec.slug}_train_and_export"
        assets = [(story.spec.slug, noun) for noun in ("training_set", "model", "onnx_model", "registered_model")]
        config = {
            "ops": {
                op: {"config": {"hyperparameters": {"scale_pos_weight": 6}}},
                f"{story.spec.slug}__training_set": {"config": {"gate": "refresh", "trigger": "manual"}},
            }
        }
        step.run_ids.append(materialize(story.settings, assets, config))
        change = story.wait_for("v3 is aborted", lambda policy: policy.last("v3", "abort", "promote", "refuse"))
        step.reason = change.author.why
        step.facts["trajectory"] = _trajectory(story.policy(), "v3")
        if change.action != "abort":
            raise MlopsError(f"v3 was to be aborted in canary, but: {change.action}, {change.author.why}")


def season_turns(story: Story) -> None:
    with story.step("4. the season turns: drift, and a release for it") as step:
        story.ask_about(date(2013, 4, 24), date(2013, 5, 1))
        step.facts["drift"] = wait_for_drift(story, date(2013, 4, 24))
        story.land(date(2013, 3, 5), date(2013, 5, 1))
        change = story.wait_for("v4 is promoted or refused", lambda policy: policy.last("v4", "promote", "refuse", "abort"))
        step.reason = f"{change.action}: {change.author.why}"
        trigger = story.platform.registry.release(MODEL, "v4").tags.get("trigger")
        step.facts["trigger"] = trigger
        if trigger != "drift" or change.action == "abort":
            raise MlopsError(
                f"v4 was to be trained because of drift, and promoted or refused by its gate; got trigger {trigger}, {step.reason}"
            )


def rolled_back_by_hand(story: Story) -> None:
    from mlops_assets.demo.dagster_ui import materialize

    with story.step("5. the operator rolls back: from the Dagster UI, then with mlops rollback") as step:
        leaving = story.policy().champion
        before = story.policy().generation
        op = f"{story.spec.slug}__rollback"
        config = {"ops": {op: {"config": {"who": "operator (Dagster UI)", "reason": "complaints from the call centre"}}}}
        assets = [(story.spec.slug, "rollback"), (story.spec.slug, "production")]
        step.run_ids.append(materialize(story.settings, assets, config, partition=leaving))
        first = story.wait_for(f"{leaving} is rolled back from the UI", _rolled_back_after(before))
        began = time.monotonic()
        command = [sys.executable, "-m", "mlops_assets", "rollback", MODEL, "--reason", "and that one is no better"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode != 0:
            raise MlopsError(f"mlops rollback failed: {done.stderr.strip()}")
        step.facts["mlops_rollback_seconds"] = round(time.monotonic() - began, 2)
        second = story.wait_for("the second rollback is in force", _rolled_back_after(first.generation), within=5)
        time.sleep(3)
        last = story.traffic.last_answer.get(str(second.left))
        step.facts["last_answer_after_seconds"] = round(last - began, 2) if last else None
        step.reason = f"{first.left} -> {first.release} from the UI, {second.left} -> {second.release} by command"


def wait_for_drift(story: Story, since: date) -> dict[str, float]:
    """Watch the drift reports until one of an hour ``since`` is bad enough to train on; returns the PSI that it found.

    One of before may be as bad, and is the newest no more once there is another.
    """
    from mlops_assets.demo.report import instance_of, latest

    limit, deadline = story.spec.retrain.on_drift_above or 0.0, time.monotonic() + story.patience
    instance = instance_of(story.settings)
    while time.monotonic() < deadline:
        report = latest(instance, story.spec, "drift_report")
        if report is not None and (report.partition or "") >= since.isoformat():
            found = {name: value.value for name, value in report.metadata.items()}
            if found.get("largest_psi", 0.0) > limit:
                return {name: round(value, 2) for name, value in found.items() if name.startswith("psi_") and value > limit}
        time.sleep(1)
    raise TimeoutError(f"no drift report found a PSI above {limit} within {story.patience:.0f} s")


def _promoted(release: str) -> Callable[[Policy], Change | None]:
    def happened(policy: Policy) -> Change | None:
        ended = policy.last(release, "refuse", "abort")
        if ended is not None:
            raise MlopsError(f"{release} was to be promoted, but: {ended.action}, {ended.author.why}")
        return policy.last(release, "promote")

    return happened


def _rolled_back_after(generation: int) -> Callable[[Policy], Change | None]:
    return lambda policy: next((change for change in policy.log if change.generation > generation and change.action == "rollback"), None)


def _trajectory(policy: Policy, release: str) -> list[dict[str, Any]]:
    return [
        {"action": change.action, "step": change.step_name, "weight": change.weight, "mirror": change.mirror, "why": change.author.why}
        for change in policy.log
        if change.release == release
    ]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        return
