"""What ``slo`` of a model's ``defs.yaml`` says: how well it is to answer, and what happens when it does not."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from mlops_assets.core.evidence import LATENCY_BOUNDS_MS
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT
from mlops_assets.core.spec_checks import require

OnSloViolation = Literal["page", "rollback"]

MONTH = timedelta(days=30)
"""The window for which the SRE workbook gives its burn rates."""


@dataclass(frozen=True)
class Slo:
    """The objectives of what a model answers in production, over ``window``.

    ``availability`` is the share of requests with an answer other than a 5xx. ``latency_share`` is that of the requests answered within
    ``latency``, which is one of the bounds by which gateways count: what lies between two of them is not known.

    Nothing is concluded from fewer than ``min_requests`` in the longer window of a burn rate. A fast burn of the champion pages a person
    or rolls it back (``on_slo_violation``). It is rolled back to the release before it, no sooner than ``rollback_cooldown`` after the
    last rollback and at most ``max_rollbacks`` times in 24 hours: beyond that whatever is wrong is not the release.
    """

    availability: float = 0.999
    latency: timedelta = timedelta(milliseconds=500)
    latency_share: float = 0.99
    window: timedelta = MONTH
    min_requests: int = 100
    on_slo_violation: OnSloViolation = "page"
    rollback_cooldown: timedelta = timedelta(hours=1)
    max_rollbacks: int = 2

    def __post_init__(self) -> None:
        for name in ("availability", "latency_share"):
            got = getattr(self, name)
            require(0 < got < 1, f"slo.{name}: got {got}, expected a share between 0 and 1, e.g. 0.999: one of 1 leaves nothing to burn")
        bounds = [bound for bound in LATENCY_BOUNDS_MS if bound < GATEWAY_TIMEOUT.total_seconds() * 1000]
        require(
            self.latency_ms in bounds,
            f"slo.latency: got {self.latency_ms:g} ms, expected one of the bounds by which gateways count, in ms: "
            f"{', '.join(f'{bound:g}' for bound in bounds)}",
        )
        require(
            timedelta(hours=1) <= self.window <= timedelta(days=90),
            f"slo.window: got {self.window}, expected 1h to 90d, e.g. '30d' or '7d'",
        )
        require(self.min_requests > 0, "slo.min_requests: must be at least 1; no data is never a pass")
        require(
            self.on_slo_violation in get_args(OnSloViolation),
            f"slo.on_slo_violation: got {self.on_slo_violation!r}, expected {' or '.join(get_args(OnSloViolation))}",
        )
        require(self.rollback_cooldown > timedelta(0), "slo.rollback_cooldown: must be longer than nothing, e.g. '1h'")
        require(self.max_rollbacks > 0, "slo.max_rollbacks: must be at least 1; on_slo_violation: page allows none")

    @property
    def latency_ms(self) -> float:
        return self.latency / timedelta(milliseconds=1)
