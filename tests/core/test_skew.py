"""Every difference between what was served and what is computed again is found, and nothing else."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.skew import MIN_ROWS, compare, judge
from mlops_assets.core.verdict import Outcome

values = st.none() | st.floats(allow_nan=True, allow_infinity=False, width=32)


@given(st.lists(values, max_size=50))
def test_the_same_values_do_not_differ(column: list[float | None]) -> None:
    (skew,) = compare({"x": column}, {"x": [np.nan if value is None else value for value in column]})
    assert (skew.rows, skew.differing, skew.largest, skew.example) == (len(column), 0, 0.0, None)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.data())
def test_one_changed_value_is_found_where_it_is(column: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(column) - 1))
    other = data.draw(st.sampled_from([None, column[place] + 1 + abs(column[place]) * 1e-3]))
    changed = [*column[:place], other, *column[place + 1 :]]
    (skew,) = compare({"x": column}, {"x": changed})
    assert (skew.differing, skew.example) == (1, place)
    assert skew.largest == (inf if other is None else pytest.approx(other - column[place]))


def test_strings_differ_or_do_not() -> None:
    mood, town = compare({"town": ["Ulm", "Bonn"], "mood": ["good", "bad"]}, {"town": ["Ulm", "Bonn"], "mood": ["bad", "good"]})
    assert (mood.name, mood.differing, mood.largest) == ("mood", 2, inf)
    assert (town.name, town.differing) == ("town", 0)


@pytest.mark.parametrize(
    ("rows", "differing", "outcome"),
    [
        (0, 0, Outcome.INCONCLUSIVE),
        (MIN_ROWS - 1, 0, Outcome.INCONCLUSIVE),
        (MIN_ROWS, 0, Outcome.PASS),
        (3, 1, Outcome.FAIL),
        (1000, 1, Outcome.FAIL),
    ],
)
def test_one_difference_is_one_too_many_and_few_rows_show_nothing(rows: int, differing: int, outcome: Outcome) -> None:
    served = [1.0] * rows
    verdict = judge(compare({"x": served}, {"x": [2.0] * differing + served[differing:]}))
    assert verdict.outcome is outcome
    assert verdict.threshold == 0.0
    assert verdict.sample == rows
    assert verdict.value == (None if rows == 0 else pytest.approx(differing / rows))


def test_what_is_told_names_the_worst_first() -> None:
    served = {"a": [1.0] * 30, "b": [1.0] * 30, "c": [1.0] * 30}
    verdict = judge(compare(served, {**served, "a": [2.0] + [1.0] * 29, "c": [2.0] * 9 + [1.0] * 21}))
    assert verdict.reason == "served otherwise than computed again: c in 9 of 30, a in 1 of 30"
    assert verdict.value == pytest.approx(0.3)
