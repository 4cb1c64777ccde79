"""What may go, and what may not however old it is."""

from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.core import policy_changes
from mlops_assets.core.errors import IllegalChange, SpecError
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.retention import Item, Retention, evidence_needed, log_needed_since, past, past_releases
from tests.core.test_policy import HOUR, NOW, in_canary, played, promoted, registered, retired, waiting

DAY = timedelta(days=1)
LATER = NOW + 400 * DAY
SIX = (promoted("v1"), promoted("v2"), promoted("v3"), in_canary("v4"), waiting("v5"))


def test_only_what_is_old_and_needed_by_nothing_is_past() -> None:
    old, young = NOW - 2 * DAY, NOW
    items = [Item("a/1", old, 1), Item("a/2", young, 1), Item("kept/3", old, 1), Item("a/4", old, 1)]
    assert [item.key for item in past(items, NOW - DAY, {"a/4"}, ["kept/"])] == ["a/1"]


def test_of_old_releases_those_go_that_could_not_get_traffic_again() -> None:
    policy = played(*SIX)
    assert past_releases(policy, 365 * DAY, LATER) == ("v1",)
    assert past_releases(policy_changes.abort(policy, Author("ada", "worse"), NOW), 365 * DAY, LATER) == ("v1", "v4")
    assert past_releases(policy, 401 * DAY, LATER) == ()


def test_what_is_forgotten_is_no_target_of_a_rollback_any_more() -> None:
    me = Author("retention", "old")
    forgotten = played(promoted("v1"), promoted("v2"), promoted("v3"), retired, lambda p: policy_changes.reinstate(p, me, NOW))
    forgotten = policy_changes.forget(forgotten, ["v1"], me, LATER)
    assert (forgotten.champions, set(forgotten.digests)) == (("v2", "v3"), {"v2", "v3"})
    assert policy_changes.forget(forgotten, ["v1"], me, LATER) == forgotten
    with pytest.raises(IllegalChange, match=r"v1 of fraud is kept no longer \(retention.releases\), expected one of v2, v3"):
        policy_changes.rollback(forgotten, me, LATER, "v1")
    assert policy_changes.rollback(forgotten, me, LATER).previous is None


@pytest.mark.parametrize("release", ["v2", "v3", "v4", "v5"])
def test_what_is_needed_is_never_forgotten(release: str) -> None:
    with pytest.raises(IllegalChange, match=f"{release} of fraud cannot be forgotten"):
        policy_changes.forget(played(*SIX), [release], Author("retention", "old"), LATER)


def test_the_champion_of_a_retired_model_is_needed_for_it_may_come_back() -> None:
    assert past_releases(played(promoted("v1"), promoted("v2"), retired), 365 * DAY, LATER) == ()


def test_evidence_of_the_way_of_what_is_live_is_needed() -> None:
    by = Author("sensor", "fine", evidence="evidence/fraud/abc.json")
    policy = policy_changes.promote(played(promoted("v1"), in_canary("v2")), by, NOW, HOUR)
    assert evidence_needed(policy, NOW) == {"evidence/fraud/abc.json"}


@pytest.mark.parametrize(
    ("policy", "counted", "since"),
    [
        (played(promoted("v1")), NOW, NOW - DAY),
        (played(promoted("v1")), NOW - 5 * DAY, NOW - 5 * DAY),
        (played(promoted("v1")), None, datetime.min.replace(tzinfo=UTC)),
        (played(promoted("v1"), retired), None, NOW - DAY),
        (played(promoted("v1"), in_canary("v2")), NOW + 50 * DAY, NOW - DAY),
    ],
    ids=["counted", "behind", "never counted", "retired", "in canary"],
)
def test_the_log_is_kept_until_all_that_reads_it_has(policy: Policy, counted: datetime | None, since: datetime) -> None:
    assert log_needed_since(policy, counted, NOW - DAY) == since


def test_a_canary_that_began_before_keeps_the_log_since_then() -> None:
    policy = played(promoted("v1"), in_canary("v2"))
    assert log_needed_since(policy, NOW + 50 * DAY, NOW + 40 * DAY) == NOW


@pytest.mark.parametrize("field", ["predictions", "monitoring", "reports", "evidence", "releases"])
def test_nothing_is_kept_for_less_than_a_day(field: str) -> None:
    with pytest.raises(SpecError, match=f"retention.{field}: got .*, expected a day at least, e.g. '90d'"):
        Retention(**{field: timedelta(0)})


def test_a_release_that_was_only_registered_goes_after_its_time_once_it_was_refused() -> None:
    me = Author("ada", "no")
    refused = played(promoted("v1"), registered("v2"), lambda p: policy_changes.refuse(p, "v2", me, NOW))
    assert past_releases(refused, 365 * DAY, LATER) == ("v2",)
