"""When a burn rolls a champion back, and when it wakes a person instead."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.remedy import AUTHOR, remedy
from mlops_assets.core.slo_spec import Slo

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLO = Slo(on_slo_violation="rollback")
ADA, OURS = Author("ada", "because"), Author(AUTHOR, "it burns")


def with_champions(count: int, at: datetime = NOW - timedelta(days=9)) -> Policy:
    policy = Policy("fraud")
    for number in range(1, count + 1):
        release = f"v{number}"
        for change in (
            lambda p, r: policy_changes.register(p, r, r * 32, ADA, at),
            *((lambda p, r, f=f: f(p, r, ADA, at)) for f in (policy_changes.stage, policy_changes.accept)),
        ):
            policy = change(policy, release)
        policy = policy_changes.begin(policy, release, Step("only", HOUR, weight=50), ADA, at)
        policy = policy_changes.promote(policy, ADA, at, HOUR)
    return policy


def test_a_champion_with_one_before_it_leaves_for_that() -> None:
    assert remedy(SLO, with_champions(2), NOW).action == "rollback"
    assert remedy(SLO, with_champions(2), NOW).reason == "v2 leaves for v1"


def test_who_declares_page_is_paged() -> None:
    assert remedy(Slo(), with_champions(2), NOW).action == "page"


def test_the_first_release_has_nowhere_to_go_and_says_so() -> None:
    found = remedy(SLO, with_champions(1), NOW)
    assert found.action == "page"
    assert "v1 has no release before it to go back to" in found.reason


@pytest.mark.parametrize(("who", "ago", "action"), [(OURS, 30, "page"), (ADA, 30, "page"), (OURS, 61, "rollback"), (ADA, 61, "rollback")])
def test_the_next_rollback_waits_for_the_cooldown_whoever_made_the_last(who: Author, ago: int, action: str) -> None:
    rolled = policy_changes.rollback(with_champions(3), who, NOW - timedelta(minutes=ago))
    assert remedy(SLO, rolled, NOW).action == action


def test_the_cooldown_is_at_the_platform_s_pace() -> None:
    rolled = policy_changes.rollback(with_champions(3), OURS, NOW - timedelta(minutes=2))
    assert remedy(SLO, rolled, NOW).action == "page"
    assert remedy(SLO, rolled, NOW, pace=60).action == "rollback"


def test_so_many_in_a_day_and_no_more() -> None:
    policy = with_champions(5)
    for hours in (6, 3):
        policy = policy_changes.rollback(policy, OURS, NOW - hours * HOUR)
    found = remedy(SLO, policy, NOW)
    assert (policy.champion, found.action) == ("v3", "page")
    assert "it is not the release" in found.reason
    assert remedy(replace(SLO, max_rollbacks=3), policy, NOW).action == "rollback"
    assert remedy(SLO, policy, NOW + 19 * HOUR).action == "rollback"


def test_one_that_a_person_brought_back_is_not_rolled_back_again() -> None:
    rolled = policy_changes.rollback(with_champions(2), OURS, NOW - 9 * HOUR)
    back = policy_changes.rollback(rolled, ADA, NOW - 8 * HOUR, to="v2")
    assert back.champion == "v2"
    back = replace(back, champions=("v1", "v2"))
    assert "brought back by a person" in remedy(SLO, back, NOW).reason
