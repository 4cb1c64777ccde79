"""How much further from what was expected of it a figure falls than chance would have it.

The interval of an expected figure (:mod:`mlops_assets.core.performance`) takes rows for independent, and a score for what it meant on the
holdout. Rows of a day share their weather, and what a score means changes with the season. What that adds is measured: on the days of
the holdout before a release serves, and then on each window whose labels have come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from statistics import NormalDist

from mlops_assets.core.outcomes import Figure
from mlops_assets.core.performance import Estimate

CONFIDENCE = 0.95
"""How often an interval is to hold what comes true."""

STEP = 0.1
"""Of a margin, in the largest excess of late: the share that the source proposes."""

RECENT = 20
EVERY = timedelta(days=1)
"""Windows overlap from hour to hour; a margin learns from one a day."""

FEWEST_DAYS = 5
"""Of a holdout, to tell how far its days stray."""


@dataclass(frozen=True)
class Margin:
    """What is added, as a second source of error, to the half width of a metric's interval.

    Args:
        half: in the metric's own unit; it adds by its square.
        recent: by how much the newest windows were outside of what chance explains, the newest last.
    """

    half: float = 0.0
    recent: tuple[float, ...] = ()

    def around(self, told: Estimate) -> Estimate:
        """The interval with this margin.

        >>> told = Margin(0.04).around(Estimate(0.7, 0.67, 0.73))
        >>> round(told.lower, 2), round(told.upper, 2)
        (0.65, 0.75)
        """
        half = (_half(told) ** 2 + self.half**2) ** 0.5
        return replace(told, lower=max(told.value - half, 0.0), upper=min(told.value + half, 1.0))

    def after(self, told: Estimate, value: float) -> "Margin":
        """The margin after ``value`` came true of what was ``told`` without it: wider by a step for a miss, narrower by a nineteenth of one
        for a hit, so that the share of misses goes to 5 % whatever makes them.

        Source: quantile tracking, Angelopoulos, Candès and Tibshirani, *Conformal PID Control for Time Series Prediction*, NeurIPS 2023.

        >>> round(Margin().after(Estimate(0.7, 0.67, 0.73), 0.65).half, 4)
        0.0038
        """
        excess = max((value - told.value) ** 2 - _half(told) ** 2, 0.0) ** 0.5
        recent = (*self.recent, excess)[-RECENT:]
        missed = excess > self.half
        return Margin(max(self.half + STEP * max(recent) * (missed - (1 - CONFIDENCE)), 0.0), recent)


@dataclass(frozen=True)
class Margins:
    """Of a model's metrics.

    Args:
        by_metric: those that are known.
        at: the newest event hour that they have learnt from; None if they are the holdout's.
    """

    by_metric: Mapping[str, Margin] = field(default_factory=dict)
    at: datetime | None = None

    def over(self, first: Mapping[str, float]) -> "Margins":
        """These, and for metrics that they do not know the ``first`` ones, by the holdout of a release."""
        return replace(self, by_metric={**{metric: Margin(half) for metric, half in first.items()}, **self.by_metric})

    def around(self, metric: str, told: Estimate) -> Estimate:
        return self.by_metric.get(metric, Margin()).around(told)

    def widened(self, found: Sequence[Figure]) -> tuple[Figure, ...]:
        """The figures, with what was expected of each in its margin."""
        return tuple(
            figure if figure.expected is None else replace(figure, expected=self.around(figure.metric, figure.expected)) for figure in found
        )

    def after(self, found: Sequence[Figure], hour: datetime) -> "Margins":
        """What a window up to ``hour`` teaches, its figures as they are without margins; nothing within a day of the last."""
        if self.at is not None and hour < self.at + EVERY:
            return self
        learnt = {f.metric: self.by_metric.get(f.metric, Margin()).after(f.expected, f.value) for f in found if f.expected is not None}
        return Margins({**self.by_metric, **learnt}, hour)


def first_margins(days: Sequence[Sequence[Figure]]) -> dict[str, float]:
    """By metric, how far the days of a holdout stray, as half widths: what their mean squared difference has more than chance gives.

    Source: the moment estimator of a random effect, DerSimonian and Laird, *Controlled Clinical Trials* 7, 1986, with equal weights.
    """
    beyond: dict[str, list[float]] = {}
    for figure in (figure for day in days for figure in day):
        if figure.expected is not None:
            chance = (_half(figure.expected) / _Z) ** 2
            beyond.setdefault(figure.metric, []).append((figure.value - figure.expected.value) ** 2 - chance)
    return {metric: _Z * max(sum(each) / len(each), 0.0) ** 0.5 for metric, each in sorted(beyond.items()) if len(each) >= FEWEST_DAYS}


_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


def _half(told: Estimate) -> float:
    """Half the interval; on the side where it was not cut at 0 or 1."""
    return max(told.upper - told.value, told.value - told.lower)
