"""Training-serving skew: whether what a release was given is what a training would see of the same moment.

Zinkevich, *Rules of Machine Learning* (Google), rules 29 and 37: log the features at serving time, and compare them with those at training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isclose
from typing import Any

import numpy as np

from mlops_assets.core.verdict import Outcome, Verdict

MIN_ROWS = 20
"""With fewer, not even a feature that is wrong in one row of seven would be seen (95 %)."""

_TOLERANCE = 1e-6
"""Relative: of floats that were computed in another order."""


@dataclass(frozen=True)
class FeatureSkew:
    """How one feature was served, against how it is computed again.

    Args:
        name: the feature.
        rows: how many were compared.
        differing: in how many the two are not the same; a value against nothing is not.
        largest: the largest difference of two numbers, infinite if a value stands against nothing or strings differ.
        example: the place of a row in which they differ most, if any.
    """

    name: str
    rows: int
    differing: int
    largest: float
    example: int | None


def compare(served: Mapping[str, Sequence[Any]], computed: Mapping[str, Sequence[Any]]) -> tuple[FeatureSkew, ...]:
    """Each feature's rows as they were served beside the same rows computed again; those that differ most often first.

    >>> compare({"wind": [1.0, None, 3.0]}, {"wind": [1.0, 2.0, 3.5]})
    (FeatureSkew(name='wind', rows=3, differing=2, largest=inf, example=1),)
    """
    found = []
    for name, given in served.items():
        apart = [_apart(one, other) for one, other in zip(given, computed[name], strict=True)]
        differing = sum(distance > 0 for distance in apart)
        example = int(np.argmax(apart)) if differing else None
        found.append(FeatureSkew(name, len(apart), differing, max(apart, default=0.0), example))
    return tuple(sorted(found, key=lambda skew: -skew.differing))


def judge(skews: Sequence[FeatureSkew]) -> Verdict:
    """No row of any feature may differ: there is no noise in computing the same twice."""
    rows = max((skew.rows for skew in skews), default=0)
    differing = [skew for skew in skews if skew.differing]
    worst = max((skew.differing / skew.rows for skew in differing), default=0.0)
    if differing:
        told = ", ".join(f"{skew.name} in {skew.differing} of {skew.rows}" for skew in differing[:5])
        return Verdict("training_serving_skew", Outcome.FAIL, worst, 0.0, f"served otherwise than computed again: {told}", rows)
    if rows < MIN_ROWS:
        reason = f"{rows} served rows could be computed again, at least {MIN_ROWS} are needed"
        return Verdict("training_serving_skew", Outcome.INCONCLUSIVE, worst if rows else None, 0.0, reason, rows)
    return Verdict("training_serving_skew", Outcome.PASS, 0.0, 0.0, f"{len(skews)} features of {rows} rows are as computed again", rows)


def _apart(one: Any, other: Any) -> float:
    missing = _is_missing(one), _is_missing(other)
    if any(missing):
        return 0.0 if all(missing) else inf
    if isinstance(one, str) or isinstance(other, str):
        return 0.0 if one == other else inf
    return 0.0 if isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12) else abs(float(one) - float(other))


def _is_missing(value: Any) -> bool:
    return value is None or value != value
