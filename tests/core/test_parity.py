"""A verdict on an export, and the rows on which it is worth something."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.parity import boundary_rows, compare, floor_float32
from mlops_assets.core.verdict import Outcome


def test_equal_decisions_within_the_tolerance_pass_with_the_largest_difference():
    verdict = compare([0.2, 0.7], [0.2, 0.70001], 0.5)
    assert verdict.passed
    assert verdict.value == pytest.approx(1e-5)
    assert verdict.sample == 2


def test_one_flipped_decision_fails_however_small_the_difference():
    verdict = compare([0.5, 0.1], [np.nextafter(0.5, 0), 0.1], 0.5)
    assert verdict.outcome is Outcome.FAIL
    assert "1 of 2 decisions differ, the first in row 0" in verdict.reason


def test_a_large_difference_fails_without_a_flip():
    assert compare([0.1], [0.2], 0.5).outcome is Outcome.FAIL


@pytest.mark.parametrize(("expected", "got"), [([0.1], [np.nan]), ([np.inf], [0.1])])
def test_a_score_that_is_not_finite_fails(expected, got):
    assert compare(expected, got, 0.5).outcome is Outcome.FAIL


def test_another_number_of_scores_fails():
    verdict = compare([0.1, 0.2], [0.1], 0.5)
    assert verdict.outcome is Outcome.FAIL
    assert "(1,)" in verdict.reason


def test_nothing_compared_is_inconclusive():
    assert compare([], [], 0.5).outcome is Outcome.INCONCLUSIVE


def test_boundary_rows_differ_from_a_real_row_in_one_feature_only():
    base = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = boundary_rows(base, {1: [0.1, 0.2], 2: [7.5]})
    assert rows.shape == (9, 3)
    assert rows.dtype == np.float32
    for row in rows:
        assert min((row != real).sum() for real in base) == 1


def test_the_number_of_rows_is_limited_and_the_thresholds_are_chosen_evenly():
    rows = boundary_rows(np.zeros((1, 1)), {0: list(range(1_000))}, per_feature=10)
    assert len(rows) == 30
    assert {0.0, 999.0} <= set(rows[:, 0].tolist())


def test_without_thresholds_there_are_no_rows():
    assert boundary_rows(np.zeros((3, 2)), {}).shape == (0, 2)


@given(st.floats(-1e30, 1e30), st.floats(width=32, allow_nan=False))
def test_a_float32_is_at_most_a_threshold_exactly_if_it_is_at_most_its_floor(threshold, x):
    (floor,) = floor_float32(np.array([threshold]))
    for value in (np.float32(x), floor, np.nextafter(floor, np.float32(np.inf)), np.nextafter(floor, np.float32(-np.inf))):
        assert (float(value) <= threshold) == (value <= floor)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20))
def test_every_threshold_has_a_row_on_either_side(thresholds):
    values = boundary_rows(np.zeros((1, 1)), {0: thresholds})[:, 0].astype(np.float64)
    for threshold in thresholds:
        below, above = values[values <= threshold].max(), values[values > threshold].min()
        assert np.nextafter(np.float32(below), np.float32(np.inf)) == np.float32(above)


def test_a_split_between_missing_and_any_value_has_finite_rows_only():
    assert np.isfinite(boundary_rows(np.zeros((1, 1)), {0: [np.inf, 1e300, -np.inf]})).all()


def test_a_threshold_beyond_float32_has_the_largest_float32_below_it():
    assert floor_float32(np.array([1e300]))[0] == np.finfo(np.float32).max
