"""A view is fresh while its newest value is within its time to live."""

from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.core.feature_views import Field, View
from mlops_assets.core.freshness import freshness, summarize
from mlops_assets.core.verdict import Outcome

WEATHER = View("weather", "airport", (Field("wind"),), ttl=timedelta(hours=3))
NOON = datetime(2013, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "outcome"), [(timedelta(0), "pass"), (timedelta(hours=3), "pass"), (timedelta(hours=3, microseconds=1), "fail"), (None, "fail")]
)
def test_a_value_stands_up_to_and_with_the_end_of_its_time_to_live(age: timedelta | None, outcome: str) -> None:
    verdict = freshness(WEATHER, None if age is None else NOON - age, NOON)
    assert (verdict.outcome, verdict.threshold) == (outcome, 3)
    assert verdict.value == (None if age is None else age / timedelta(hours=1))


def test_what_is_wrong_and_how_to_mend_it_is_told() -> None:
    assert "no row of it has a value: see that what it is made of lands" in freshness(WEATHER, None, NOON).reason
    assert freshness(WEATHER, NOON - timedelta(hours=5), NOON).reason == (
        "weather: its newest value is 5:00:00 old, its ttl is 3:00:00: what it is made of has stopped landing, or the transform has lost it"
    )


def test_of_several_views_those_that_failed_are_told_and_else_the_one_that_is_next() -> None:
    days = View("days", "airport", (Field("rain"),), ttl=timedelta(days=3))
    fresh, older = freshness(WEATHER, NOON - timedelta(hours=2), NOON), freshness(days, NOON - timedelta(hours=20), NOON)
    together = summarize([older, fresh])
    assert (together.outcome, together.value, together.threshold, together.reason) == (Outcome.PASS, 2, 3, fresh.reason)
    empty, stale = freshness(WEATHER, None, NOON), freshness(days, NOON - timedelta(days=4), NOON)
    together = summarize([fresh, empty, stale])
    assert (together.outcome, together.value, together.threshold) == (Outcome.FAIL, None, 3)
    assert together.reason == f"{empty.reason}; {stale.reason}"


def test_without_views_nothing_is_concluded() -> None:
    assert summarize([]).outcome is Outcome.INCONCLUSIVE
