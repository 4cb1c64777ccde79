import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu
from sklearn.metrics import roc_auc_score
from statsmodels.regression.linear_model import OLS

from mlops_assets.core.comparison import Comparison, auc, delong, estimated_auc, linearized, paired
from mlops_assets.core.errors import BadData

Z95 = 1.959963984540054


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two scores, on a coarse grid so that ties are frequent."""
    label = np.array([0, 0, 1, 1, *draw(st.lists(st.integers(0, 1), max_size=30))])
    score = st.lists(st.integers(0, 6).map(lambda k: k / 6), min_size=len(label), max_size=len(label)).map(np.array)
    return label, draw(score), draw(score)


def slow_delong(label: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> tuple[float, float]:
    """Uplift and its standard error, equation by equation from DeLong et al. (1988), in O(n^2)."""
    structural = []
    for score in (challenger, champion):
        x, y = score[label == 1], score[label == 0]
        psi = np.array([[1.0 if xi > yj else 0.5 if xi == yj else 0.0 for yj in y] for xi in x])
        structural.append((psi.mean(), psi.mean(axis=1), psi.mean(axis=0)))
    theta = np.array([part[0] for part in structural])
    s10 = np.cov(np.array([part[1] for part in structural]), ddof=1)
    s01 = np.cov(np.array([part[2] for part in structural]), ddof=1)
    s = s10 / len(structural[0][1]) + s01 / len(structural[0][2])
    contrast = np.array([1, -1])
    return float(contrast @ theta), float(np.sqrt(max(contrast @ s @ contrast, 0)))


@given(rows())
def test_auc_is_the_mann_whitney_statistic_and_what_scikit_learn_says(data):
    label, score, _ = data
    positives, negatives = score[label == 1], score[label == 0]
    u = mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    assert auc(label, score) == pytest.approx(u, abs=1e-12)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows())
def test_the_fast_comparison_is_the_one_of_the_paper(data):
    label, challenger, champion = data
    uplift, error = slow_delong(label, challenger, champion)
    got = delong(label, challenger, champion, 0.95)
    assert got.uplift == pytest.approx(uplift, abs=1e-12)
    assert got.standard_error == pytest.approx(error, abs=1e-7)
    assert (got.lower, got.upper) == pytest.approx((uplift - Z95 * error, uplift + Z95 * error), abs=1e-6)
    assert got.challenger - got.champion == pytest.approx(uplift, abs=1e-12)
    assert (got.positives, got.negatives) == (label.sum(), len(label) - label.sum())


# fmt: off
OVARIAN_CANCER = np.array(
    [
        (3.0, 5.8, 10, 0), (3.2, 6.3, 5, 1), (3.9, 6.8, 3, 1), (2.8, 4.8, 6, 0), (3.2, 5.8, 3, 1), (0.9, 4.0, 5, 0),
        (2.5, 5.7, 8, 0), (1.6, 5.6, 5, 1), (3.8, 5.7, 5, 1), (3.7, 6.7, 6, 1), (3.2, 5.4, 4, 1), (3.8, 6.6, 6, 1),
        (4.1, 6.6, 5, 1), (3.6, 5.7, 5, 1), (4.3, 7.0, 4, 1), (3.6, 6.7, 4, 0), (2.3, 4.4, 6, 1), (4.2, 7.6, 4, 0),
        (4.0, 6.6, 6, 0), (3.5, 5.8, 6, 1), (3.8, 6.8, 7, 1), (3.0, 4.7, 8, 0), (4.5, 7.4, 5, 1), (3.7, 7.4, 5, 1),
        (3.1, 6.6, 6, 1), (4.1, 8.2, 6, 1), (4.3, 7.0, 5, 1), (4.3, 6.5, 4, 1), (3.2, 5.1, 5, 1), (2.6, 4.7, 6, 1),
        (3.3, 6.8, 6, 0), (1.7, 4.0, 7, 0), (3.7, 6.1, 5, 1), (3.3, 6.3, 7, 1), (4.2, 7.7, 6, 1), (3.5, 6.2, 5, 1),
        (2.9, 5.7, 9, 0), (2.1, 4.8, 7, 1), (2.8, 6.2, 8, 0), (4.0, 7.0, 7, 1), (3.3, 5.7, 6, 1), (3.7, 6.9, 5, 1),
        (3.6, 6.6, 5, 1),
    ]
)
# fmt: on
"""The patients of DeLong et al. (1988): albumin, total protein, Krebs-Goldstein score, and 1 if the patient benefited from surgery.

