"""What ``gates`` of a model's ``defs.yaml`` says."""

from dataclasses import dataclass, field
from typing import Literal

from mlops_assets.core.spec_checks import require

GatePolicy = Literal["improve", "observed", "refresh"]
MetricName = Literal["auc", "average_precision", "log_loss", "brier", "ece", "cost"]
Blocks = Literal["none", "day", "unit"]


@dataclass(frozen=True)
class Slice:
    """A part of the holdout that has a floor of its own: the rows where ``column`` equals ``value``."""

    column: str
    value: str
    floor: float

    def __post_init__(self) -> None:
        require(0 <= self.floor < 1, f"gates.slices: {self.name} has floor {self.floor}, expected an AUC of 0 to 1")

    @property
    def name(self) -> str:
        """What the slice is called in verdicts and where its rows are kept."""
        return f"{self.column}={self.value}"


@dataclass(frozen=True)
class Costs:
    """What a wrong decision costs, in a unit of your own: a yes that should be a no, and a no that should be a yes."""

    false_yes: float = 1.0
    false_no: float = 1.0

    def __post_init__(self) -> None:
        require(
            self.false_yes >= 0 and self.false_no >= 0 and self.false_yes + self.false_no > 0,
            f"gates.costs: got {self.false_yes} and {self.false_no}, expected costs from 0 up, one of them above 0",
        )


@dataclass(frozen=True)
class Gates:
    """What a challenger must show on the holdout.

    Args:
        floor: the least AUC, always asked.
        default: the policy by which it is held against the champion. ``improve``: the lower confidence bound of the uplift is at least
            ``min_uplift``. ``observed``: the uplift itself is. ``refresh``: the lower bound is at least ``-margin``.
        min_uplift, margin: in the unit of ``metric``; an uplift is an improvement, also where less is better.
        confidence: 1 - ``confidence`` is the most often that a release which is not good enough gets through, over all the challengers
            that one holdout judges.
        slices: parts with a floor of their own. One fails when it is shown to be below, all of them together wrongly 1 - ``confidence``
            of the time at most.
        metric: what is compared.
        costs: for metric ``cost``, at the label's ``decision_threshold``.
        blocks: rows of the same ``day``, or of the same ``unit``, depend on each other; the interval then comes from whole blocks.
        target_uplift: a true uplift that the holdout should be able to see under ``improve``; by default ``min_uplift`` + 0.01.
        min_power: how often it should see it, or under ``refresh`` an equal model. A holdout that could not is called too small.
        max_looks: how many challengers one holdout may judge.
        max_ece: the most expected calibration error.
        max_model_bytes: the most bytes of the model file.
        max_latency_ms: the most milliseconds for one row, at the 95th percentile, on the machine that evaluates.
    """

    floor: float
    default: GatePolicy = "improve"
    min_uplift: float = 0.005
    margin: float = 0.01
    confidence: float = 0.95
    slices: tuple[Slice, ...] = ()
    metric: MetricName = "auc"
    costs: Costs = field(default_factory=Costs)
    blocks: Blocks = "none"
    target_uplift: float | None = None
    min_power: float = 0.5
    max_looks: int = 10
    max_ece: float | None = None
    max_model_bytes: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.floor < 1, f"gates.floor: got {self.floor}, expected an AUC of 0 to 1")
        require(0.5 < self.confidence < 1, f"gates.confidence: got {self.confidence}, expected between 0.5 and 1, e.g. 0.95")
        require(self.min_uplift >= 0, "gates.min_uplift: must not be negative; to allow a loss use policy 'refresh' with a margin")
        require(self.margin >= 0, "gates.margin: must not be negative")
        require(
            self.wanted_uplift > self.min_uplift,
            f"gates.target_uplift: got {self.target_uplift}, expected more than min_uplift {self.min_uplift}",
        )
        require(0 < self.min_power < 1, f"gates.min_power: got {self.min_power}, expected a share between 0 and 1, e.g. 0.5")
        require(self.max_looks > 0, f"gates.max_looks: got {self.max_looks}, expected at least 1")
        require(self.max_ece is None or 0 < self.max_ece < 1, f"gates.max_ece: got {self.max_ece}, expected between 0 and 1, e.g. 0.05")
        for name in ("max_model_bytes", "max_latency_ms"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"gates.{name}: got {limit}, expected more than 0, or leave it out")

    @property
    def alpha(self) -> float:
        """How often, at most, a release that is not good enough gets through."""
        return 1 - self.confidence

    @property
    def wanted_uplift(self) -> float:
        return self.min_uplift + 0.01 if self.target_uplift is None else self.target_uplift

    def border(self, policy: GatePolicy) -> float:
        """The uplift that a release must have at least."""
        return -self.margin if policy == "refresh" else self.min_uplift

    def hoped_for(self, policy: GatePolicy) -> float:
        """The true uplift that a holdout should be able to tell from the border."""
        return 0.0 if policy == "refresh" else self.wanted_uplift
