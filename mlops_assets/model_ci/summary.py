"""What became of a model's CI, for programs (JSON) and for people (the comment on a pull request)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "not run"]
_MARKS = {"pass": "✅", "fail": "❌", "not run": "–"}


@dataclass(frozen=True)
class Step:
    """One step: its outcome, how long it took, and what a person should know of it."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """All of it.

    Args:
        model: its name.
        commit: that was tried, with ``-dirty`` if the tree differs from it.
        release: under which the new model is known on the stack of its own; None if it was not trained.
        champion: what it was held against, in words.
        steps: in their order; those after a failure were not run.
        certificate: the evaluation's page, in markdown; empty if there is none.
    """

    model: str
    commit: str
    release: str | None
    champion: str
    steps: Sequence[Step]
    certificate: str = ""

    @property
    def passed(self) -> bool:
        return all(step.outcome == "pass" for step in self.steps)

    @property
    def seconds(self) -> float:
        return round(sum(step.seconds for step in self.steps), 1)

    def to_json(self) -> str:
        return json.dumps({"passed": self.passed, "seconds": self.seconds, **asdict(self)}, indent=1)

    def to_markdown(self) -> str:
        """The comment: steps first, then the certificate.

        >>> print(Summary("m", "c0ffee", None, "none", [Step("checks", "fail", 2.0, "ruff: 1 error")]).to_markdown())
        ## ❌ m at `c0ffee`: fail
        <BLANKLINE>
        Held against: none. 2 s.
        <BLANKLINE>
        | step | | seconds | |
        |---|---|---|---|
        | checks | ❌ | 2 | ruff: 1 error |
        <BLANKLINE>
        """
        outcome: Outcome = "pass" if self.passed else "fail"
        lines = [f"## {_MARKS[outcome]} {self.model} at `{self.commit[:12]}`: {outcome}", ""]
        lines += [f"Held against: {self.champion}. {self.seconds:.0f} s.", "", "| step | | seconds | |", "|---|---|---|---|"]
        lines += [f"| {s.name} | {_MARKS[s.outcome]} | {s.seconds:.0f} | {_one_line(s.reason)} |" for s in self.steps]
        nested = self.certificate.replace("\n# ", "\n### ").removeprefix("# ")
        return "\n".join([*lines, "", *([f"### {nested}"] if nested else [])])


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())[:500]
