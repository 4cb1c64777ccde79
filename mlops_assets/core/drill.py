"""Whether the release before the champion would be back in time: what a rollback drill is, and what it concludes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from mlops_assets.core.errors import SpecError
from mlops_assets.core.verdict import Outcome, Verdict


@dataclass(frozen=True)
class Drill:
    """How soon the previous release must be able to answer again, from the moment that a rollback is asked for. It is tried once a day."""

    objective: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if self.objective <= timedelta(0):
            raise SpecError(f"drill.objective: got {self.objective}, expected longer than nothing, e.g. '5m'")


@dataclass(frozen=True)
class Part:
    """A part of coming back, and how many seconds it took."""

    name: str
    seconds: float


def comes_back(objective: timedelta, release: str | None, parts: Sequence[Part], trouble: str | None) -> Verdict:
    """Whether a release came back within its objective.

    Args:
        release: the one before the champion; None if there is none.
        parts: what was done of it, in order.
        trouble: why it went no further, if it did not.

    >>> comes_back(timedelta(minutes=5), "v1", [Part("ready", 1.5), Part("route", 0.25)], None).reason
    'v1 came back in 1.8 s (ready 1.5, route 0.2), the objective is 300 s'
    """
    limit, seconds = objective.total_seconds(), sum(part.seconds for part in parts)
    if release is None:
        return Verdict("comes_back", Outcome.INCONCLUSIVE, None, limit, "there is no release before the champion to go back to")
    told = ", ".join(f"{part.name} {part.seconds:.1f}" for part in parts)
    if trouble is not None:
        return Verdict("comes_back", Outcome.FAIL, seconds, limit, f"{release} did not come back: {trouble}", len(parts))
    outcome = Outcome.PASS if seconds <= limit else Outcome.FAIL
    return Verdict(
        "comes_back", outcome, seconds, limit, f"{release} came back in {seconds:.1f} s ({told}), the objective is {limit:g} s", len(parts)
    )


def drill_hour(model: str) -> int:
    """The hour of the day at which a model is drilled: its own, so that a thousand models do not start their releases at once.

    >>> drill_hour("flight-delay"), drill_hour("fraud-detector")
    (22, 23)
    """
    return int.from_bytes(hashlib.sha256(model.encode()).digest()[:4], "big") % 24
