"""The traffic of a model over time, from the log of its policy."""

from datetime import UTC, datetime, timedelta

from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.shares import spans

START, HOUR, ADA = datetime(2026, 11, 23, tzinfo=UTC), timedelta(hours=1), Author("ada", "why")
SHADOW, FIVE = Step("shadow", HOUR, mirror=100), Step("canary-5", HOUR, weight=5)


def waiting(policy: Policy, release: str) -> Policy:
    policy = policy_changes.register(policy, release, release, ADA, START)
    return policy_changes.accept(policy_changes.stage(policy, release, ADA, START), release, ADA, START)


def at(hours: int) -> datetime:
    return START + hours * HOUR


def test_each_change_of_the_traffic_begins_a_span_with_what_the_policy_says() -> None:
    policy, weights = waiting(Policy("tiny"), "v1"), []
    moves = [
        lambda p: policy_changes.begin(p, "v1", FIVE, ADA, at(1)),
        lambda p: policy_changes.promote(p, ADA, at(2), HOUR),
        lambda p: policy_changes.begin(waiting(p, "v2"), "v2", SHADOW, ADA, at(3)),
        lambda p: policy_changes.advance(p, 1, FIVE, ADA, at(4)),
        lambda p: policy_changes.pause(p, ADA, at(5)),
        lambda p: policy_changes.promote(policy_changes.resume(p, ADA, at(5)), ADA, at(6), HOUR),
        lambda p: policy_changes.rollback(p, ADA, at(7)),
        lambda p: policy_changes.begin(waiting(p, "v3"), "v3", FIVE, ADA, at(8)),
        lambda p: policy_changes.abort(p, ADA, at(9)),
        lambda p: policy_changes.retire(p, ADA, at(10)),
        lambda p: policy_changes.reinstate(p, ADA, at(11)),
    ]
    for move in moves:
        policy = move(policy)
        last = spans(policy)[-1]
        assert dict(last.weights) == {release: weight for release, weight in policy.weights.items() if weight}
        assert last.mirror == (policy.mirror.release if policy.mirror else None)
        weights.append(dict(last.weights))
    assert weights[-1] == {"v1": 100}
    found = spans(policy)
    assert [span.start for span in found] == [at(hour) for hour in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11)]
    assert [span.end for span in found] == [*(span.start for span in found[1:]), None]


def test_what_moves_no_traffic_begins_no_span() -> None:
    assert spans(waiting(Policy("tiny"), "v1")) == ()
