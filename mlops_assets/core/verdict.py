"""What a gate, a canary guardrail or a monitor concludes, with the figures that led to it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    PASS = "pass"  # noqa: S105 : an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """One conclusion.

    Args:
        name: the property that was examined, e.g. ``error_rate``.
        outcome: pass, fail, or inconclusive when the data are too few to tell.
        value: the measured figure; ``None`` if it could not be measured.
        threshold: the limit it was held against.
        reason: one sentence for a person.
        sample: how many observations stand behind ``value``.
    """

    name: str
    outcome: Outcome
    value: float | None
    threshold: float | None
    reason: str
    sample: int = 0

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASS

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"outcome": self.outcome.value}


def combine(verdicts: Iterable[Verdict]) -> Outcome:
    """The outcome of several verdicts together: one failure fails, else one inconclusive leaves it open.

    >>> ok = Verdict("auc", Outcome.PASS, 0.7, 0.6, "above the floor")
    >>> few = Verdict("slice", Outcome.INCONCLUSIVE, None, 0.6, "too few rows")
    >>> combine([ok, few]).value
    'inconclusive'

    No verdict at all is no evidence, and so inconclusive too.

    >>> combine([]).value
    'inconclusive'
    """
    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    if outcomes == {Outcome.PASS}:
        return Outcome.PASS
    return Outcome.INCONCLUSIVE
