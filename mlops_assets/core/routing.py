"""Which release answers which unit: the policy's weights as intervals of a hash space.

A gateway hashes the unit to a point of ``[0, 100)``. The challenger owns one interval that starts at an offset of its own and
only grows, so that a unit which once saw the challenger keeps seeing it (sticky and monotone), and challengers that follow
each other are not tried on the same units. The champion owns what lies before and after it.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from mlops_assets.core.policy import Mirror, Policy, release_number

_PLACES, _STRIDE = 51, 31
_DRILL = ".drill"


@dataclass(frozen=True)
class Share:
    """``release`` answers the units that hash into ``[start, end)`` percent."""

    release: str
    start: int
    end: int


@dataclass(frozen=True)
class Route:
    """All that a gateway must know of one model."""

    model: str
    generation: int
    shares: tuple[Share, ...]
    mirror: Mirror | None
    endpoints: dict[str, str]


def offset(model: str, release: str) -> int:
    """Where the challenger's interval starts: 0 to 50, so that a share of up to 50 % never wraps.

    51 releases in a row have different offsets, and five in a row lie at least 9 apart: their 5 % are of different units.

    >>> [offset("flight-delay", f"v{number}") for number in range(1, 6)]
    [17, 48, 28, 8, 39]
    """
    # The stride has no divisor in common with the places, and is near the golden section of them, which spreads neighbours far.
    start = int.from_bytes(hashlib.sha256(model.encode()).digest()[:4], "big")
    return (start + _STRIDE * release_number(release)) % _PLACES


def shares(policy: Policy) -> tuple[Share, ...]:
    """The intervals of a policy, in order, covering all of ``[0, 100)``; empty if nothing is live.

    With v1 at 95, v2 at 5 and an offset of 20: v1 ``[0, 20)``, v2 ``[20, 25)``, v1 ``[25, 100)``.
    """
    weights = {release: weight for release, weight in policy.weights.items() if weight > 0}
    if len(weights) < 2:
        return tuple(Share(release, 0, 100) for release in weights)
    assert policy.challenger is not None
    assert policy.champion is not None
    challenger, champion = policy.challenger.release, policy.champion
    start = offset(policy.model, challenger)
    end = start + weights[challenger]
    parts = (Share(champion, 0, start), Share(challenger, start, end), Share(champion, end, 100))
    return tuple(part for part in parts if part.start < part.end)


def route(policy: Policy, endpoints: dict[str, str], now: datetime) -> Route:
    """The policy as a route. ``endpoints`` are the ``host:port`` of the releases that run; only live ones are kept."""
    live = policy.live_releases(now)
    kept = {release: address for release, address in sorted(endpoints.items()) if release in live}
    return Route(policy.model, policy.generation, shares(policy), policy.mirror, kept)


def drill_of(model: str) -> str:
    """The name under which the rollback drill routes: no model can have it, so nobody asks there.

    >>> drill_of("flight-delay")
    'flight-delay.drill'
    """
    return f"{model}{_DRILL}"


def drilled_by(name: str) -> str | None:
    """The model whose drill a route's name is of; None if it is a model's own.

    >>> drilled_by("flight-delay.drill"), drilled_by("flight-delay")
    ('flight-delay', None)
    """
    return name.removesuffix(_DRILL) if name.endswith(_DRILL) else None
