"""A day that is written again: what was known before stays as it was, what is known since is what was written last."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.adapters import feature_rows
from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.core.errors import BadData
from mlops_assets.ports import FeatureStore
from tests.adapters.test_feast import REPO, SALES, SHOPS, asked, at, sales, write
from tests.adapters.test_point_in_time import QUESTIONS, TTL, Question, Row, empty, put, questions, time

pytestmark = pytest.mark.long

__all__ = ["empty"]  # a fixture

DAY = date(2013, 1, 5)
MIDNIGHT = "06T00:00"


@pytest.fixture(params=["feast", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    return FeastFeatureStore(REPO, tmp_path, MemoryObjectStore()) if request.param == "feast" else MemoryFeatureStore()


def told(store: FeatureStore, *asking: tuple[str, str]) -> list[float | None]:
    """The sales of shops as known at these times."""
    return [None if pd.isna(value) else value for value in store.as_of(SHOPS, asked(*asking))["sales"]]


def test_a_corrected_value_counts_from_when_it_was_written(store: FeatureStore) -> None:
    write(store, sales(("a", "05T23:00", "05T23:00", 1, "good")))
    write(store, sales(("a", "05T23:00", "05T23:00", 2, "good")), MIDNIGHT)
    assert told(store, ("a", "05T23:59:59"), ("a", MIDNIGHT)) == [1, 2]


def test_a_value_that_comes_late_counts_from_when_it_was_written(store: FeatureStore) -> None:
    write(store, sales(("a", "05T22:00", "05T22:00", 1, None)))
    write(store, sales(("a", "05T22:00", "05T22:00", 1, None), ("a", "05T23:00", "05T23:00", 2, None)), MIDNIGHT)
    assert told(store, ("a", "05T23:30"), ("a", MIDNIGHT)) == [1, 2]


def test_a_day_that_had_no_rows_was_written_all_the_same(store: FeatureStore) -> None:
    write(store, feature_rows.empty(SALES))
    write(store, sales(("a", "05T23:00", "05T23:00", 1, None)), MIDNIGHT)
    assert told(store, ("a", "05T23:30"), ("a", MIDNIGHT)) == [None, 1]


def test_a_value_that_is_gone_is_null_from_when_that_was_written_on(store: FeatureStore) -> None:
    both = sales(("a", "05T23:00", "05T23:00", 1, "good"), ("b", "05T23:00", "05T23:00", 2, None))
    write(store, both)
    write(store, both[1:], MIDNIGHT)
    assert told(store, ("a", "05T23:30"), ("a", MIDNIGHT), ("b", MIDNIGHT)) == [1, None, 2]
    write(store, both, "06T01:00")
    assert told(store, ("a", "05T23:30"), ("a", "06T00:30"), ("a", "06T01:00")) == [1, None, 1]


def test_what_could_not_be_seen_yet_is_replaced(store: FeatureStore) -> None:
    write(store, sales(("a", "05T10:00", "05T10:00", 1, None), ("b", "05T10:00", "05T10:00", 1, None)))
    write(store, sales(("a", "05T10:00", "05T10:00", 2, None), ("c", "05T11:00", "05T11:00", 3, None)), "05T09:00")
    assert told(store, ("a", "05T10:00"), ("b", "05T10:00"), ("c", "05T11:00")) == [2, None, 3]


def test_a_row_is_never_known_before_it_says_so_itself(store: FeatureStore) -> None:
    write(store, feature_rows.empty(SALES))
    write(store, sales(("a", "05T20:00", "05T23:00", 1, None)), "05T21:00")
    assert told(store, ("a", "05T22:00"), ("a", "05T23:00")) == [None, 1]


def test_a_day_that_was_corrected_twice_at_one_time_says_what_was_written_last(store: FeatureStore) -> None:
    for value in (1, 2, 3):
        write(store, sales(("a", "05T23:00", "05T23:00", value, None)), MIDNIGHT)
    assert told(store, ("a", "05T23:30"), ("a", MIDNIGHT)) == [1, 3]


def test_a_correction_counts_though_the_clock_went_back(store: FeatureStore) -> None:
    for value, written_at in ((1, "05T00:00"), (2, "06T00:30"), (3, MIDNIGHT)):
        write(store, sales(("a", "05T23:00", "05T23:00", value, None)), written_at)
    assert told(store, ("a", "06T00:15"), ("a", "06T00:30")) == [1, 3]


@pytest.mark.parametrize("again", ["as it was", "in another order", "to nine digits", "with times in another zone"])
def test_equal_rows_write_nothing(again: str, tmp_path: Path) -> None:
    objects, memory = MemoryObjectStore(), MemoryFeatureStore()
    feast = FeastFeatureStore(REPO, tmp_path, objects)
    rows = sales(
        ("a", "05T09:00", "05T09:00", 0.1, "good"), ("b", "05T10:00", "05T10:00", None, None), ("c", "05T11:00", "05T11:00", 3, None)
    )
    same = {
        "as it was": rows,
        "in another order": rows[::-1],
        "to nine digits": rows.assign(sales=rows["sales"] * (1 + 1e-14)),
        "with times in another zone": rows.assign(event_timestamp=rows["event_timestamp"].dt.tz_convert("Asia/Tokyo")),
    }[again]
    for store in (feast, memory):
        write(store, rows)
    (before,) = objects.list("tables/features/")
    held = memory._days["shop_sales"][DAY]
    for store in (feast, memory):
        write(store, same, MIDNIGHT)
    assert list(objects.list("tables/features/")) == [before]
    assert memory._days["shop_sales"][DAY] is held


def test_corrections_that_are_written_again_write_nothing() -> None:
    first = sales(("a", "05T23:00", "05T23:00", 1, None), ("b", "05T23:00", "05T23:00", 1, None))
    corrected = sales(("a", "05T23:00", "05T23:00", 2, None), ("c", "05T23:00", "05T23:00", None, None))
    once = feature_rows.rewritten(SALES, DAY, feature_rows.rewritten(SALES, DAY, None, first, at("05T00:00")), corrected, at(MIDNIGHT))
    assert once is not None
    assert len(once) == len(first) + 3  # what a is now, that b is gone, that c is there and null
    assert feature_rows.rewritten(SALES, DAY, once, corrected, at("07T00:00")) is None


def test_a_correction_reaches_the_online_store_when_it_is_known(store: FeatureStore) -> None:
    write(store, sales(("a", "05T23:00", "05T23:00", 1, "good"), ("b", "05T23:00", "05T23:00", 5, None)))
    write(store, sales(("a", "05T23:00", "05T23:00", 2, "bad")), MIDNIGHT)
    seen = []
    for until in ("05T23:30", MIDNIGHT, "06T00:30"):
        written = store.materialize(SHOPS, at(until))
        online = store.online(SHOPS, asked(("a", until), ("b", until)))
        offline = store.as_of(SHOPS, asked(("a", until), ("b", until)))
        pd.testing.assert_frame_equal(online, offline)
        seen.append((written, *online["sales"].fillna(-1)))
    assert seen == [(2, 1, 5), (2, 2, -1), (0, 2, -1)]


def test_a_view_that_gets_a_field_has_it_for_all_of_its_history_and_the_others_stay() -> None:
    narrow = replace(SALES, fields=SALES.fields[:1])
    stored = feature_rows.rewritten(
        narrow, DAY, None, sales(("a", "05T09:00", "05T09:00", 1, "good"), ("b", "05T09:00", "05T09:00", 2, "good")), at("05T00:00")
    )
    assert stored is not None
    assert "mood" not in stored
    rows = sales(("a", "05T09:00", "05T09:00", 1, "bad"), ("b", "05T09:00", "05T09:00", 3, "bad"))
    wide = feature_rows.rewritten(SALES, DAY, stored, rows, at(MIDNIGHT))
    expected = sales(("a", "05T09:00", "05T09:00", 1, "bad"), ("b", "05T09:00", "05T09:00", 2, None), ("b", "05T09:00", MIDNIGHT, 3, "bad"))
    assert wide is not None
    assert wide.fillna("-").to_dict("records") == expected.fillna("-").to_dict("records")
    assert feature_rows.rewritten(SALES, DAY, wide, rows, at("07T00:00")) is None
    # The next rewrite knows the field: another value of it is a correction.
    assert feature_rows.rewritten(SALES, DAY, wide, rows.assign(mood="good"), at("07T00:00")) is not None


def test_rows_that_the_view_does_not_declare_so_are_refused_when_they_are_written(store: FeatureStore) -> None:
    with pytest.raises(BadData, match="declare the field as 'string' or mend the transform"):
        write(store, sales(("a", "05T09:00", "05T09:00", 1, None)).assign(sales="many"))
    with pytest.raises(BadData, match="entity column 'shop' is missing"):
        write(store, sales(("a", "05T09:00", "05T09:00", 1, None)).drop(columns="shop"))


@dataclass(frozen=True)
class Write:
    """What a transform said, so many steps after the write before."""

    rows: list[Row]
    after: int


def believed(writes: list[Write], at_step: int) -> dict[tuple[str, int], float | None]:
    """The reference: the values of each shop and time according to the writes up to a step, the first of which counts from ever."""
    values: dict[tuple[str, int], float | None] = {}
    step = 0
    for number, write_ in enumerate(writes):
        step += write_.after
        if number == 0 or step <= at_step:
            said = {(row.shop, row.valid): row.value for row in write_.rows}
            values = dict.fromkeys(values) | said
    return values


def answer(writes: list[Write], question: Question) -> float | None:
    newest = [
        valid
        for shop, valid in believed(writes, question.step)
        if shop == question.shop and valid <= question.step and time(valid) >= time(question.step) - TTL
    ]
    return believed(writes, question.step)[question.shop or "", max(newest)] if newest else None


SAID = st.lists(
    st.builds(
        lambda shop, valid, value: Row(shop, valid, valid, value),
        st.sampled_from(["a", "b"]),
        st.integers(0, 13),
        st.none() | st.integers(0, 3).map(float),
    ),
    max_size=8,
    unique_by=lambda row: (row.shop, row.valid),
)
WRITES = st.lists(st.builds(Write, SAID, st.integers(0, 12)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES, asking=QUESTIONS)
def test_every_answer_is_by_what_had_been_written_at_its_time(
    empty: Callable[[], FeatureStore], writes: list[Write], asking: list[Question]
) -> None:
    store, step = empty(), 0
    for write_ in writes:
        step += write_.after
        put(store, write_.rows, time(step))
    found = store.as_of(SHOPS, questions(asking))["sales"]
    assert [None if pd.isna(value) else value for value in found] == [answer(writes, question) for question in asking]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES, until=st.integers(0, 30))
def test_the_online_store_says_what_the_offline_store_says_after_any_writes(
    empty: Callable[[], FeatureStore], writes: list[Write], until: int
) -> None:
    store, step = empty(), 0
    for write_ in writes:
        step += write_.after
        put(store, write_.rows, time(step))
        store.materialize(SHOPS, time(step))
    store.materialize(SHOPS, time(until))
    asking = questions([Question("a", until), Question("b", until)])
    pd.testing.assert_frame_equal(store.online(SHOPS, asking), store.as_of(SHOPS, asking))


def test_what_other_code_computed_is_replaced_since_it_is_no_history_of_this(store: FeatureStore) -> None:
    first = sales(("a", "05T23:00", "05T23:00", 1, "good"), ("b", "05T23:00", "05T23:00", 1, "good"))
    anew = sales(("a", "05T23:00", "05T23:00", 7, "good"))
    store.write(SALES, DAY, first, at(MIDNIGHT), "old code")
    store.write(SALES, DAY, anew, at("07T00:00"), "new code")
    assert told(store, ("a", "05T23:30"), ("b", "05T23:30")) == [7, None]
    store.write(SALES, DAY, first, at("07T00:00"), "new code")
    assert told(store, ("a", "05T23:30"), ("b", "05T23:30"), ("a", "07T01:00")) == [7, None, None]
