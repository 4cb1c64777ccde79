import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from mlops_assets.core.bootstrap import bootstrap, calibration_bound
from mlops_assets.core.comparison import TooFew, paired
from mlops_assets.core.errors import BadData


def scored(positives: int = 150, negatives: int = 250, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    label = np.repeat([1, 0], [positives, negatives])
    ours = 1.3 * label + generator.normal(size=len(label))
    theirs = 0.7 * ours + 0.7 * generator.normal(size=len(label))
    return label, 1 / (1 + np.exp(0.9 - 1.6 * ours)), 1 / (1 + np.exp(0.7 - theirs))


def test_average_precision_has_the_percentiles_that_scipy_draws():
    label, ours, theirs = scored()
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)

    def uplift(some, others):
        rows = np.concatenate([some, others]).astype(int)
        return average_precision_score(label[rows], ours[rows]) - average_precision_score(label[rows], theirs[rows])

    reference = stats.bootstrap((positive, negative), uplift, vectorized=False, n_resamples=600, method="percentile", rng=1)
    got = bootstrap(paired("average_precision", label, ours, theirs), draws=5000)
    # A 2.5 % percentile of 600 draws has a standard error of 2.8 % of the interval's width.
    width = got.upper - got.lower
    assert (got.lower, got.upper) == pytest.approx(tuple(reference.confidence_interval), abs=0.1 * width)


@pytest.mark.parametrize("metric", ["log_loss", "brier", "cost"])
def test_a_mean_loss_of_many_rows_has_the_normal_interval(metric):
    label, ours, theirs = scored(3000, 5000)
    gain = {
        "log_loss": lambda score: -np.log(np.where(label == 1, score, 1 - score)),
        "brier": lambda score: (label - score) ** 2,
        "cost": lambda score: ((score >= 0.5) != (label == 1)).astype(float),
    }[metric]
    difference = gain(theirs) - gain(ours)
    within = [difference[label == outcome] for outcome in (0, 1)]
    error = np.sqrt(sum(len(part) * part.var(ddof=1) for part in within)) / len(label)
    got = bootstrap(paired(metric, label, ours, theirs))
    assert got.uplift == pytest.approx(difference.mean(), abs=1e-12)
    assert got.standard_error == pytest.approx(error, rel=1e-9)
    assert (got.lower, got.upper) == pytest.approx((got.uplift - 1.96 * error, got.uplift + 1.96 * error), abs=0.12 * error)


def test_skewed_losses_have_an_interval_that_leans():
    # Eight of a thousand rows make nearly all of the loss: the mean is more likely too low by luck than too high.
    label = np.arange(1000) % 2
    ours = np.where(label == 1, 0.99, 0.01)
    theirs = ours.copy()
    theirs[:8] = 1 - theirs[:8]
    got = bootstrap(paired("brier", label, ours, theirs))
    assert got.upper - got.uplift > 1.2 * (got.uplift - got.lower) > 0


def test_the_same_rows_give_the_same_interval_again():
    pair = paired("log_loss", *scored())
    assert bootstrap(pair) == bootstrap(pair)
    assert bootstrap(pair, seed=1) != bootstrap(pair)


def test_more_confidence_is_a_wider_interval_also_far_out():
    pair = paired("brier", *scored())
    widths = [got.upper - got.lower for got in (bootstrap(pair, level) for level in (0.8, 0.95, 0.9994))]
    assert widths == sorted(widths)
    assert widths[2] > 1.5 * widths[1]


@pytest.mark.parametrize("metric", ["average_precision", "log_loss", "brier", "cost"])
def test_a_model_beside_itself_differs_by_nothing(metric):
    label, ours, _ = scored()
    got = bootstrap(paired(metric, label, ours, ours))
    assert (got.uplift, got.standard_error, got.lower, got.upper) == (0, 0, 0, 0)


@pytest.mark.parametrize("metric", ["average_precision", "log_loss", "brier", "cost"])
def test_all_ties_give_numbers(metric):
    label, ours, _ = scored()
    got = bootstrap(paired(metric, label, ours, np.full(len(label), 0.5)))
    assert np.isfinite([got.lower, got.upper]).all()
    assert got.lower <= got.uplift <= got.upper


def test_one_row_of_a_class_is_too_few():
    with pytest.raises(TooFew, match="1 positives and 3 negatives"):
        bootstrap(paired("brier", np.array([1, 0, 0, 0]), np.full(4, 0.5), np.full(4, 0.4)))


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap(paired("brier", *scored()), confidence)


def test_a_calibrated_model_is_seldom_shown_to_be_miscalibrated():
    generator, shown, runs = np.random.default_rng(4), 0, 100
    for _ in range(runs):
        score = generator.random(300)
        shown += calibration_bound((generator.random(300) < score).astype(int), score) > 0
    assert shown <= stats.binom.ppf(0.999, runs, 0.05)


def test_a_miscalibrated_model_is_shown_to_be_so_with_enough_rows():
    generator = np.random.default_rng(5)
    score = generator.random(20_000)
    label = (generator.random(20_000) < score**2).astype(int)
    # The truth is the mean of x - x^2 over (0, 1): 1/2 - 1/3.
    assert 0.15 < calibration_bound(label, score) < 1 / 6


def test_days_that_are_off_together_make_a_bound_more_cautious():
    generator = np.random.default_rng(6)
    day = np.repeat(np.arange(30), 100)
    score = np.clip(0.5 + 0.2 * generator.normal(size=30)[day], 0.05, 0.95)
    label = (generator.random(3000) < np.clip(score + 0.2 * generator.normal(size=30)[day], 0, 1)).astype(int)
    assert calibration_bound(label, score, blocks=day) < calibration_bound(label, score)


@pytest.mark.parametrize(("label", "score"), [([1, 1], [0.5, 0.5]), ([0, 1], [0.5, 2.0]), ([0, 1], [0.5, float("inf")])])
def test_a_calibration_that_cannot_be_bounded_says_why(label, score):
    with pytest.raises(BadData):
        calibration_bound(np.array(label), np.array(score))
