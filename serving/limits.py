"""How much a release takes on at once, and what it says when that is too much."""

from __future__ import annotations

import math

from mlops_assets.core.errors import MlopsError

MAX_BODY_BYTES = 16 * 2**20
MAX_BYTES_AT_ONCE = 128 * 2**20
"""All bodies that are under way together."""

MAX_REQUESTS_AT_ONCE = 4096
BODY_SECONDS = 10.0
"""How long a body may take to arrive."""


class Overloaded(MlopsError):
    """The answer would come too late, or there is no room for the question. ``retry_after`` is in whole seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: try again later, or start more replicas of the release")
        self.retry_after = max(1, min(60, math.ceil(wait)))


class NoRoom(Overloaded):
    """There is no room for the body, which is still being sent."""


class TooSlow(MlopsError):
    """The body did not arrive in time."""
