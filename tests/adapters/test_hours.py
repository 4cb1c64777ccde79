"""What is made of the hours of a model's answers: counted, labelled, judged, and found again."""

import numpy as np
import pandas as pd
import pytest

from mlops_assets.adapters import compaction, hours
from mlops_assets.core.errors import BadData, NotFound
from mlops_assets.core.hourly import HOUR, Judged, Progress
from mlops_assets.core.profile import Profile, baseline, profile
from mlops_assets.core.verdict import Outcome, Verdict
from tests.adapters.test_compaction import INPUTS, MODEL, NOON, Store, answers


@pytest.fixture
def store() -> Store:
    return Store()


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
    compaction.add(store, MODEL, answers(*(f"r{n}" for n in range(rows)), **columns))
    compaction.add(store, MODEL, answers("x", "y", release="v2"))
    compaction.add(store, MODEL, answers("x", "y", release="v3"))
    compaction.add(store, MODEL, answers("s", role="shadow"))
    found = hours.profile_hour(store, MODEL, NOON, INPUTS, {"v1": before, "v2": base(3)}.get)
    places = [{"AA": 0, "UA": 1}.get(carrier, -1) for carrier in carriers]
    whole = profile(before, np.column_stack([heights, places, scores]))
    for one, other in zip(found["v1"].profile.columns, whole.columns, strict=True):
        assert (one.cells, one.cell_counts, one.nulls) == (other.cells, other.cell_counts, other.nulls)
    assert (found["v1"].rows, found["v1"].yes.rows, found["v2"].rows, found["v3"]) == (rows, int((scores >= 0.7).sum()), 2, None)


def test_what_cannot_be_counted_says_why(store):
    with pytest.raises(NotFound):
        hours.profile_hour(store, MODEL, NOON, INPUTS, lambda _: base())
    compaction.add(store, MODEL, answers("a", feature__height="tall"))
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
