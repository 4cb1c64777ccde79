import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from mlops_assets.core.errors import BadData
from mlops_assets.core.performance import Calibration, calibrate, estimate, probability

EXACT = Calibration((0.0, 1.0), (0.0, 1.0), (10**12, 10**12))
"""A score that is the probability of a yes, known for certain."""

FIGURES = ("auc", "accuracy", "precision", "recall")


def realized(score: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """What labels show, one value a row of ``labels``, shape (simulations, rows)."""
    ranks, decided, yes = rankdata(score), (score >= threshold).astype(float), labels.sum(axis=1)
    right = labels @ decided
    no = labels.shape[1] - yes
    return {
        "auc": (labels @ ranks - yes * (yes + 1) / 2) / (yes * no),
        "accuracy": (labels == decided).mean(axis=1),
        "precision": right / decided.sum(),
        "recall": right / yes,
    }


def test_the_figures_that_labels_show_are_those_of_scikit_learn():
    generator = np.random.default_rng(1)
    score = generator.beta(2, 5, 800).round(2)
    labels = (generator.random((3, 800)) < score).astype(int)
    found = realized(score, labels, 0.3)
    for index, label in enumerate(labels):
        decided = score >= 0.3
        expected = roc_auc_score(label, score), *(f(label, decided) for f in (accuracy_score, precision_score, recall_score))
        assert [found[name][index] for name in FIGURES] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rows", "a", "b"), [(500, 2, 5), (2000, 2, 5), (2000, 1, 8)])
def test_the_interval_holds_the_realized_figure_as_often_as_it_says(rows, a, b):
    generator, runs = np.random.default_rng(rows + a), 10_000
    score = generator.beta(a, b, rows)
    told = estimate(EXACT, score, 0.3)
    labels = np.concatenate([generator.random((1000, rows), dtype=np.float32) < score for _ in range(runs // 1000)]).astype(float)
    found = realized(score, labels, 0.3)
    for name in FIGURES:
        figure = getattr(told, name)
        covered = np.mean((found[name] >= figure.lower) & (found[name] <= figure.upper))
        assert covered == pytest.approx(0.95, abs=0.01), name
        # nothing is off by more than the error of the mean of the simulation, and terms of 1 / rows
        assert figure.value == pytest.approx(found[name].mean(), abs=4 * found[name].std() / runs**0.5 + 0.3 / rows), name


def distorted(score: np.ndarray) -> np.ndarray:
    """The probability behind a model that is too sure of itself."""
    return 0.05 + 0.5 * score**2


def test_with_a_calibration_learnt_from_a_holdout_it_holds_as_well():
    generator, runs, rows = np.random.default_rng(8), 1500, 2000
    covered = dict.fromkeys(FIGURES, 0)
    for _ in range(runs):
        holdout, score = generator.beta(2, 3, 5000), generator.beta(2.5, 3, rows)
        known = calibrate(holdout, (generator.random(5000) < distorted(holdout)).astype(int))
        told = estimate(known, score, 0.4)
        found = realized(score, (generator.random((1, rows)) < distorted(score)).astype(float), 0.4)
        for name in FIGURES:
            covered[name] += getattr(told, name).lower <= found[name][0] <= getattr(told, name).upper
    # 1 point, and what 1,500 runs leave open
    assert {name: count / runs for name, count in covered.items()} == pytest.approx(dict.fromkeys(FIGURES, 0.95), abs=0.01 + 3 * 0.0056)


def test_calibration_finds_what_a_score_means():
    generator = np.random.default_rng(2)
    score = generator.beta(2, 3, 40_000)
    known = calibrate(score, (generator.random(40_000) < distorted(score)).astype(int))
    asked = np.linspace(0.05, 0.9, 50)
    assert probability(known, asked) == pytest.approx(distorted(asked), abs=0.04)


def test_rates_are_those_of_scikit_learns_isotonic_regression():
    generator = np.random.default_rng(3)
    score = generator.choice(np.linspace(0.1, 0.9, 9), 300)
    label = (generator.random(300) < score).astype(int)
    known = calibrate(score, label)
    assert known.scores == pytest.approx(np.unique(score))
    assert known.rates == pytest.approx(IsotonicRegression().fit(score, label).predict(np.unique(score)), abs=1e-9)


@pytest.mark.parametrize("few", [0.1, 1e-30])
@pytest.mark.parametrize("times", [1, 3])
def test_scores_that_nearly_all_are_equal_still_mean_something(few, times):
    for score in (np.repeat([few, 0.9], [times, 200]), np.repeat([few, 0.9], [200, times])):
        known = calibrate(score, (score > 0.5).astype(int))
        assert (known.rates, sum(known.rows)) == ((0.0, 1.0), 200 + times)
        assert probability(known, np.array([few, 0.9])) == pytest.approx([0, 1], abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=200))
def test_whatever_the_holdout_was_probabilities_are_probabilities(rows):
    score, label = np.asarray([row[0] for row in rows]), np.asarray([row[1] for row in rows], dtype=int)
    known = calibrate(score, label)
    if len(set(label)) < 2 or len(np.unique(score)) < 2:
        assert known is None
        return
    if known is not None:
        asked = probability(known, np.linspace(0, 1, 101))
        assert np.all((asked >= 0) & (asked <= 1))
        assert list(known.rates) == sorted(known.rates)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (np.empty(0), "0 rows, 20 are needed"),
        (np.array([0.4]), "1 rows, 20 are needed"),
        (np.full(100, 0.01), "1.0 yes and 99.0 no are expected, 10 of each are needed"),
        (np.full(100, 1.0), "100.0 yes and 0.0 no are expected, 10 of each are needed"),
    ],
)
def test_too_few_of_a_kind_give_no_auc_and_say_why(score, reason):
    told = estimate(EXACT, score, 0.5)
    assert (told.auc, told.precision, told.recall, told.reason) == (None, None, None, reason)


def test_scores_that_are_all_equal_rank_nothing():
    told = estimate(EXACT, np.full(200, 0.4), 0.5)
    assert told.auc.value == pytest.approx(0.5)
    assert told.precision is None  # no yes was said
    assert (told.recall.value, told.accuracy.value) == (0, pytest.approx(0.6))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(BadData, match="not finite"):
        estimate(EXACT, np.array([0.1, np.nan]), 0.5)
    with pytest.raises(BadData, match="one finite score a label"):
        calibrate(np.array([0.1, np.inf]), np.array([0, 1]))
    with pytest.raises(BadData, match="one finite score a label"):
        calibrate(np.array([0.1, 0.2]), np.array([0]))
