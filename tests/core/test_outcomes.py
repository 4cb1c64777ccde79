from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, precision_score, recall_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from mlops_assets.core.monitoring_spec import LivePerformance
from mlops_assets.core.outcomes import NAME, Outcomes, figures, judge, overturned
from mlops_assets.core.performance import calibrate
from mlops_assets.core.verdict import Outcome, Verdict


def drawn(rows: int, seed: int, sharp: float = 1.0, threshold: float = 0.3) -> Outcomes:
    """Scores of which the label comes true as often as they say, if ``sharp`` is 1; with less they know less than they say."""
    generator = np.random.default_rng(seed)
    score = generator.beta(2, 5, rows)
    truth = sharp * score + (1 - sharp) * score.mean()
    return Outcomes(score, (generator.random(rows) < truth).astype(np.int8), score >= threshold)


def test_the_figures_are_those_of_scikit_learn():
    seen = drawn(900, 1)
    found = {figure.metric: figure.value for figure in figures(seen, None, 0.3)}
    label, score, decided = seen.label, seen.score, seen.decided
    assert found == pytest.approx(
        {
            "auc": roc_auc_score(label, score),
            "brier": brier_score_loss(label, score),
            "log_loss": log_loss(label, score),
            "accuracy": accuracy_score(label, decided),
            "precision": precision_score(label, decided),
            "recall": recall_score(label, decided),
        }
    )


def test_the_interval_of_a_share_is_statsmodels():
    seen = drawn(500, 3)
    found = {figure.metric: (figure.lower, figure.upper) for figure in figures(seen, None, 0.3, confidence=0.9)}
    yes, label = seen.decided.astype(bool), seen.label.astype(bool)
    hits = {"accuracy": (yes == label, len(label)), "precision": (yes & label, yes.sum()), "recall": (yes & label, label.sum())}
    for metric, (right, rows) in hits.items():
        assert found[metric] == pytest.approx(proportion_confint(right.sum(), rows, alpha=0.1, method="wilson"))


@pytest.mark.long
def test_what_was_expected_holds_what_came_true_as_often_as_it_says():
    """The holdout is drawn anew each time, as a release has one."""
    runs, held = 1000, {}
    for run in range(runs):
        holdout, seen = drawn(4000, 10_000 + run), drawn(1500, run)
        for figure in figures(seen, calibrate(holdout.score, holdout.label), 0.3):
            if figure.is_covered is not None:
                held[figure.metric] = held.get(figure.metric, 0) + figure.is_covered
    assert set(held) == {"auc", "accuracy", "precision", "recall"}
    # 95 %, but for a point of approximation and what a thousand runs leave open in one of a thousand
    least, most = binom.ppf(0.0005, runs, 0.94), binom.ppf(0.9995, runs, 0.96)
    assert all(least <= count <= most for count in held.values()), held


@pytest.mark.long
def test_an_interval_of_labelled_answers_holds_the_truth_as_often_as_it_says():
    runs, rows, threshold = 800, 1500, 0.3
    large = drawn(2_000_000, 99)
    truth = {"auc": roc_auc_score(large.label, large.score), "brier": brier_score_loss(large.label, large.score)}
    truth |= {"accuracy": accuracy_score(large.label, large.decided), "precision": precision_score(large.label, large.decided)}
    held = dict.fromkeys(truth, 0)
    for run in range(runs):
        for figure in figures(drawn(rows, run, threshold=threshold), None, threshold):
            if figure.metric in held:
                held[figure.metric] += figure.lower <= truth[figure.metric] <= figure.upper
    least, most = binom.ppf(0.0005, runs, 0.94), binom.ppf(0.9995, runs, 0.97)
    assert all(least <= count <= most for count in held.values()), held


def test_a_change_of_what_scores_mean_is_not_covered():
    holdout = drawn(5000, 1)
    found = {figure.metric: figure for figure in figures(drawn(5000, 2, sharp=0.3), calibrate(holdout.score, holdout.label), 0.3)}
    assert found["auc"].is_covered is False


