"""What a model's ``defs.yaml`` says of how it is watched, and when it is trained again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from mlops_assets.core.gate_spec import GatePolicy
from mlops_assets.core.spec_checks import require

DriftPolicy = Literal["fixed", "calibrated"]


@dataclass(frozen=True)
class Drift:
    """The served features and scores of the last ``window`` (event time) against the training baseline.

    A report is made ``every`` so often while there is traffic; drift asks for one training a ``cooldown``, which doubles with each one in a
    row that came to nothing.

    Policy ``fixed``: a PSI above ``max_psi`` has drifted. ``calibrated``: a PSI has drifted that windows of the baseline itself have so
    seldom that without drift at most a share ``alpha`` of the reports names any feature. It needs six days of training data, or six windows
    where those are shorter, and a window no longer than the training data; of a window longer than a sixth of them it asks that its
    sixths stray independently.
    """

    window: timedelta = timedelta(days=1)
    policy: DriftPolicy = "fixed"
    max_psi: float = 0.2
    alpha: float = 0.05
    min_rows: int = 200
    every: timedelta = timedelta(hours=1)
    cooldown: timedelta = timedelta(hours=6)
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.window > timedelta(0), "drift.window: must be longer than nothing, e.g. '1d'")
        require(self.max_psi > 0, f"drift.max_psi: got {self.max_psi}, expected a PSI above 0, e.g. 0.2")
        require(0 < self.alpha < 0.5, f"drift.alpha: got {self.alpha}, expected a share of false alarms between 0 and 0.5, e.g. 0.05")
        require(self.min_rows > 0, "drift.min_rows: must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class LivePerformance:
    """What the champion must be worth once labels are in: its AUC on what it answered in the last ``window`` of event time that is due.

    At least ``floor``; without one, at least what it had on its holdout less ``margin``. It has failed when it is shown to be below,
    wrongly 1 - ``confidence`` of the time at most; with fewer than ``min_positives`` of either outcome nothing is concluded.
    """

    window: timedelta = timedelta(days=7)
    floor: float | None = None
    margin: float = 0.05
    confidence: float = 0.95
    min_positives: int = 50

    def __post_init__(self) -> None:
        require(self.window >= timedelta(hours=1), "performance.window: must be an hour at least, e.g. '7d'")
        require(self.floor is None or 0 < self.floor < 1, f"performance.floor: got {self.floor}, expected an AUC between 0 and 1")
        require(self.margin >= 0, "performance.margin: must not be negative")
        require(0.5 < self.confidence < 1, f"performance.confidence: got {self.confidence}, expected between 0.5 and 1, e.g. 0.95")
        require(self.min_positives > 0, "performance.min_positives: must be at least 1; no data is never a pass")


@dataclass(frozen=True)
class Retrain:
    """When a new release is trained, and under which gate policy it is judged.

    The first is trained when ``first_after`` lies before the holdout. Drift trains again when the PSI of some watched feature is above
    ``on_drift_above``, which may be more than the PSI at which a report fails: weather always drifts. ``None`` never trains on drift, and
    so does a week in which it has trained ``max_per_week`` times.
    """

    first_after: timedelta = timedelta(days=28)
    after_days: int | None = None
    after_days_gate: GatePolicy = "refresh"
    on_drift_above: float | None = 0.2
    on_drift_gate: GatePolicy = "refresh"
    max_per_week: int = 3
    schedule: str | None = None

    def __post_init__(self) -> None:
        require(self.after_days is None or self.after_days > 0, "retrain.after_days: a positive number of days of data")
        require(
            self.max_per_week > 0, f"retrain.max_per_week: got {self.max_per_week}, expected at least 1; on_drift_above: null never trains"
        )
