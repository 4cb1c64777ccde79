"""What a rollback drill concludes."""

from datetime import timedelta

import pytest

from mlops_assets.core.drill import Drill, Part, comes_back, drill_hour
from mlops_assets.core.errors import SpecError
from mlops_assets.core.verdict import Outcome

MINUTE = timedelta(minutes=1)
PARTS = [Part("artifact", 0.5), Part("ready", 40.0), Part("route", 19.5)]


@pytest.mark.parametrize(
    ("objective", "release", "trouble", "outcome"),
    [
        (MINUTE, "v1", None, Outcome.PASS),
        (MINUTE - timedelta(seconds=1), "v1", None, Outcome.FAIL),
        (MINUTE, "v1", "it is not ready", Outcome.FAIL),
        (MINUTE, None, None, Outcome.INCONCLUSIVE),
    ],
    ids=["just in time", "a second late", "it did not come back", "no previous release"],
)
def test_a_release_comes_back_in_time_or_not(objective: timedelta, release: str | None, trouble: str | None, outcome: Outcome) -> None:
    verdict = comes_back(objective, release, PARTS, trouble)
    assert verdict.outcome is outcome
    assert verdict.threshold == objective.total_seconds()
    assert verdict.value == (None if release is None else 60)
    assert trouble is None or trouble in verdict.reason


def test_an_objective_is_longer_than_nothing() -> None:
    with pytest.raises(SpecError, match="drill.objective: got 0:00:00, expected longer than nothing"):
        Drill(timedelta(0))


def test_a_thousand_models_are_spread_over_the_day() -> None:
    hours = [drill_hour(f"model-{number}") for number in range(1000)]
    fewest, most = min(hours.count(hour) for hour in range(24)), max(hours.count(hour) for hour in range(24))
    assert fewest >= 20
    assert most <= 70