def test_of_one_class_there_is_accuracy_alone_and_of_nothing_nothing():
    found = figures(Outcomes(np.array([0.1, 0.2]), np.zeros(2, dtype=int), np.zeros(2, dtype=bool)), None, 0.3)
    assert [(figure.metric, figure.value) for figure in found] == [("accuracy", 1.0)]
    assert figures(Outcomes(np.empty(0), np.empty(0), np.empty(0)), None, 0.3) == ()


def test_rows_that_depend_on_each_other_widen_the_interval_and_too_few_blocks_give_none():
    seen = drawn(60, 3)
    copied = Outcomes(*(np.repeat(side, 30) for side in (seen.score, seen.label, seen.decided)), np.repeat(np.arange(60), 30))
    alone, blocked = (figures(replace(copied, block=block), None, 0.3) for block in (None, copied.block))
    assert all(b.upper - b.lower > 3 * a.upper - 3 * a.lower for a, b in zip(alone, blocked, strict=True))
    few = figures(replace(copied, block=np.repeat([0, 1], 900)), None, 0.3)
    assert {(figure.lower, figure.upper) for figure in few} == {(None, None)}


ASKED = LivePerformance(margin=0.05, min_positives=30)


@pytest.mark.parametrize(
    ("asked", "holdout_auc", "seen", "outcome", "reason"),
    [
        (ASKED, 0.70, drawn(2000, 4), Outcome.PASS, "at or above 0.6500"),
        (ASKED, 0.80, drawn(2000, 4), Outcome.FAIL, "below 0.7500 (p "),
        (ASKED, 0.78, drawn(250, 4, sharp=0.9), Outcome.INCONCLUSIVE, "which may be chance"),
        (replace(ASKED, floor=0.6), None, drawn(2000, 4), Outcome.PASS, "at or above 0.6000"),
        (ASKED, None, drawn(2000, 4), Outcome.INCONCLUSIVE, "Declare performance.floor, or train again"),
        (ASKED, 0.70, drawn(40, 4), Outcome.INCONCLUSIVE, "30 are needed"),
        (ASKED, 0.70, Outcomes(np.empty(0), np.empty(0), np.empty(0)), Outcome.INCONCLUSIVE, "0 labelled answers have 0"),
        (ASKED, 0.70, replace(drawn(2000, 4), block=np.repeat([0, 1], 1000)), Outcome.INCONCLUSIVE, "expected at least 20"),
    ],
)
def test_a_release_has_failed_only_when_it_is_shown_to_be_below(asked, holdout_auc, seen, outcome, reason):
    verdict = judge(asked, holdout_auc, seen)
    assert (verdict.outcome, verdict.sample) == (outcome, len(seen))
    assert reason in verdict.reason


def test_a_release_that_is_just_good_enough_fails_as_seldom_as_it_says():
    auc = roc_auc_score(*(getattr(drawn(2_000_000, 99), side) for side in ("label", "score")))
    failed = sum(judge(replace(ASKED, floor=auc), None, drawn(800, run)).outcome is Outcome.FAIL for run in range(1000))
    assert failed <= binom.ppf(0.9995, 1000, 0.055)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (Outcome.PASS, Outcome.FAIL, "it was a pass (0.7000 of 100 answers), and with 120 it is a fail (0.6000)"),
        (Outcome.FAIL, Outcome.PASS, "it was a fail"),
        (Outcome.PASS, Outcome.INCONCLUSIVE, "it is inconclusive"),
        (Outcome.PASS, Outcome.PASS, None),
        (Outcome.INCONCLUSIVE, Outcome.FAIL, None),
    ],
)
def test_only_a_conclusion_can_be_overturned(before, now, told):
    found = overturned(Verdict(NAME, before, 0.7, 0.65, "", 100), Verdict(NAME, now, 0.6, 0.65, "", 120))
    assert found is None if told is None else told in found
