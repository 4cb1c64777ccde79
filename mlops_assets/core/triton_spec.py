"""What ``triton`` of a model's ``defs.yaml`` says."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from mlops_assets.core.spec_checks import require

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Triton:
    """How NVIDIA's Triton runs a release of the model, where that is what serves it.

    Args:
        max_batch: the most rows that it scores at once.
        max_queue_delay: how long a row may wait for others to be scored with it. 0: none waits, and what has queued is scored together.
        instances: copies of the model that score at the same time; on ``gpu`` so many on each.
        device: where they do.
    """

    max_batch: int = 64
    max_queue_delay: timedelta = timedelta(0)
    instances: int = 1
    device: Device = "cpu"

    def __post_init__(self) -> None:
        for name in ("max_batch", "instances"):
            require(getattr(self, name) >= 1, f"triton.{name}: got {getattr(self, name)}, expected at least 1")
        require(
            timedelta(0) <= self.max_queue_delay < timedelta(seconds=1),
            f"triton.max_queue_delay: got {self.max_queue_delay.total_seconds():g} s, expected 0 to less than a second, e.g. '0.5ms'",
        )
        require(self.device in get_args(Device), f"triton.device: got {self.device!r}, expected cpu or gpu")
