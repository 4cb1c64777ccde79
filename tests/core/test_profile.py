import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlops_assets.core.errors import BadData
from mlops_assets.core.profile import Profile, baseline, merge, profile

NAMES = ["temperature", "carrier"]
VALUES = st.one_of(st.floats(-50, 50, width=32), st.just(float("nan")), st.sampled_from([0.0, 1.0, 2.0, -1.0, 1e30, float("inf")]))


def matrices(max_rows: int = 60) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, max_rows).flatmap(lambda rows: arrays(np.float32, (rows, 2), elements=VALUES))


def steady(rows: int = 2000) -> np.ndarray:
    generator = np.random.default_rng(11)
    return np.column_stack([generator.normal(15, 8, rows), generator.integers(0, 5, rows)]).astype(np.float32)


def test_a_column_of_many_values_has_ten_bins_of_equal_counts():
    temperature = baseline(NAMES, steady()).columns[0]
    assert len(temperature.edges) == 9
    assert temperature.counts == (200,) * 10


def test_a_category_has_a_bin_of_its_own_and_so_has_what_was_never_seen():
    base = baseline(["carrier"], np.array([[0], [0], [1], [3]], dtype=np.float32))
    assert base.columns[0].counts == (0, 2, 0, 1, 0, 1, 0)
    unknown, fresh, later = 0, 4, 6
    seen = profile(base, np.array([[-1], [-1], [2], [4], [4], [4]], dtype=np.float32)).columns[0].counts
    assert (seen[unknown], seen[fresh], seen[later]) == (2, 1, 3)


def test_a_constant_column_shows_when_it_is_constant_no_more():
    base = baseline(["flag"], np.zeros((50, 1)))
    assert base.columns[0].counts == (0, 50, 0)
    assert profile(base, np.ones((50, 1))).columns[0].counts == (0, 0, 50)


def test_a_double_falls_into_the_bin_of_the_float_that_the_model_saw():
    base = baseline(["share"], np.array([[0.1], [0.2], [0.3]], dtype=np.float64))
    assert profile(base, np.array([[0.1], [0.2], [0.3]], dtype=np.float32)) == base


def test_missing_values_are_counted_apart():
    base = baseline(NAMES, np.full((7, 2), np.nan))
    assert [(column.edges, column.counts, column.nulls, column.rows) for column in base.columns] == [((), (0,), 7, 7)] * 2


@given(matrices(), matrices())
def test_every_row_is_counted_once(first, second):
    base = baseline(NAMES, first)
    for made, rows in ((base, len(first)), (profile(base, second), len(second))):
        assert [column.rows for column in made.columns] == [rows, rows]
        assert all(len(column.counts) == len(column.edges) + 1 for column in made.columns)
        assert all(list(column.edges) == sorted(set(column.edges)) for column in made.columns)


@given(matrices(), matrices(), matrices(), matrices())
def test_profiles_of_parts_add_up_in_any_order(start, one, two, three):
    base = baseline(NAMES, start)
    a, b, c = (profile(base, rows) for rows in (one, two, three))
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(merge(a, b), c) == profile(base, np.concatenate([one, two, three]))


@given(matrices())
def test_a_profile_survives_its_json_to_the_last_bit(rows):
    made = baseline(NAMES, rows)
    assert Profile.from_json(made.to_json()) == made
    assert profile(Profile.from_json(made.to_json()), rows) == made


def test_a_profile_of_another_version_is_refused():
    document = json.loads(baseline(NAMES, steady()).to_json()) | {"version": 99}
    with pytest.raises(BadData, match="version 99, expected 1"):
        Profile.from_json(json.dumps(document))


def test_profiles_over_different_bins_are_not_added():
    with pytest.raises(BadData, match="'temperature' was counted over different bins"):
        merge(baseline(NAMES, steady()), baseline(NAMES, steady() + 1))
    with pytest.raises(BadData, match="one profile has the columns temperature, carrier, the other a, b"):
        merge(baseline(NAMES, steady()), baseline(["a", "b"], steady()))


@pytest.mark.parametrize("matrix", [np.zeros((3, 1)), np.zeros((3, 3)), np.zeros(3)])
def test_a_matrix_of_another_width_is_refused(matrix):
    with pytest.raises(BadData, match="expected 2 columns: temperature, carrier"):
        profile(baseline(NAMES, steady()), matrix)
    with pytest.raises(BadData, match="expected 2 columns: temperature, carrier"):
        baseline(NAMES, matrix)
