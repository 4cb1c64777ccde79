"""A legal change of a policy, by compare-and-swap. A rollback needs no more than this, and waits for nothing more (ADR 8)."""

from collections.abc import Callable

from mlops_assets.core.errors import StalePolicy
from mlops_assets.core.policy import Policy
from mlops_assets.ports import Platform

RACES = 5
"""How often a change is tried again when others change the same policy."""


def change(platform: Platform, model: str, apply: Callable[[Policy], Policy]) -> Policy:
    """Apply a legal change to the newest policy and write it by compare-and-swap; returns what is in force.

    Raises:
        IllegalChange: if the newest policy does not allow it.
        StalePolicy: if others were faster every time.
    """
    for attempt in range(RACES):
        policy = platform.policies.read(model)
        changed = apply(policy)
        if changed == policy:
            return policy
        try:
            platform.policies.write(changed, policy.generation)
            return changed
        except StalePolicy:
            if attempt == RACES - 1:
                raise
    raise AssertionError("unreachable")


def change_at(platform: Platform, model: str, expected_generation: int, apply: Callable[[Policy], Policy]) -> Policy:
    """Like :func:`change`, but only if nobody has changed the policy since it was of ``expected_generation``.

    Raises:
        StalePolicy: if somebody has.
    """
    policy = platform.policies.read(model)
    if policy.generation != expected_generation:
        raise StalePolicy(f"{model}: the policy is of generation {policy.generation}, this was decided at {expected_generation}")
    changed = apply(policy)
    platform.policies.write(changed, expected_generation)
    return changed
