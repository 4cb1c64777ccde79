from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.policy import Challenger, Mirror, Policy
from mlops_assets.core.routing import Share, offset, route, shares

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = st.from_regex(r"[a-z]{1,8}(-[a-z]{1,8}){0,2}", fullmatch=True)
NUMBERS = st.integers(1, 5000)


def split(model: str, challenger: str, weight: int) -> Policy:
    weights = {"v0": 100 - weight, challenger: weight} if weight else {"v0": 100}
    return Policy(model, 7, ("v0",), Challenger(challenger, 1, 0, "canary", NOW), weights=weights)


def units(policy: Policy, release: str) -> set[int]:
    """The whole percents that ``release`` answers."""
    return {point for share in shares(policy) if share.release == release for point in range(share.start, share.end)}


@given(MODELS, NUMBERS, st.integers(0, 50))
def test_the_shares_cover_every_unit_exactly_once(model, number, weight):
    policy = split(model, f"v{number}", weight)
    points = [point for share in shares(policy) for point in range(share.start, share.end)]
    assert points == list(range(100))
    assert len(units(policy, f"v{number}")) == weight
    assert all(share.start < share.end for share in shares(policy))


@given(MODELS, NUMBERS, st.lists(st.integers(1, 50), min_size=2, max_size=6).map(sorted))
def test_a_unit_that_once_saw_the_challenger_keeps_seeing_it(model, number, weights):
    seen = [units(split(model, f"v{number}", weight), f"v{number}") for weight in weights]
    assert all(earlier <= later for earlier, later in pairwise(seen))


@given(MODELS, NUMBERS)
def test_51_releases_in_a_row_begin_in_51_places(model, number):
    assert {offset(model, f"v{number + step}") for step in range(51)} == set(range(51))


@given(MODELS, NUMBERS)
def test_the_first_five_percent_of_five_releases_in_a_row_are_of_different_units(model, number):
    tried = [units(split(model, f"v{number + step}", 5), f"v{number + step}") for step in range(5)]
    assert len(set().union(*tried)) == 25


def test_models_do_not_all_begin_in_the_same_place():
    assert len({offset(f"model-{number}", "v2") for number in range(100)}) > 30


@pytest.mark.parametrize("weights", [{}, {"v1": 100}, {"v1": 100, "v2": 0}])
def test_what_is_alone_has_all_units_or_none(weights):
    policy = Policy("fraud", 1, ("v1",) if weights else (), weights=weights)
    assert shares(policy) == ((Share("v1", 0, 100),) if weights else ())


def test_a_route_has_the_addresses_of_what_is_live_and_of_nothing_else():
    policy = Policy(
        "fraud",
        7,
        ("v1", "v2"),
        Challenger("v3", 1, 0, "shadow", NOW),
        weights={"v2": 100},
        mirror=Mirror("v3", 100),
        warm={"v1": NOW + timedelta(hours=1), "v0": NOW},
    )
    endpoints = {f"v{number}": f"127.0.0.1:{9000 + number}" for number in range(6)}
    made = route(policy, endpoints, NOW)
    assert (made.model, made.generation, made.mirror) == ("fraud", 7, Mirror("v3", 100))
    assert made.shares == (Share("v2", 0, 100),)
    assert list(made.endpoints) == ["v1", "v2", "v3"]
