import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, log_loss, roc_auc_score

from mlops_assets.core.errors import BadData
from mlops_assets.core.gate_spec import Costs
from mlops_assets.core.metrics import statistic

METRICS = ("auc", "average_precision", "log_loss", "brier", "ece", "cost")
COSTS = Costs(false_yes=1.0, false_no=5.0)


def slow_ece(label, score, sample_weight):
    """Bin by bin, as Guo et al. (2017) write it."""
    total = 0.0
    for number in range(10):
        inside = (score > number / 10) & (score <= (number + 1) / 10) | ((score == 0) & (number == 0))
        if sample_weight[inside].sum() > 0:
            weight = sample_weight[inside]
            total += weight.sum() * abs(np.average(label[inside], weights=weight) - np.average(score[inside], weights=weight))
    return total / sample_weight.sum()


def slow_cost(label, score, sample_weight):
    (_, false_yes), (false_no, _) = confusion_matrix(label, score >= 0.4, sample_weight=sample_weight, labels=[0, 1])
    return (COSTS.false_yes * false_yes + COSTS.false_no * false_no) / sample_weight.sum()


REFERENCES = dict(zip(METRICS, (roc_auc_score, average_precision_score, log_loss, brier_score_loss, slow_ece, slow_cost), strict=True))


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores on a grid that has ties but no bin's edge, and weights of which some are 0."""
    label = np.array([0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))])
    size = {"min_size": len(label), "max_size": len(label)}
    score = draw(st.lists(st.integers(0, 25).map(lambda k: k / 25 * 0.98 + 0.01), **size))
    weight = draw(st.lists(st.integers(0, 3).map(float), **size))
    return label, np.array(score), np.array([1.0, 1.0, *weight[2:]])


@pytest.mark.parametrize("metric", METRICS)
@given(data=rows())
def test_a_metric_is_what_scikit_learn_says_with_weights_and_without(metric, data):
    label, score, weight = data
    got, reference = statistic(metric, label, score, 0.4, COSTS), REFERENCES[metric]
    assert got.value == pytest.approx(reference(label, score, sample_weight=np.ones(len(label))), abs=1e-12)
    both = got.under(np.array([weight, np.ones(len(label))]))
    assert both == pytest.approx([reference(label, score, sample_weight=weight), got.value], abs=1e-12)


def test_the_calibration_error_is_that_of_scikit_learns_curve():
    generator = np.random.default_rng(0)
    score = generator.random(3000)
    label = (generator.random(3000) < score**2).astype(int)
    observed, predicted = calibration_curve(label, score, n_bins=10)
    share = np.histogram(score, np.linspace(0, 1, 11))[0] / 3000
    assert statistic("ece", label, score).value == pytest.approx(np.sum(share * np.abs(observed - predicted)), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@given(data=rows())
def test_an_influence_value_is_how_the_metric_changes_with_a_rows_weight(metric, data):
    label, score, _ = data
    got, step = statistic(metric, label, score, 0.4, COSTS), 1e-6
    weights = np.vstack([np.ones(len(label)) + sign * step * np.eye(len(label)) for sign in (1, -1)])
    more, less = np.split(got.under(weights), 2)
    # Where a bin is exactly calibrated the calibration error has a bend, and no slope.
    expected = (more - less) / (2 * step)
    assert got.influence == pytest.approx(expected, abs=1e-7 if metric != "ece" else 2 / len(label))
    assert got.influence.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_weights_without_one_of_the_outcomes_give_no_rank_metric(metric):
    got = statistic(metric, np.array([0, 0, 1]), np.array([0.2, 0.6, 0.7])).under(np.array([[1.0, 1.0, 0.0]]))
    assert np.isnan(got[0]) == (metric in ("auc", "average_precision"))


def test_a_certain_and_wrong_score_costs_much_but_not_infinitely_much():
    assert statistic("log_loss", np.array([0, 1]), np.array([0.0, 0.0])).value == pytest.approx(-np.log(np.finfo(float).eps) / 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("score", [[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
def test_constant_and_perfect_scores_have_a_figure(metric, score):
    got = statistic(metric, np.array([0, 0, 1, 1]), np.array(score))
    assert np.isfinite(got.value)
    assert np.isfinite(got.influence).all()


@pytest.mark.parametrize(
    ("metric", "score", "message"),
    [
        ("log_loss", [0.2, 1.5], "log_loss: 1 scores are no probabilities, such as 1.5"),
        ("brier", [-0.1, 0.5], "brier: 1 scores are no probabilities"),
        ("ece", [0.1, float("nan")], "1 scores are not finite"),
        ("average_precision", [0.1], "labels of shape"),
    ],
)
def test_scores_that_a_metric_cannot_use_are_refused(metric, score, message):
    with pytest.raises(BadData, match=message):
        statistic(metric, np.array([0, 1]), np.array(score))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("label", [[], [1], [0, 0]])
def test_a_metric_needs_both_outcomes(metric, label):
    with pytest.raises(BadData, match="expected some of both"):
        statistic(metric, np.array(label), np.full(len(label), 0.5))
