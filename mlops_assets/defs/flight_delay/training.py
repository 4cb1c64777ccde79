"""How ``flight-delay`` is trained: gradient-boosted trees on at most some weeks of flights."""

from typing import Any

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier

DEFAULTS: dict[str, Any] = {
    "n_estimators": 150,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 100,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.7,
    "reg_lambda": 5.0,
}


def train(features: pd.DataFrame, label: np.ndarray, *, seed: int, **hyperparameters: Any) -> LGBMClassifier:
    """Fit a classifier whose probabilities mean what they say: log loss, no class weights. See :class:`mlops_assets.ports.Trainer`.

    ``hyperparameters`` are LightGBM's, and override :data:`DEFAULTS`. The same rows and seed give the same trees.
    """
    # Categories come as their place in a list and are split like numbers: ONNX knows no other split.
    # One thread: two wait for each other where something else wants the processor, ten times longer than they save.
    fixed = {"random_state": seed, "deterministic": True, "force_row_wise": True, "n_jobs": 1, "verbose": -1}
    return LGBMClassifier(**{**DEFAULTS, **hyperparameters, **fixed}).fit(features, label)
