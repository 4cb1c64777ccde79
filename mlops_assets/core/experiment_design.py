"""What is declared of an experiment before it starts. Its hash is written down then, so that nobody chooses the metric afterwards."""

import hashlib
import json
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from typing import Any, Literal

from mlops_assets.core.experiment_groups import Spending
from mlops_assets.core.spec_checks import require

Kind = Literal["proportion", "mean", "ratio"]
Better = Literal["higher", "lower"]
Method = Literal["always-valid", "group-sequential", "bayesian", "fixed"]


@dataclass(frozen=True)
class Metric:
    """What is measured of each unit. ``adjusted``: a mean that is freed of the units' own value before the start (CUPED)."""

    name: str
    kind: Kind
    better: Better = "higher"
    adjusted: bool = False

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name: got nothing, expected the name of a metric, e.g. conversion")
        require(not self.adjusted or self.kind == "mean", f"{self.name}: only a mean is adjusted, got a {self.kind}: leave adjusted out")


@dataclass(frozen=True)
class Guardrail:
    """A metric that must not be worse than the control's by more than ``margin``, in its own unit."""

    name: str
    kind: Kind
    margin: float
    better: Better = "lower"
    adjusted: bool = False

    def __post_init__(self) -> None:
        require(0 <= self.margin < float("inf"), f"{self.name}: got a margin of {self.margin}, expected 0 or more, in the metric's unit")
        self.metric  # noqa: B018 : what holds of every metric

    @property
    def metric(self) -> Metric:
        return Metric(self.name, self.kind, self.better, self.adjusted)


@dataclass(frozen=True)
class Design:
    """One treatment against one control.

    Args:
        units: how many are planned in both together; at that number the experiment ends.
        treatment_share: of the units.
        alpha: how often a difference may be claimed where there is none, two-sided.
        min_effect: by how much the treatment must be better to be shipped.
        cycle: a full business cycle; before it is over nothing is shipped.
        method: ``always-valid`` may be looked at any time, ``group-sequential`` at a few looks, ``fixed`` once, at the end; ``bayesian``
            asks for a probability and an expected loss, and states no rate of errors.
        max_loss: ``bayesian``: the expected loss, in the metric's unit, that one does not care about.
    """

    name: str
    success: Metric
    units: int
    guardrails: tuple[Guardrail, ...] = ()
    treatment_share: float = 0.5
    alpha: float = 0.05
    min_effect: float = 0.0
    cycle: timedelta = timedelta(days=7)
    method: Method = "always-valid"
    spending: Spending = "obrien-fleming"
    max_loss: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.treatment_share < 1, f"treatment_share: got {self.treatment_share}, expected between 0 and 1, e.g. 0.5")
        require(
            min(self.planned) >= 2, f"units: got {self.units}, expected two in each variant at least: 'mlops experiment size' says how many"
        )
        require(0 < self.alpha < 0.5, f"alpha: got {self.alpha}, expected between 0 and 0.5, e.g. 0.05")
        require(
            0 <= self.min_effect < float("inf"),
            f"min_effect: got {self.min_effect}, expected 0 or more: how much better, not in which direction",
        )
        require(self.cycle > timedelta(0), "cycle: must be longer than nothing, e.g. '7d'")
        names = [self.success.name, *(guardrail.name for guardrail in self.guardrails)]
        require(len(set(names)) == len(names), f"guardrails: each metric once, got {', '.join(names)}")
        bayesian = self.method == "bayesian"
        require(
            bayesian == (self.max_loss > 0),
            f"max_loss: got {self.max_loss} with method {self.method!r}: above 0 for bayesian, and only there",
        )
        require(not (bayesian and self.min_effect), "min_effect: bayesian weighs the loss instead, leave it out")

    @property
    def planned(self) -> tuple[int, int]:
        """Units of control and treatment at the end."""
        treated = round(self.units * self.treatment_share)
        return self.units - treated, treated

    @property
    def digest(self) -> str:
        """The sha256 of all that is declared; the same whether a number was written 2 or 2.0.

        >>> success = Metric("revenue", "mean")
        >>> Design("checkout", success, 1000, min_effect=2).digest == Design("checkout", success, 1000, min_effect=2.0).digest
        True
        """
        return hashlib.sha256(json.dumps({"design": 1, **_plain(self)}, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        declared = {field.name: (field.type, getattr(value, field.name)) for field in fields(value)}
        return {name: float(given) if kind is float else _plain(given) for name, (kind, given) in declared.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.total_seconds() if isinstance(value, timedelta) else value
