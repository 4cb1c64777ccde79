"""What a person is told of, and by what it is known again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from mlops_assets.core.slo import Severity

Cause = Literal[
    "slo-availability",
    "slo-latency",
    "rollback-refused",
    "champion-down",
    "no-traffic",
    "run-failed",
    "release-stuck",
    "drift",
    "performance",
    "stale-data",
    "missing-labels",
    "stale-features",
    "prediction-log-behind",
    "prediction-log-lost",
    "platform-down",
]
"""Each has a section of the same name in ``docs/guides/runbooks.md``. A person is paged once for a model and a cause."""

CAUSES: tuple[str, ...] = get_args(Cause)


@dataclass(frozen=True)
class Alert:
    """Something is wrong with a model.

    Args:
        name: of the kind of alert, in CamelCase as Prometheus has them.
        summary: one sentence for who is woken by it.
        link: where it is looked at.
        labels: what tells it from others of the same model and cause, beside those that every alert has.
    """

    name: str
    model: str
    cause: Cause
    severity: Severity
    summary: str
    link: str = ""
    runbook: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """All labels, by which an alert is known again."""
        every = {"alertname": self.name, "model": self.model, "cause": self.cause, "severity": self.severity, **self.labels}
        return tuple(sorted(every.items()))


@dataclass(frozen=True)
class Firing:
    """An alert that is not over, and since when it is known."""

    alert: Alert
    since: datetime
