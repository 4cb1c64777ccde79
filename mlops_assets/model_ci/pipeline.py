"""The steps from a commit to a staged deployment, one after the other, on a stack of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlops_assets import credentials
from mlops_assets.adapters.local import local_platform
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.gate_spec import GatePolicy
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import release_number
from mlops_assets.model_ci import champion
from mlops_assets.model_ci.changed import ROOT, git, model_tests
from mlops_assets.model_ci.summary import Step, Summary
from mlops_assets.ports import Platform
from mlops_assets.reconcile import reconcile
from mlops_assets.schedules import TRAINING_NOUNS
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_services import GATEWAY, MLFLOW, S3

SERVICES = (S3, MLFLOW, GATEWAY)
"""What of a stack it needs: runs are made in processes of their own, and nothing looks by itself."""

CHECKS: Sequence[Sequence[str]] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("dg", "check", "defs"),
)
LINES_OF_OUTPUT = 12
DRIVER = Path(__file__).with_name("materialize.py")


class Failed(MlopsError):
    """A step did not pass; the message is what a person needs to know of it."""


@dataclass
class ModelCi:
    """One model's CI.

    Args:
        spec: what is declared of the model in this tree.
        settings: home and ports of the stack of its own.
        base: the commit before the change, whose model is the champion where no production is within reach.
        gate: the policy by which the new model is held against the champion.
        production: where the champion and the data are; None if there is none.
        tell: is told each step.
    """

    spec: ModelSpec
    settings: Settings
    base: str
    gate: GatePolicy
    production: Platform | None
    tell: Callable[[str], None] = print
    steps: list[Step] = field(default_factory=list)
    held_against: str = "no champion"
    release: str | None = None
    certificate: str = ""
    _answer: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Summary:
        """Go from step to step until one fails."""
        going = True
        for name, step in self._plan():
            going = self._take(name, step) if going else self._leave_out(name)
        return Summary(self.spec.name, self._commit(), self.release, self.held_against, self.steps, self.certificate)

    def _plan(self) -> Sequence[tuple[str, Callable[[], str]]]:
        return (
            *((" ".join(command), lambda command=command: self._check(*command)) for command in CHECKS),
            ("tests of the model", self._test),
            ("stack", self._start_stack),
            ("data", self._land),
            ("champion", self._find_champion),
            ("training", self._train),
            ("evaluation", self._evaluate),
            ("staging", self._stage),
        )

    def _take(self, name: str, step: Callable[[], str]) -> bool:
        began = time.monotonic()
        try:
            outcome, reason = "pass", step()
        except MlopsError as error:
            outcome, reason = "fail", str(error)
        self.steps.append(Step(name, outcome, round(time.monotonic() - began, 1), reason))  # type: ignore[arg-type]
        self.tell(f"{outcome}  {name} ({self.steps[-1].seconds:.0f} s): {reason}")
        return outcome == "pass"

    def _leave_out(self, name: str) -> bool:
        self.steps.append(Step(name, "not run"))
        return False

    def _check(self, tool: str, *arguments: str) -> str:
        return _run([str(Path(sys.executable).with_name(tool)), *arguments], ROOT, os.environ)

    def _test(self) -> str:
        files = model_tests(self.spec)
        if not files:
            return f"no test imports mlops_assets.defs.{self.spec.slug}: write one"
        names = [str(path.relative_to(ROOT)) for path in files]
        return _run([sys.executable, "-m", "pytest", "--no-header", *names], ROOT, os.environ)

    def _start_stack(self) -> str:
        Stack(self.settings, SERVICES).up()
        return f"S3, MLflow and Envoy in {self.settings.home.name}"

    def _land(self) -> str:
        if champion.champion_of(self.production, self.spec.name) is not None:
            return f"{champion.copy_data(self._production, self._own, self.spec)} files copied from production"
        return f"{champion.land_sample(self._own, self.spec)} files of sample data: no champion of a production is within reach"

    def _find_champion(self) -> str:
        known = champion.champion_of(self.production, self.spec.name)
        if known is not None:
            release = champion.copy_release(self._production, self._own, known)
            self.held_against = f"production's {known.release} (here {release})"
        else:
            release = self._train_in(self._tree_of_base())
            self.held_against = f"what the commit {self.base[:12]} trains (here {release})"
        champion.crown(self._own, self.spec, release)
        reconcile(self._own, self.spec.name, self.spec.serving)
        return f"{self.held_against}; it serves on {self.settings.gateway_url}"

    def _train(self) -> str:
        self.release = self._train_in(ROOT)
        metrics = self._own.registry.release(self.spec.name, self.release)
        return f"{self.release} of {self.spec.name}, sha256 {metrics.digest[:12]}"

    def _evaluate(self) -> str:
        # evaluation and staging in one run, as in production: a blocking check between them surely stops the second
        self._answer = self._materialize(ROOT, ("evaluation", "staging"), partition=self.release)
        key = f"evidence/{self.spec.name}/{self.release}/certificate.md"
        self.certificate = self._own.objects.get(key).decode()
        self._require("evaluation.quality_gate")
        return f"by policy {self.gate}; the certificate is below"

    def _stage(self) -> str:
        self._require("staging.smoke_test")
        deployment = next(one for one in self._own.deployments.running(self.spec.name) if one.release == self.release)
        accepted = self._own.policies.read(self.spec.name).last(str(self.release), "accept")
        return f"{self.release} on {deployment.endpoint}: {accepted.author.why if accepted else 'accepted'}"

    def _train_in(self, tree: Path) -> str:
        """Train with the code of a tree; returns the release."""
        days = champion.landed_days(self._own, self.spec.name)
        nouns = (*self.spec.data.datasets, "features")
        self._succeed(self._materialize(tree, nouns, first=min(days.values()).isoformat(), last=max(days.values()).isoformat()))
        asked = {"training_set": {"gate": self.gate, "trigger": "manual", "cause": f"model-ci of {self._commit()[:12]}"}}
        self._succeed(self._materialize(tree, TRAINING_NOUNS, config=asked))
        return max(self._own.policies.read(self.spec.name).digests, key=release_number)

    def _materialize(self, tree: Path, nouns: Sequence[str], **asked: Any) -> Mapping[str, Any]:
        command = [sys.executable, "-", json.dumps({"model": self.spec.name, "nouns": list(nouns), **asked})]
        with (self.settings.home / "logs" / "runs.log").open("ab") as log:
            done = subprocess.run(
                command, input=DRIVER.read_bytes(), stdout=subprocess.PIPE, stderr=log, cwd=tree, env=self._environment(tree), check=False
            )
        if done.returncode != 0:
            raise Failed(f"the run of {', '.join(nouns)} ended with {done.returncode}, expected 0: see {log.name}")
        answer: Mapping[str, Any] = json.loads(done.stdout.decode().strip().rpartition("\n")[2])
        return answer

    def _succeed(self, answer: Mapping[str, Any]) -> None:
        if not answer["success"] or answer["failed"]:
            raise Failed("; ".join([*answer["failed"], *answer["errors"]]) or f"the run failed: see {self.settings.home}/logs/runs.log")

    def _require(self, check: str) -> None:
        if not self._answer["checks"].get(check):
            raise Failed("; ".join([*self._answer["failed"], *self._answer["errors"]]) or f"{check} was not evaluated")

    def _tree_of_base(self) -> Path:
        tree = self.settings.home / "base"
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", self.base], capture_output=True, check=False)
        if archive.returncode != 0:
            raise Failed(f"git archive {self.base}: {archive.stderr.decode().strip()}")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(tree, filter="data")
        return tree

    def _environment(self, tree: Path) -> Mapping[str, str]:
        told = {"MLOPS_HOME": str(self.settings.home), "MLOPS_BASE_PORT": str(self.settings.base_port), "PYTHONPATH": str(tree)}
        told |= {"DAGSTER_HOME": str(self.settings.dagster_home), "MLOPS_COMMIT": self.base if tree != ROOT else self._commit()}
        return os.environ | credentials.read(self.settings.home).environment() | told

    def _commit(self) -> str:
        return git(ROOT, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty").strip()

    @property
    def _own(self) -> Platform:
        return local_platform(self.settings)

    @property
    def _production(self) -> Platform:
        assert self.production is not None
        return self.production


def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> str:
    """The last line that a command prints; :class:`Failed` with its last lines if it fails."""
    done = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        raise Failed("\n".join(lines[-LINES_OF_OUTPUT:]))
    return lines[-1] if lines else ""