As printed in the SAS/STAT User's Guide, the LOGISTIC procedure, example 'Comparing Receiver Operating Characteristic Curves'.
"""


@pytest.mark.parametrize("challenger", [0, 1], ids=["albumin", "protein"])
def test_the_patients_of_the_paper_have_the_figures_of_its_equations(challenger):
    *nutrition, krebs_goldstein, benefit = OVARIAN_CANCER.T
    compared = nutrition[challenger], 10 - krebs_goldstein
    uplift, error = slow_delong(benefit, *compared)
    got = delong(benefit, *compared)
    assert (got.challenger, got.champion) == pytest.approx([roc_auc_score(benefit, score) for score in compared], abs=1e-12)
    assert (got.uplift, got.standard_error) == pytest.approx((uplift, error), abs=1e-12)
    assert (got.lower, got.upper) == pytest.approx((uplift - Z95 * error, uplift + Z95 * error), abs=1e-12)


def test_a_published_table_of_ratings_has_its_published_error():
    # Hanley and McNeil, Radiology 143, 1982: 58 normal and 51 abnormal scans in five ratings, Stata's hanley.dta. Its manual, [R] roctab,
    # prints an area of 0.8932 with standard error 0.0307 (DeLong), from 0.83295 to 0.95339: as the tests of OpenEconometrics quote it.
    ratings = np.arange(1, 6)
    score = np.repeat([*ratings, *ratings], [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    got = estimated_auc(np.repeat([0, 1], [58, 51]), score)
    assert (got.value, got.standard_error) == pytest.approx((0.8932, 0.0307), abs=5.1e-5)
    reach = Z95 * got.standard_error
    assert (got.value - reach, got.value + reach) == pytest.approx((0.83295, 0.95339), abs=5.1e-6)


@given(rows())
def test_swapping_the_models_turns_the_uplift_round(data):
    label, one, other = data
    there, back = delong(label, one, other), delong(label, other, one)
    assert (back.uplift, back.lower, back.upper) == pytest.approx((-there.uplift, -there.upper, -there.lower), abs=1e-12)


@given(rows())
def test_only_the_order_of_the_scores_counts(data):
    label, challenger, champion = data
    got, stretched = delong(label, challenger, champion), delong(label, np.exp(3 * challenger), champion)
    assert stretched.uplift == pytest.approx(got.uplift, abs=1e-12)
    assert stretched.standard_error == pytest.approx(got.standard_error, abs=1e-9)


def test_the_interval_covers_the_true_uplift_as_often_as_it_says():
    # Scores of two normals have AUC Phi(shift / sqrt 2), so the true uplift is known.
    from scipy.stats import norm

    generator, runs, hits = np.random.default_rng(7), 1500, 0
    truth = norm.cdf(1.2 / np.sqrt(2)) - norm.cdf(0.9 / np.sqrt(2))
    label = np.repeat([1, 0], [80, 160])
    for _ in range(runs):
        shared = generator.normal(size=len(label))
        challenger, champion = (
            shift * label + np.sqrt(0.6) * shared + np.sqrt(0.4) * generator.normal(size=len(label)) for shift in (1.2, 0.9)
        )
        got = delong(label, challenger, champion, 0.95)
        hits += got.lower <= truth <= got.upper
    # 0.95 up to the simulation's own error (1 in 10,000), and 1 % for the normal approximation at 80 positives.
    low, high = binom.ppf(0.0001, runs, 0.94), binom.ppf(0.9999, runs, 0.96)
    assert low <= hits <= high


def test_whole_days_have_the_error_that_statsmodels_gives_clusters():
    generator = np.random.default_rng(2)
    day = generator.integers(0, 25, 500)
    label, (ours, theirs) = generator.integers(0, 2, 500), generator.random((2, 500))
    gain = (theirs - label) ** 2 - (ours - label) ** 2
    reference = OLS(gain, np.ones(500)).fit(cov_type="cluster", cov_kwds={"groups": day}, use_t=True)
    got = linearized(paired("brier", label, ours, theirs), 0.95, day)
    assert got.standard_error == pytest.approx(reference.bse[0], rel=1e-9)
    assert (got.lower, got.upper) == pytest.approx(tuple(reference.conf_int()[0]), abs=1e-9)


def test_days_of_one_row_are_nearly_what_independent_rows_are():
    generator = np.random.default_rng(3)
    label, scores = generator.integers(0, 2, 4000), generator.normal(size=(2, 4000))
    alone, each = delong(label, *scores), delong(label, *scores, blocks=np.arange(4000))
    assert each.standard_error == pytest.approx(alone.standard_error, rel=0.002)
    assert (each.lower, each.upper) == pytest.approx((alone.lower, alone.upper), abs=1e-4)


def test_rows_that_come_ten_times_tell_no_more_than_once():
    generator = np.random.default_rng(4)
    label, scores = generator.integers(0, 2, 300), generator.normal(size=(2, 300))
    once = delong(label, *scores, blocks=np.arange(300))
    often = delong(np.repeat(label, 10), *np.repeat(scores, 10, axis=1), blocks=np.repeat(np.arange(300), 10))
    assert (often.uplift, often.standard_error) == pytest.approx((once.uplift, once.standard_error), abs=1e-12)


@pytest.mark.parametrize(("blocks", "message"), [([1] * 40, "got 1 blocks, expected at least 20"), ([1, 2], "got 2 blocks for 40 rows")])
def test_too_few_blocks_are_refused(blocks, message):
    with pytest.raises(BadData, match=message):
        delong(np.arange(40) % 2, np.arange(40.0), np.arange(40.0), blocks=np.array(blocks))


def test_a_model_compared_with_itself_differs_by_nothing_without_error():
    label, score = np.array([0, 1, 0, 1, 1]), np.array([0.1, 0.3, 0.3, 0.8, 0.2])
    value = auc(label, score)
    assert delong(label, score, score) == Comparison("auc", value, value, 0.0, 0.0, 0.0, 0.0, 3, 2)


def test_a_perfect_model_against_a_perfectly_wrong_one_is_certain():
    label = np.array([0, 0, 1, 1])
    got = delong(label, label.astype(float), 1.0 - label)
    assert (got.uplift, got.standard_error, got.lower) == (1.0, 0.0, 1.0)


def test_many_rows_take_no_quadratic_memory():
    generator = np.random.default_rng(1)
    label = generator.integers(0, 2, 200_000)
    assert delong(label, generator.normal(size=len(label)), generator.normal(size=len(label))).standard_error < 0.005


NAN = float("nan")


@pytest.mark.parametrize(
    ("label", "score", "message"),
    [
        ([], [], "0 positives and 0 negatives"),
        ([1, 1], [0.1, 0.2], "2 positives and 0 negatives"),
        ([0, 0], [0.1, 0.2], "0 positives and 2 negatives"),
        ([0, 1], [0.1, NAN], "1 scores are not finite"),
        ([0, 1], [0.1, float("inf")], "1 scores are not finite"),
        ([0, 1, 1], [0.1, 0.2], r"labels of shape \(3,\) and scores of \(2,\)"),
        ([0, 2], [0.1, 0.2], "a label of .*2.*, expected 0 or 1"),
        ([0, NAN], [0.1, 0.2], "a label of .*nan.*, expected 0 or 1"),
    ],
)
def test_an_auc_that_cannot_be_computed_says_why(label, score, message):
    with pytest.raises(BadData, match=message):
        auc(np.array(label), np.array(score))


def test_one_row_of_a_class_is_too_few_for_an_error():
    with pytest.raises(BadData, match="1 positives and 2 negatives, expected at least two of each"):
        delong(np.array([1, 0, 0]), np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        delong(np.array([1, 0]), np.zeros(2), np.zeros(2), confidence)
