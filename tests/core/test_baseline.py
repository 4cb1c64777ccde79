import json
from datetime import timedelta

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import permutation_importance

from mlops_assets.core.baseline import Baseline, importance
from mlops_assets.core.calibration import cut
from mlops_assets.core.errors import BadData
from mlops_assets.core.performance import Calibration
from mlops_assets.core.profile import baseline

NAMES = ["a", "b", "c"]


def rows(count: int = 3000) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)


KNOWN = Calibration((0.2, 0.8), (0.1, 0.7), (50, 60))


def made(known: Calibration | None = KNOWN) -> Baseline:
    times = np.datetime64("2026-01-01", "us") + np.arange(3000) * np.timedelta64(1, "h")
    profile = baseline(NAMES, rows())
    return Baseline(profile, cut(profile, rows(), times, timedelta(days=1)), {"a": 0.5, "b": 0.5, "c": 0.0}, known)


@pytest.mark.parametrize("known", [KNOWN, None])
def test_a_baseline_survives_its_document(known):
    before = made(known)
    after = Baseline.from_json(before.to_json())
    assert (after.profile, after.importance, after.calibration) == (before.profile, before.importance, before.calibration)
    assert after.blocks.length == before.blocks.length
    assert all(np.array_equal(a, b) for a, b in zip(after.blocks.counts, before.blocks.counts, strict=True))
    assert after.to_json() == before.to_json()


def test_a_baseline_of_another_version_is_refused():
    document = json.loads(made().to_json()) | {"version": 1}
    with pytest.raises(BadData, match="version 1, expected 2"):
        Baseline.from_json(json.dumps(document))


class Linear(RegressorMixin, BaseEstimator):
    """A regressor of scikit-learn's kind."""

    def fit(self, *_: object) -> "Linear":
        self.fitted_ = True
        return self

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return matrix @ np.array([3.0, 1.0, 0.0])


def test_importance_is_that_of_scikit_learn_by_mean_absolute_error():
    matrix, model = rows(2000), Linear().fit()
    theirs = permutation_importance(model, matrix, model.predict(matrix), scoring="neg_mean_absolute_error", n_repeats=5, random_state=0)
    expected = theirs.importances_mean / theirs.importances_mean.sum()
    assert list(importance(NAMES, model.predict, matrix).values()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("matrix", [rows(0), rows(1), np.ones((50, 3), dtype=np.float32)], ids=["no rows", "one row", "constant"])
def test_where_nothing_can_move_nothing_is_important(matrix):
    assert importance(NAMES, Linear().predict, matrix) == {"a": 0, "b": 0, "c": 0}


def test_missing_values_change_places_like_all_others():
    matrix = rows(500)
    matrix[::3, 0] = np.nan
    assert importance(NAMES, lambda m: np.isnan(m[:, 0]).astype(float), matrix) == {"a": 1, "b": 0, "c": 0}
