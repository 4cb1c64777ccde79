"""What the features of the views, a model's history, add to what comes with the request."""

from dataclasses import replace

import numpy as np

from mlops_assets.core.comparison import TooFew, auc, delong
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.verdict import Outcome, Verdict

CONFIDENCE = 0.95


def without_history(spec: ModelSpec, history: frozenset[str]) -> ModelSpec | None:
    """The model with those of its inputs that are not ``history``; ``None`` if that is none of them."""
    alone = tuple(feature for feature in spec.features.inputs if feature.name not in history)
    if not alone:
        return None
    kept = {feature.name for feature in alone}
    drift = replace(spec.drift, ignore=tuple(name for name in spec.drift.ignore if name in kept))
    return replace(spec, features=replace(spec.features, inputs=alone), drift=drift)


def added_by_history(label: np.ndarray, score: np.ndarray, without: np.ndarray, blocks: np.ndarray | None = None) -> Verdict:
    """Whether a model ranks the holdout better than one trained without history.

    Args:
        label: 0 or 1, with both among them, shape (rows,).
        score, without: of the same rows, by the model and by the one without, shape (rows,).
        blocks: as of :func:`~mlops_assets.core.comparison.delong`.

    Nothing depends on the verdict; it tells whether the features earn their place. Its value is the difference of the AUCs.

    >>> label = np.array([0, 0, 0, 1, 1, 1])
    >>> added_by_history(label, score=np.array([1, 2, 4, 3, 5, 6]), without=np.array([1, 4, 5, 2, 3, 6])).reason.split(":")[0]
    'the AUC is 0.8889 with the features of the views, 0.5556 with what comes with the request alone'
    """
    told = "the AUC is {:.4f} with the features of the views, {:.4f} with what comes with the request alone: {:+.4f}"
    try:
        seen = delong(label, score, without, CONFIDENCE, blocks)
    except TooFew as error:
        both = auc(label, score), auc(label, without)
        reason = f"{told.format(*both, both[0] - both[1])}, without an interval: {error}"
        return Verdict("history", Outcome.INCONCLUSIVE, both[0] - both[1], 0.0, reason, len(label))
    interval = f"{CONFIDENCE:.0%} interval {seen.lower:+.4f} to {seen.upper:+.4f}, paired DeLong"
    outcome, meaning = Outcome.INCONCLUSIVE, "which may be chance"
    if seen.lower > 0:
        outcome, meaning = Outcome.PASS, "they earn their place"
    elif seen.upper < 0:
        outcome, meaning = Outcome.FAIL, "they do harm"
    reason = f"{told.format(seen.challenger, seen.champion, seen.uplift)} ({interval}), {meaning}"
    return Verdict("history", outcome, seen.uplift, 0.0, reason, len(label))
