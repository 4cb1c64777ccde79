import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlops_assets.core import grid
from mlops_assets.core.errors import BadData
from mlops_assets.core.profile import FEW, Profile, baseline, bins_of, merge, merge_all, profile

NAMES = ["temperature", "carrier"]
VALUES = st.one_of(st.floats(-50, 50, width=32), st.just(float("nan")), st.sampled_from([0.0, 1.0, 2.0, -1.0, 1e30, float("inf")]))


def matrices(max_rows: int = 60) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, max_rows).flatmap(lambda rows: arrays(np.float32, (rows, 2), elements=VALUES))


def steady(rows: int = 2000) -> np.ndarray:
    generator = np.random.default_rng(11)
    return np.column_stack([generator.normal(15, 8, rows), generator.integers(0, 5, rows)]).astype(np.float32)


def test_a_column_of_many_values_has_ten_bins_of_equal_counts():
    temperature = baseline(NAMES, steady()).columns[0]
    assert temperature.counts == pytest.approx((200,) * 10, abs=10)  # a bin ends with the cell in which its quantile lies


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
    assert [(column.cuts, column.counts, column.nulls, column.rows) for column in base.columns] == [((), (0,), 7, 7)] * 2


def test_infinities_are_counted_apart_and_lie_in_the_outer_bins():
    base = baseline(NAMES, steady())
    before, seen = base.columns[0], profile(base, np.array([[np.inf, 0], [-np.inf, 0], [15, 0]], dtype=np.float32)).columns[0]
    assert (seen.infinite, seen.moments.count, seen.moments.mean) == (2, 1, 15)
    assert (seen.counts[0], seen.counts[-1]) == (1, 1)
    assert before.infinite == 0


@given(matrices(), matrices())
def test_every_row_is_counted_once(first, second):
    base = baseline(NAMES, first)
    for made, rows in ((base, len(first)), (profile(base, second), len(second))):
        assert [column.rows for column in made.columns] == [rows, rows]
        assert [sum(column.counts) + column.nulls for column in made.columns] == [rows, rows]
        assert all(len(column.counts) == len(column.cuts) + 1 for column in made.columns)
        assert all(list(column.cuts) == sorted(set(column.cuts)) for column in made.columns)
        assert all(column.moments.count + column.infinite + column.nulls == rows for column in made.columns)


def same(left: Profile, right: Profile) -> bool:
    """Equal to the last bit in every count, and to 1e-9 of the largest value in the moments."""
    for one, other in zip(left.columns, right.columns, strict=True):
        a, b = one.moments, other.moments
        scale = max(abs(value) for value in (a.minimum, a.maximum, 1.0) if value is not None)
        assert replace(one, moments=b) == other
        assert (a.count, a.minimum, a.maximum) == (b.count, b.minimum, b.maximum)
        assert a.mean == pytest.approx(b.mean, rel=1e-9, abs=1e-9 * scale)
        assert a.squares == pytest.approx(b.squares, rel=1e-9, abs=1e-9 * scale * scale)
    return True


@given(matrices(), matrices(), matrices(), matrices())
def test_profiles_of_parts_add_up_in_any_order(start, one, two, three):
    base = baseline(NAMES, start)
    a, b, c = (profile(base, rows) for rows in (one, two, three))
    assert same(merge(a, b), merge(b, a))
    assert same(merge(merge(a, b), c), merge(a, merge(b, c)))
    assert same(merge(merge(a, b), c), profile(base, np.concatenate([one, two, three])))
    assert merge(a, profile(base, start[:0])) == a


@given(matrices())
def test_moments_are_those_of_numpy(rows):
    for column, values in zip(baseline(NAMES, rows).columns, rows.T.astype(float), strict=True):
        finite = values[np.isfinite(values)]
        assert column.moments.count == len(finite)
        if len(finite):
            scale = np.abs(finite).max() + 1
            assert column.moments.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9 * scale)
            assert column.moments.deviation == pytest.approx(finite.std(), rel=1e-6, abs=1e-6 * scale)
            assert (column.moments.minimum, column.moments.maximum) == (finite.min(), finite.max())
        else:
            assert (column.moments.deviation, column.moments.minimum, column.moments.maximum) == (None, None, None)


