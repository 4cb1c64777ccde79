"""The prediction log by event hour: every answer once, whatever comes late, twice, or after a crash."""

import io
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mlops_assets.adapters import hours
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.errors import BadData, NotFound
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.hourly import HOUR, Judged, Progress
from mlops_assets.core.profile import Profile, baseline, profile
from mlops_assets.core.verdict import Outcome, Verdict

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
    found = hours.add(store, MODEL, both)
    assert {hour: (one.added, one.rows) for hour, one in found.items()} == {NOON: (2, 2), NOON + HOUR: (1, 1)}
    assert {hour: (one.added, one.rows) for hour, one in hours.add(store, MODEL, both).items()} == {NOON: (0, 2), NOON + HOUR: (0, 1)}
    assert set(store.written.values()) == {1}
    assert (ids(store), ids(store, NOON + HOUR), ids(store, NOON + 2 * HOUR)) == (["a", "b"], ["c"], [])


def test_a_request_counts_once_for_each_release_and_role(store):
    for release, role in (("v1", "live"), ("v2", "shadow"), ("v1", "live"), ("v2", "live")):
        hours.add(store, MODEL, answers("a", release=release, role=role))
    assert len(ids(store)) == 3


def test_a_late_answer_rewrites_its_own_hour_alone(store):
    for n in range(3):
        hours.add(store, MODEL, answers(f"r{n}", at=NOON + n * HOUR))
    store.written.clear()
    assert list(hours.add(store, MODEL, answers("late", "r1", at=NOON + HOUR))) == [NOON + HOUR]
    assert dict(store.written) == {hours.predictions_key(MODEL, NOON + HOUR): 1}
    assert ids(store, NOON + HOUR) == ["r1", "late"]


@pytest.mark.parametrize("first", [0, 1])
def test_an_answer_that_was_repeated_across_the_hour_counts_in_the_one_that_had_it_first(store, first):
    times = [NOON + timedelta(minutes=59), NOON + timedelta(minutes=61)]
    hours.add(store, MODEL, answers("a", "b", at=times[first]))
    hours.add(store, MODEL, answers("b", "c", at=times[1 - first]))
    found = ids(store), ids(store, NOON + HOUR)
    assert (found[first], found[1 - first]) == (["a", "b"], ["c"])


def test_a_repetition_across_the_hour_within_one_read_counts_once_too(store):
    hours.add(store, MODEL, pd.concat([answers("b", at=NOON + timedelta(minutes=61)), answers("a", "b")], ignore_index=True))
    assert (ids(store), ids(store, NOON + HOUR)) == (["a", "b"], [])


def test_many_small_reads_make_one_file_with_few_row_groups(store, monkeypatch):
    monkeypatch.setattr(hours, "ROWS_AT_ONCE", 50)
    for start in range(0, 200, 10):
        hours.add(store, MODEL, answers(*(f"r{n}" for n in range(start, start + 10))))
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
    hours.add(store, MODEL, answers("a", **before))
    hours.add(store, MODEL, answers("b", release="v2", **after))
    rows = hours.rows_of(store, MODEL, NOON)
    for name, values in found.items():
        column = rows[f"feature__{name}"]
        assert [None if pd.isna(value) else value for value in column] == values


def base(seed: int = 1) -> Profile:
    generator = np.random.default_rng(seed)
    return baseline(
        ["height", "carrier", "score"], np.column_stack([generator.normal(size=500), generator.integers(0, 2, 500), generator.random(500)])
    )


def test_an_hour_is_counted_release_by_release_as_its_models_saw_it(store, monkeypatch):
    monkeypatch.setattr(hours, "ROWS_AT_ONCE", 64)
    generator, rows, before = np.random.default_rng(2), 300, base()
    heights = np.where(generator.random(rows) < 0.1, np.nan, generator.normal(size=rows))
    scores, carriers = generator.random(rows), generator.choice(["AA", "UA", "??"], rows)
    columns = {"feature__height": heights, "feature__carrier": carriers, "score": scores, "decision": scores >= 0.7}
    hours.add(store, MODEL, answers(*(f"r{n}" for n in range(rows)), **columns))
    hours.add(store, MODEL, answers("x", "y", release="v2"))
    hours.add(store, MODEL, answers("x", "y", release="v3"))
    hours.add(store, MODEL, answers("s", role="shadow"))
    found = hours.profile_hour(store, MODEL, NOON, INPUTS, {"v1": before, "v2": base(3)}.get)
    places = [{"AA": 0, "UA": 1}.get(carrier, -1) for carrier in carriers]
    whole = profile(before, np.column_stack([heights, places, scores]))
    for one, other in zip(found["v1"].profile.columns, whole.columns, strict=True):
        assert (one.cells, one.cell_counts, one.nulls) == (other.cells, other.cell_counts, other.nulls)
    assert (found["v1"].rows, found["v1"].yes.rows, found["v2"].rows, found["v3"]) == (rows, int((scores >= 0.7).sum()), 2, None)


def test_what_cannot_be_counted_says_why(store):
    with pytest.raises(NotFound):
        hours.profile_hour(store, MODEL, NOON, INPUTS, lambda _: base())
    hours.add(store, MODEL, answers("a", feature__height="tall"))
    with pytest.raises(BadData, match="'height' holds words"):
        hours.profile_hour(store, MODEL, NOON, INPUTS, lambda _: base())
    with pytest.raises(BadData, match="train again"):
        hours.profile_hour(store, MODEL, NOON, INPUTS[:1], lambda _: base())


def outcomes(*units: str, label: int = 1) -> pd.DataFrame:
    return pd.DataFrame({"unit": list(units), "event_time": NOON, "score": 0.5, "decision": True, "label": label})


def test_labelled_answers_are_written_only_when_they_are_others(store):
    assert not hours.write_outcomes(store, MODEL, "v1", NOON, outcomes())
    assert hours.write_outcomes(store, MODEL, "v1", NOON, outcomes("b", "a"))
    assert not hours.write_outcomes(store, MODEL, "v1", NOON, outcomes("a", "b"))
    assert hours.write_outcomes(store, MODEL, "v1", NOON, outcomes("a", "b", label=0))
    assert hours.read_outcomes(store, MODEL, "v1", NOON - HOUR, NOON, 10)["label"].tolist() == [0, 0]


def test_a_window_is_the_hours_after_one_up_to_another_and_the_newest_of_too_many(store):
    for n in range(5):
        hours.write_outcomes(store, MODEL, "v1", NOON + n * HOUR, outcomes(f"u{n}"))
    hours.write_outcomes(store, MODEL, "v10", NOON + HOUR, outcomes("other"))
    read = lambda most: hours.read_outcomes(store, MODEL, "v1", NOON, NOON + 3 * HOUR, most)["unit"].tolist()  # noqa: E731
    assert (read(10), read(2)) == (["u1", "u2", "u3"], ["u2", "u3"])
    assert hours.hours_of_day(store, MODEL, "2013-03-01") == []


def test_documents_give_what_was_written(store):
    progress = Progress("p", (NOON,), (), {"2013-03-01": "etag"}, NOON, None, NOON, True, ("height",))
    hours.write_progress(store, MODEL, progress)
    judged = Judged("v1", Verdict("performance", Outcome.FAIL, 0.6, 0.7, "below", 100))
    hours.write_judged(store, MODEL, NOON, judged)
    assert hours.read_progress(store, MODEL) == progress
    assert hours.read_judged(store, MODEL, NOON) == judged
    assert (hours.read_progress(store, "new"), hours.read_judged(store, MODEL, NOON + HOUR)) == (Progress(), None)
