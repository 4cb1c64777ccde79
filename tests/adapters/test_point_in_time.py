"""Every answer is what a slow, obvious search finds among the rows that were known at the time; and old training sets stay as they were."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.adapters.feast import FeastFeatureStore
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.tables import to_parquet
from mlops_assets.ports import FeatureStore
from tests.adapters.test_feast import REPO, SALES, SHOPS, asked, at, feast, sales

START, STEP = at("05T20:00"), timedelta(minutes=20)
"""Steps cross midnight, since a day is a file, and nine of them are the time to live."""

TTL = SALES.ttl


@dataclass(frozen=True)
class Row:
    """A value of a shop, valid from step ``valid`` on and written at step ``known``, perhaps before: a forecast."""

    shop: str
    valid: int
    known: int
    value: float | None


@dataclass(frozen=True)
class Question:
    shop: str | None
    step: int


def time(step: int) -> pd.Timestamp:
    return START + step * STEP


def answer(rows: list[Row], question: Question) -> float | None:
    """The reference: look at every row, keep the newest of those that count."""
    newest: Row | None = None
    for row in rows:
        is_known = row.shop == question.shop and row.valid <= question.step and row.known <= question.step
        if not is_known or time(row.valid) < time(question.step) - TTL:
            continue
        if newest is None or (row.valid, row.known) >= (newest.valid, newest.known):
            newest = row
    return newest.value if newest else None


def frame(rows: list[Row]) -> pd.DataFrame:
    columns = {
        "shop": pd.Series([row.shop for row in rows], dtype=object),
        "event_timestamp": pd.Series([time(row.valid) for row in rows], dtype="datetime64[us, UTC]"),
        "created_timestamp": pd.Series([time(row.known) for row in rows], dtype="datetime64[us, UTC]"),
        "sales": pd.Series([row.value for row in rows], dtype="float64"),
    }
    return pd.DataFrame(columns).assign(mood=None)


def put(store: FeatureStore, rows: list[Row], written_at: pd.Timestamp = START) -> None:
    """Both days, in the order given."""
    written = frame(rows)
    for day in (date(2013, 1, 5), date(2013, 1, 6)):
        store.write(SALES, day, written[written["event_timestamp"].dt.date == day], written_at)


def questions(asking: list[Question]) -> pd.DataFrame:
    times = pd.Series([time(question.step) for question in asking], dtype="datetime64[us, UTC]")
    # An index of its own, as a caller's filtered frame has.
    frame = pd.DataFrame(
        {"shop": [question.shop for question in asking], "town": None, "size": range(len(asking)), "event_timestamp": times}
    )
    return frame.set_axis(range(1000, 1000 - len(asking), -1), axis=0)


SHOP = st.sampled_from(["a", "b"])
ROWS = st.lists(
    st.builds(
        lambda shop, valid, late, value: Row(shop, valid, valid + late, value),
        SHOP,
        st.integers(0, 13),
        st.integers(-3, 14),
        st.none() | st.integers(0, 99).map(float),
    ),
    max_size=14,
)
QUESTIONS = st.lists(st.builds(Question, SHOP | st.sampled_from(["nowhere", None]), st.integers(-1, 36)), min_size=1, max_size=12)


@pytest.fixture(scope="module", params=["feast", "memory"])
def empty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], FeatureStore]:
    """Makes a store in which nothing was written. Feast's is always the same one, since it takes long to open."""
    if request.param == "memory":
        return MemoryFeatureStore
    objects = MemoryObjectStore()
    store = FeastFeatureStore(REPO, tmp_path_factory.mktemp("feast"), objects)

    def emptied() -> FeatureStore:
        for info in objects.list("tables/"):
            objects.delete(info.key)
        return store

    return emptied


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, asking=QUESTIONS)
@pytest.mark.long
def test_every_event_comes_back_once_in_its_place_with_the_newest_value_known_at_its_time(
    empty: Callable[[], FeatureStore], rows: list[Row], asking: list[Question]
) -> None:
    store = empty()
    put(store, rows)
    entities = questions(asking)
    found = store.as_of(SHOPS, entities)
    pd.testing.assert_frame_equal(found[list(entities.columns)], entities)
    assert [None if pd.isna(value) else value for value in found["sales"]] == [answer(rows, question) for question in asking]


def digest(store: FeatureStore, entities: pd.DataFrame) -> str:
    return hashlib.sha256(to_parquet(store.as_of(SHOPS, entities))).hexdigest()


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_history_that_is_written_a_month_later_does_not_change_an_old_training_set(kind: str, tmp_path) -> None:
    store = feast(tmp_path) if kind == "feast" else MemoryFeatureStore()
    day = date(2013, 1, 5)
    then = sales(("a", "05T09:00", "05T09:10", 1, "good"), ("b", "05T10:00", "05T10:10", 2, None), ("a", "05T11:00", "05T11:10", 3, "bad"))
    store.write(SALES, day, then, at("05T12:00"))
    entities = asked(("b", "05T12:00"), ("a", "05T09:05"), ("a", "05T12:00"), (None, "05T12:00"), ("a", "05T12:00"))
    before = digest(store, entities)
    month = timedelta(days=31)
    written_at = at("05T12:00") + month
    corrected = then.assign(sales=then["sales"] + 100)
    late = sales(("a", "05T11:30", "05T11:30", 7, "good"), ("b", "05T08:00", "05T08:00", 4, "good"))
    store.write(SALES, day, pd.concat([late, corrected], ignore_index=True), written_at)
    store.write(SALES, date(2013, 1, 4), sales(("b", "04T10:00", "04T10:00", 9, None)).assign(created_timestamp=written_at), written_at)
    assert digest(store, entities) == before
    # It is there for whoever asks after it was written, but for its time to live.
    again = corrected.assign(event_timestamp=corrected["event_timestamp"] + month, created_timestamp=corrected["created_timestamp"] + month)
    store.write(SALES, date(2013, 2, 5), again, written_at)
    later = entities.assign(event_timestamp=entities["event_timestamp"] + month)
    assert store.as_of(SHOPS, later)["sales"].fillna(-1).tolist() == [102, -1, 103, -1, 103]
    assert digest(store, entities) == before


@pytest.mark.parametrize("kind", ["feast", "memory"])
def test_a_training_set_has_the_same_digest_whatever_order_its_rows_were_landed_in(kind: str, tmp_path) -> None:
    entities = questions([Question(shop, step) for step in (3, 1, 7) for shop in ("b", "a", None)])
    rows = [Row(shop, valid, valid + late, float(valid)) for shop in ("a", "b") for valid in range(5) for late in (0, 2)]
    digests = set()
    for number, order in enumerate((rows, rows[::-1])):
        store = feast(tmp_path / str(number)) if kind == "feast" else MemoryFeatureStore()
        put(store, order)
        digests.add(digest(store, entities))
    assert len(digests) == 1
