from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mlops_assets.core.hourly import HOUR, HourProfile, Progress, expected_of, hour_named, merge_hours, name_of
from mlops_assets.core.performance import calibrate, estimate
from mlops_assets.core.profile import baseline, profile

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
THRESHOLD = 0.3


def answers(rows: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.column_stack([generator.normal(15, 8, rows), generator.beta(2, 5, rows)]).astype(np.float32)


BASE = baseline(["temperature", "score"], answers(5000, 1))


def hour_of_answers(matrix: np.ndarray) -> HourProfile:
    counted = profile(BASE, matrix)
    yes = profile(BASE, matrix[matrix[:, 1] >= THRESHOLD]).columns[1]
    return HourProfile(counted, yes)


def test_a_day_is_the_sum_of_its_hours():
    rows = [answers(50, seed) for seed in range(24)]
    merged, whole = merge_hours([hour_of_answers(part) for part in rows]), hour_of_answers(np.concatenate(rows))
    for one, other in zip((*merged.profile.columns, merged.yes), (*whole.profile.columns, whole.yes), strict=True):
        assert (one.cells, one.cell_counts, one.nulls) == (other.cells, other.cell_counts, other.nulls)
        assert one.moments.mean == pytest.approx(other.moments.mean)
    assert merged.rows == 24 * 50


def test_a_document_gives_the_same_hour():
    made = hour_of_answers(answers(200, 3))
    again = HourProfile.from_json(made.to_json())
    assert (again.profile, again.yes.cell_counts, again.rows) == (made.profile, made.yes.cell_counts, 200)


@pytest.mark.parametrize("rows", [40, 1000, 20_000])
def test_what_counted_scores_let_expect_is_what_the_scores_do(rows):
    generator, holdout = np.random.default_rng(5), answers(4000, 6)[:, 1].astype(float)
    known = calibrate(holdout, (generator.random(4000) < holdout).astype(int))
    matrix = answers(rows, rows)
    told, exact = expected_of(known, hour_of_answers(matrix)), estimate(known, matrix[:, 1].astype(float), THRESHOLD)
    assert told.rows == exact.rows == rows
    for name in ("auc", "accuracy", "precision", "recall"):
        counted, whole = getattr(told, name), getattr(exact, name)
        assert (counted is None) == (whole is None)
        if whole is not None:
            bounds = (counted.value, counted.lower, counted.upper)
            assert bounds == pytest.approx((whole.value, whole.lower, whole.upper), abs=1e-3), name


def test_hours_in_names_are_in_the_order_of_time():
    hours = [NOON + n * HOUR for n in range(-40, 40)]
    assert sorted(map(name_of, hours)) == [name_of(hour) for hour in hours]
    assert [hour_named(name_of(hour)) for hour in hours] == hours


def test_what_was_read_is_left_to_be_profiled_and_joined_once():
    begun = Progress(is_reported=True).read_to("1", [NOON, NOON + HOUR], NOON + HOUR).read_to("2", [NOON], NOON).read_to("3", [], None)
    assert (begun.position, begun.newest, begun.is_reported) == ("3", NOON + HOUR, False)
    assert begun.unprofiled == begun.unjoined == (NOON, NOON + timedelta(hours=1))
