"""How good a release was, once labels are in: figures with intervals beside what was expected of the same answers, and a verdict."""

from dataclasses import dataclass, replace

import numpy as np

from mlops_assets.core.comparison import Estimate as WithError
from mlops_assets.core.comparison import TooFew, estimated_auc, standard_error
from mlops_assets.core.floors import smaller_class
from mlops_assets.core.gate_spec import MetricName
from mlops_assets.core.metrics import statistic
from mlops_assets.core.monitoring_spec import LivePerformance
from mlops_assets.core.performance import Calibration, Estimate, estimate
from mlops_assets.core.verdict import Outcome, Verdict

NAME = "performance"
LOSSES: tuple[MetricName, ...] = ("auc", "brier", "log_loss")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Answers whose label is known; shape (rows,) each.

    Args:
        score: the probability that was answered.
        label: 0 or 1.
        decided: whether the answer was a yes.
        block: which rows depend on each other; None if none do.
    """

    score: np.ndarray
    label: np.ndarray
    decided: np.ndarray
    block: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Figure:
    """A metric of labelled answers.

    Args:
        lower, upper: its confidence interval; None where too few blocks of rows tell of none.
        expected: what the scores of the same answers alone let expect, which needs no label; None where that cannot be told.
    """

    metric: str
    value: float
    lower: float | None
    upper: float | None
    expected: Estimate | None = None

    @property
    def is_covered(self) -> bool | None:
        """Whether the interval of what was expected holds what came true; None if nothing was expected."""
        return None if self.expected is None else self.expected.lower <= self.value <= self.expected.upper


def figures(seen: Outcomes, known: Calibration | None, threshold: float, confidence: float = 0.95) -> tuple[Figure, ...]:
    """AUC (DeLong), Brier score and log loss (influence values), accuracy, precision and recall (Wilson), those that can be told.

    Args:
        known: what the release's scores mean, by its holdout.
        threshold: a score from here up is expected to be decided yes.

    Of ten answers eight are right, all five yes among them:

    >>> label, decided = np.repeat([1, 0], 5), np.repeat([1, 0], [7, 3])
    >>> seen = Outcomes(np.where(decided == 1, 0.8, 0.2), label, decided)
    >>> [(figure.metric, round(figure.value, 3)) for figure in figures(seen, None, 0.5)]
    [('auc', 0.8), ('brier', 0.16), ('log_loss', 0.5), ('accuracy', 0.8), ('precision', 0.714), ('recall', 1.0)]
    """
    if not len(seen):
        return ()
    found = [_by_influence(metric, seen, confidence) for metric in LOSSES] if smaller_class(seen.label) else []
    found += [_share(name, seen, right, among, confidence) for name, right, among in _shares(seen) if among.any()]
    if known is None:
        return tuple(found)
    told = estimate(known, seen.score, threshold, confidence)
    expected = {"auc": told.auc, "accuracy": told.accuracy, "precision": told.precision, "recall": told.recall}
    return tuple(replace(figure, expected=expected.get(figure.metric)) for figure in found)


def judge(asked: LivePerformance, holdout_auc: float | None, seen: Outcomes) -> Verdict:
    """Whether the AUC of labelled answers is what was asked for: it fails only if it is shown to be below.

    Args:
        holdout_auc: of the release, which asks for this less the margin where no floor is declared.
    """
    limit = asked.floor if asked.floor is not None else None if holdout_auc is None else holdout_auc - asked.margin
    if limit is None:
        reason = "nothing is asked for: the release's holdout AUC is not known. Declare performance.floor, or train again"
        return Verdict(NAME, Outcome.INCONCLUSIVE, None, None, reason, len(seen))
    few = smaller_class(seen.label) if len(seen) else 0
    if few < asked.min_positives:
        reason = f"{len(seen)} labelled answers have {few} of the rarer outcome, {asked.min_positives} are needed"
        return Verdict(NAME, Outcome.INCONCLUSIVE, None, limit, reason, len(seen))
    try:
        found = estimated_auc(seen.label, seen.score, seen.block)
    except TooFew as error:
        return Verdict(NAME, Outcome.INCONCLUSIVE, None, limit, f"AUC of {len(seen)} labelled answers: {error}", len(seen))
    told, p_value = f"AUC of {len(seen)} labelled answers is {found.value:.4f}", found.probability_below(limit)
    if found.value >= limit:
        outcome, reason = Outcome.PASS, f"{told}, at or above {limit:.4f}"
    elif p_value <= 1 - asked.confidence:
        outcome, reason = Outcome.FAIL, f"{told}, below {limit:.4f} (p {p_value:.2g})"
    else:
        outcome, reason = Outcome.INCONCLUSIVE, f"{told}, below {limit:.4f}, which may be chance (p {p_value:.2g})"
    return Verdict(NAME, outcome, found.value, limit, reason, len(seen))


def overturned(before: Verdict, now: Verdict) -> str | None:
    """What later labels have made of a verdict, in a sentence; None if it stands, or had concluded nothing.

    >>> before = Verdict(NAME, Outcome.PASS, 0.71, 0.7, "", 100)
    >>> overturned(before, replace(before, outcome=Outcome.FAIL, value=0.64, sample=112))
    'it was a pass (0.7100 of 100 answers), and with 112 it is a fail (0.6400)'
    """
    if before.outcome in (Outcome.INCONCLUSIVE, now.outcome):
        return None
    figure = "no AUC" if now.value is None else f"{now.value:.4f}"
    was = f"it was a {before.outcome} ({before.value:.4f} of {before.sample} answers)"
    article = "" if now.outcome is Outcome.INCONCLUSIVE else "a "
    return f"{was}, and with {now.sample} it is {article}{now.outcome} ({figure})"


def _by_influence(metric: MetricName, seen: Outcomes, confidence: float) -> Figure:
    found = statistic(metric, seen.label, seen.score)
    # an AUC is of each class by itself; a mean loss varies with their shares too, so each row is drawn by itself
    each = seen if metric == "auc" or seen.block is not None else replace(seen, block=np.arange(len(seen)))
    half = _half_width(each, found.influence, confidence)
    if half is None:
        return Figure(metric, found.value, None, None)
    most = found.value + half if metric == "log_loss" else min(found.value + half, 1.0)
    return Figure(metric, found.value, max(found.value - half, 0.0), most)


def _shares(seen: Outcomes) -> tuple[tuple[str, np.ndarray, np.ndarray], ...]:
    """Of accuracy, precision and recall: which rows are right, and among which they count."""
    yes, label = seen.decided.astype(bool), seen.label.astype(bool)
    return ("accuracy", yes == label, np.ones(len(seen), dtype=bool)), ("precision", label, yes), ("recall", yes, label)


def _share(name: str, seen: Outcomes, right: np.ndarray, among: np.ndarray, confidence: float) -> Figure:
    from scipy.stats import binomtest

    rows, hits = int(among.sum()), int((right & among).sum())
    value = hits / rows
    if seen.block is None:
        bounds = binomtest(hits, rows).proportion_ci(confidence, method="wilson")
        return Figure(name, value, float(bounds.low), float(bounds.high))
    half = _half_width(seen, np.where(among, (right - value) / rows, 0.0), confidence)
    return Figure(name, value, None, None) if half is None else Figure(name, value, max(value - half, 0.0), min(value + half, 1.0))


def _half_width(seen: Outcomes, influence: np.ndarray, confidence: float) -> float | None:
    try:
        error, degrees = standard_error(seen.label, influence, seen.block)
    except TooFew:
        return None
    return WithError(0.0, error, degrees).quantile(0.5 + confidence / 2) * error