def test_a_large_offset_costs_the_deviation_nothing():
    values = np.float32(1e6) + np.arange(1000, dtype=np.float32)[:, None] % 64
    assert baseline(["t"], values).columns[0].moments.deviation == pytest.approx(values.astype(float).std(), rel=1e-12)


@given(matrices(), matrices())
def test_the_bin_of_a_row_is_the_one_in_which_it_is_counted(start, rows):
    base = baseline(NAMES, start)
    for column, seen, values in zip(base.columns, profile(base, rows).columns, rows.T, strict=True):
        assert tuple(np.bincount(bins_of(column, values), minlength=len(column.cuts) + 2)) == (*seen.counts, seen.nulls)


@given(arrays(np.float32, 30, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_cells_are_in_the_order_of_values_and_hold_where_they_lie(values):
    cells = grid.cell_of(np.sort(values))
    assert np.all(np.diff(cells) >= 0)
    exact = np.sort(values).astype(float)
    assert np.all(np.abs(grid.places(cells, exact=False) - exact) <= np.abs(exact) / 512 + 1e-37)
    assert np.all(np.abs(grid.places(cells, exact=True) - exact) <= np.abs(exact) / 256 + 1e-37)


def test_whole_numbers_to_511_lie_in_cells_of_their_own_exactly():
    numbers = np.arange(-511, 512)
    assert grid.places(grid.cell_of(numbers.astype(np.float32)), exact=True).tolist() == numbers.tolist()


def test_quantiles_are_finer_than_those_of_a_kll_sketch_of_200():
    from datasketches import kll_floats_sketch

    values = np.random.default_rng(3).gamma(2, 10, 100_000).astype(np.float32)
    column = baseline(["delay"], values[:, None]).columns[0]
    sketch = kll_floats_sketch(200)
    sketch.update(values)
    where = column.centre + grid.places(np.asarray(column.cells), exact=False)
    shares = np.arange(1, 100) / 100
    ours = where[np.searchsorted(np.cumsum(column.cell_counts), shares * len(values))]
    rank = np.searchsorted(np.sort(values), ours) / len(values)
    assert np.max(np.abs(rank - shares)) < sketch.normalized_rank_error(False)


def test_a_column_takes_some_kilobytes_however_many_rows_it_has():
    values = np.random.default_rng(3).normal(15, 8, (300_000, 1)).astype(np.float32)
    assert len(baseline(["t"], values).to_json()) < 16_000


@given(matrices())
def test_a_profile_survives_its_json_to_the_last_bit(rows):
    made = baseline(NAMES, rows)
    assert Profile.from_json(made.to_json()) == made
    assert profile(Profile.from_json(made.to_json()), rows) == made


def test_a_profile_of_another_version_is_refused():
    document = json.loads(baseline(NAMES, steady()).to_json()) | {"version": 99}
    with pytest.raises(BadData, match="version 99, expected 2"):
        Profile.from_json(json.dumps(document))


def test_a_profile_of_the_first_version_is_refused():
    first = {"version": 1, "columns": [{"name": "t", "edges": [1.0], "counts": [1, 2], "nulls": 0}]}
    with pytest.raises(BadData, match="version 1, expected 2: make it again from its rows"):
        Profile.from_json(json.dumps(first))


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


def test_few_values_are_counted_as_many_are():
    values = steady(FEW + 5)[:, 0]
    base = baseline(["temperature"], steady()[:, :1])
    whole = profile(base, values[:, None])
    parts = [profile(base, part[:, None]) for part in (values[:FEW], values[FEW:])]
    assert merge_all(parts).columns[0].cell_counts == whole.columns[0].cell_counts
    assert merge_all([*parts, parts[0]]).columns[0].rows == 2 * FEW + 5
