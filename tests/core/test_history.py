"""What history adds to a model is told with its uncertainty, and what a model is without it."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.history import added_by_history, without_history
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.monitoring_spec import Drift
from mlops_assets.core.verdict import Outcome
from tests.core.test_model_spec import spec


def scored(noise: float, rows: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=rows)
    label = (truth + rng.normal(size=rows) > 1).astype(int)
    return label, truth + 0.5 * rng.normal(size=rows), truth + noise * rng.normal(size=rows)


@pytest.mark.parametrize(
    ("noise", "outcome", "meaning"),
    [(2.0, Outcome.PASS, "they earn their place"), (0.5, Outcome.INCONCLUSIVE, "which may be chance"), (0.1, Outcome.FAIL, "they do harm")],
)
def test_the_features_earn_their_place_if_the_interval_says_so(noise: float, outcome: Outcome, meaning: str) -> None:
    label, score, without = scored(noise)
    verdict = added_by_history(label, score, without)
    with_, alone = roc_auc_score(label, score), roc_auc_score(label, without)
    assert (verdict.outcome, verdict.threshold, verdict.sample) == (outcome, 0, 2000)
    assert verdict.value == pytest.approx(with_ - alone)
    assert verdict.reason.startswith(f"the AUC is {with_:.4f} with the features of the views, {alone:.4f} with what comes with the request")
    assert verdict.reason.endswith(f"paired DeLong), {meaning}")


@pytest.mark.long
def test_the_interval_is_that_of_resampled_pairs() -> None:
    label, score, without = scored(1.0, 1500)
    told = added_by_history(label, score, without).reason
    lower, upper = (float(part) for part in told.split("interval ")[1].split(",")[0].split(" to "))
    rng, places = np.random.default_rng(1), np.arange(len(label))
    draws = [rng.choice(places, len(places)) for _ in range(1000)]
    gains = [roc_auc_score(label[rows], score[rows]) - roc_auc_score(label[rows], without[rows]) for rows in draws]
    assert (lower, upper) == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=0.003)


def test_blocks_of_rows_that_depend_on_each_other_widen_the_interval_or_are_too_few() -> None:
    label, score, without = scored(1.0)
    few = added_by_history(label, score, without, np.arange(2000) // 500)
    assert few.outcome is Outcome.INCONCLUSIVE
    assert "without an interval: got 4 blocks" in few.reason
    alike = np.repeat(np.arange(200), 10)
    twins = [values[alike] for values in (label, score, without)]
    told = [added_by_history(*twins, blocks).reason.split("interval ")[1] for blocks in (None, alike)]
    widths = [np.ptp([float(part) for part in text.split(",")[0].split(" to ")]) for text in told]
    assert widths[1] > 2 * widths[0]


def test_a_model_that_only_guesses_without_history_has_an_auc_of_a_half() -> None:
    label, score, _ = scored(1.0)
    assert ", 0.5000 with what comes with the request alone" in added_by_history(label, score, np.zeros(2000)).reason


def test_a_model_without_history_keeps_its_other_inputs_in_order() -> None:
    whole: ModelSpec = spec()
    inputs = tuple(Feature(name) for name in ("rain", "hour", "delay", "distance"))
    whole = replace(whole, features=replace(whole.features, inputs=inputs), drift=Drift(ignore=("rain", "hour")))
    alone = without_history(whole, frozenset({"rain", "delay"}))
    assert alone is not None
    assert (alone.features.names, alone.drift.ignore) == (("hour", "distance"), ("hour",))
    assert without_history(whole, frozenset(whole.features.names)) is None
