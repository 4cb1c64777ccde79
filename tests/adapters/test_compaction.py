"""The prediction log by event hour: every answer once, whatever comes late, twice, or after a crash."""

import io
from collections import Counter
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_assets.adapters import compaction, hours
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.hourly import HOUR

NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)
MODEL = "tiny"
INPUTS = (Feature("height"), Feature("carrier", ("AA", "UA")))


class Store(MemoryObjectStore):
    """Counts what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: Counter[str] = Counter()

    def put(self, key: str, data: bytes) -> None:
        self.written[key] += 1
        super().put(key, data)


@pytest.fixture
def store() -> Store:
    return Store()


def answers(*ids: str, at: datetime = NOON, release: str = "v1", role: str = "live", **columns: object) -> pd.DataFrame:
    fixed = {"request_id": list(ids), "release": release, "role": role, "unit": "u", "score": 0.5, "decision": True, "latency_ms": 1.0}
    times = pd.to_datetime([at] * len(ids), utc=True).as_unit("us")
    made = {"feature__height": 7.0, "feature__carrier": "UA", **columns}
    return pd.DataFrame({**fixed, "logged_at": times, "event_time": times, **made})


def ids(store: Store, hour: datetime = NOON) -> list[str]:
    return hours.rows_of(store, MODEL, hour)["request_id"].tolist()


def test_each_answer_goes_to_its_hour_and_is_there_once(store):
    both = pd.concat([answers("a", "b"), answers("c", at=NOON + timedelta(minutes=61))], ignore_index=True)
    found = compaction.add(store, MODEL, both)
    assert {hour: (one.added, one.rows) for hour, one in found.items()} == {NOON: (2, 2), NOON + HOUR: (1, 1)}
    assert {hour: (one.added, one.rows) for hour, one in compaction.add(store, MODEL, both).items()} == {NOON: (0, 2), NOON + HOUR: (0, 1)}
    assert set(store.written.values()) == {1}
    assert (ids(store), ids(store, NOON + HOUR), ids(store, NOON + 2 * HOUR)) == (["a", "b"], ["c"], [])


def test_a_request_counts_once_for_each_release_and_role(store):
    for release, role in (("v1", "live"), ("v2", "shadow"), ("v1", "live"), ("v2", "live")):
        compaction.add(store, MODEL, answers("a", release=release, role=role))
    assert len(ids(store)) == 3


def test_a_late_answer_rewrites_its_own_hour_alone(store):
    for n in range(3):
        compaction.add(store, MODEL, answers(f"r{n}", at=NOON + n * HOUR))
    store.written.clear()
    assert list(compaction.add(store, MODEL, answers("late", "r1", at=NOON + HOUR))) == [NOON + HOUR]
    assert dict(store.written) == {hours.predictions_key(MODEL, NOON + HOUR): 1}
    assert ids(store, NOON + HOUR) == ["r1", "late"]


@pytest.mark.parametrize("first", [0, 1])
def test_an_answer_that_was_repeated_across_the_hour_counts_in_the_one_that_had_it_first(store, first):
    times = [NOON + timedelta(minutes=59), NOON + timedelta(minutes=61)]
    compaction.add(store, MODEL, answers("a", "b", at=times[first]))
    compaction.add(store, MODEL, answers("b", "c", at=times[1 - first]))
    found = ids(store), ids(store, NOON + HOUR)
    assert (found[first], found[1 - first]) == (["a", "b"], ["c"])


def test_a_repetition_across_the_hour_within_one_read_counts_once_too(store):
    compaction.add(store, MODEL, pd.concat([answers("b", at=NOON + timedelta(minutes=61)), answers("a", "b")], ignore_index=True))
    assert (ids(store), ids(store, NOON + HOUR)) == (["a", "b"], [])


def test_many_small_reads_make_one_file_with_few_row_groups(store, monkeypatch):
    monkeypatch.setattr(compaction, "ROWS_AT_ONCE", 50)
    for start in range(0, 200, 10):
        compaction.add(store, MODEL, answers(*(f"r{n}" for n in range(start, start + 10))))
    metadata = pq.ParquetFile(io.BytesIO(store.get(hours.predictions_key(MODEL, NOON)))).metadata
    assert (metadata.num_rows, metadata.num_row_groups) == (200, 4)
    assert ids(store) == [f"r{n}" for n in range(200)]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({}, {"feature__wind": 3.0}, {"wind": [None, 3.0]}),
        ({"feature__height": 7}, {"feature__height": 8.5}, {"height": [7.0, 8.5]}),
        ({"feature__carrier": None}, {}, {"carrier": [None, "UA"]}),
        ({"feature__height": 7.0}, {"feature__height": "tall"}, {"height": ["7", "tall"]}),
    ],
    ids=["a new feature", "whole numbers", "nothing known", "a word where a number was"],
)
def test_releases_with_other_features_share_a_file(store, before, after, found):
    compaction.add(store, MODEL, answers("a", **before))
    compaction.add(store, MODEL, answers("b", release="v2", **after))
    rows = hours.rows_of(store, MODEL, NOON)
    for name, values in found.items():
        column = rows[f"feature__{name}"]
        assert [None if pd.isna(value) else value for value in column] == values
