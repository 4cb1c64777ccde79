"""How far figures stray from what was expected of them: whether intervals then hold the truth as often as they say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.margins import CONFIDENCE, Margin, Margins, first_margins
from mlops_assets.core.outcomes import Figure
from mlops_assets.core.performance import Estimate

HOUR = datetime(2024, 5, 1, tzinfo=UTC)
CHANCE = 0.02
"""The standard error of a figure by chance alone."""


def told(value: float = 0.7, error: float = CHANCE) -> Estimate:
    return Estimate(value, value - 1.96 * error, value + 1.96 * error)


def came(values: np.ndarray, metric: str = "auc") -> list[tuple[Figure, ...]]:
    return [(Figure(metric, float(value), None, None, told()),) for value in values]


@pytest.mark.parametrize("stray", [0.01, 0.03, 0.1])
def test_from_days_that_stray_the_spread_behind_them_is_found(stray: float) -> None:
    generator, days = np.random.default_rng(3), 4000
    days_of = came(0.7 + generator.normal(0, CHANCE, days) + generator.normal(0, stray, days))
    # the standard error of a variance from n values is sqrt(2 / n) of it; four of them
    sure = 4 * (2 / days) ** 0.5 * (CHANCE**2 + stray**2)
    assert (first_margins(days_of)["auc"] / 1.96) ** 2 == pytest.approx(stray**2, abs=sure)


def test_days_that_stray_by_chance_alone_add_next_to_nothing() -> None:
    days = came(0.7 + np.random.default_rng(4).normal(0, CHANCE, 4000))
    assert first_margins(days).get("auc", 0.0) < 1.96 * CHANCE / 3


def test_a_few_days_tell_nothing() -> None:
    assert first_margins(came(np.array([0.1, 0.9, 0.1, 0.9]))) == {}


def _worlds(steps: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(6)
    chance = generator.normal(0, CHANCE, steps)
    weather = np.zeros(steps)
    for step in range(1, steps):
        weather[step] = 0.9 * weather[step - 1] + generator.normal(0, 0.03)
    return {
        "a score that no longer means what it did": 0.58 + chance,
        "days that share their weather": 0.7 + chance + weather,
        "a world that changes half way": 0.7 + chance - 0.2 * (np.arange(steps) > steps / 2),
        "a season": 0.7 + chance + 0.1 * np.sin(np.arange(steps) / 58),
    }


@pytest.mark.parametrize("name", _worlds(2))
def test_whatever_moves_a_figure_its_interval_comes_to_hold_it_as_often_as_it_says(name: str) -> None:
    steps = 2000
    margins, misses, values = Margins(), 0, _worlds(steps)[name]
    for step, found in enumerate(came(np.clip(values, 0, 1))):
        misses += not margins.widened(found)[0].is_covered
        margins = margins.after(found, HOUR + step * timedelta(days=1))
    # what the source proves: the share is off by at most (largest + step) / (step * steps), largest the largest excess there was
    largest = np.abs(values - 0.7).max()
    bound = (largest + 0.1 * largest) / (0.1 * largest * steps)
    assert misses / steps <= 1 - CONFIDENCE + bound


def test_where_chance_explains_everything_nothing_is_added_for_long() -> None:
    margin, generator = Margin(0.2), np.random.default_rng(7)
    for value in 0.7 + generator.normal(0, CHANCE, 3000):
        margin = margin.after(told(), float(value))
    assert margin.half < 2 * CHANCE


def test_of_windows_that_overlap_one_a_day_is_learnt_from_and_the_same_again_changes_nothing() -> None:
    found = came(np.array([0.5]))[0]
    first = Margins().after(found, HOUR)
    assert first.by_metric["auc"].half > 0
    assert first.after(found, HOUR) is first
    assert first.after(found, HOUR + timedelta(hours=23)) is first
    assert first.after(found, HOUR + timedelta(hours=24)).by_metric["auc"].half > first.by_metric["auc"].half


def test_what_labels_taught_stands_before_what_a_holdout_says() -> None:
    learnt = Margins({"auc": Margin(0.07)}, HOUR)
    assert learnt.over({"auc": 0.5, "recall": 0.2}) == Margins({"auc": Margin(0.07), "recall": Margin(0.2)}, HOUR)


def test_a_figure_of_which_nothing_was_expected_stays_as_it_is() -> None:
    figure = Figure("brier", 0.2, 0.1, 0.3)
    assert Margins({"brier": Margin(0.1)}).widened([figure]) == (figure,)
    assert Margins().after([figure], HOUR).by_metric == {}


@given(st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 1))
def test_a_margin_never_narrows_an_interval_and_stays_a_share(value: float, half: float, more: float, true: float) -> None:
    before = Estimate(value, max(value - half, 0.0), min(value + half, 1.0))
    now = Margin(more).around(before)
    assert 0 <= now.lower <= before.lower + 1e-9
    assert before.upper - 1e-9 <= now.upper <= 1
    after = Margin(more).after(before, true)
    assert after.half >= 0
    assert replace(after, half=0.0).recent[-1] <= 1
