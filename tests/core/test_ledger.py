import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.gate_spec import Gates
from mlops_assets.core.ledger import Look, Question, turn
from mlops_assets.core.verdict import Outcome


def ask(release: str, champion: str = "v0") -> Question:
    return Question(release, champion, "improve", "auc", 0.005)


def look_often(gates: Gates, times: int) -> list[Look]:
    looks: list[Look] = []
    for number in range(times):
        mine = turn(looks, ask(f"v{number}"), gates)
        looks.append(Look(mine.number, ask(f"v{number}"), mine.alpha, Outcome.FAIL))
    return looks


@given(st.integers(1, 30), st.floats(0.6, 0.999))
def test_all_looks_together_spend_no_more_than_alpha_and_each_less_than_the_one_before(max_looks, confidence):
    gates = Gates(0.6, confidence=confidence, max_looks=max_looks)
    spent = [look.alpha for look in look_often(gates, max_looks + 3)]
    assert sum(spent) == pytest.approx(gates.alpha, rel=1e-9)
    assert all(later < earlier for earlier, later in pairwise(spent[:max_looks]))
    assert spent[max_looks:] == [0, 0, 0]


def test_a_single_look_has_all_there_is():
    assert turn([], ask("v1"), Gates(0.6, max_looks=1)).alpha == pytest.approx(0.05)


def test_the_same_question_again_is_the_same_look():
    gates = Gates(0.6)
    looks = look_often(gates, 4)
    again = turn(looks, ask("v1"), gates)
    assert (again.number, again.alpha, again.earlier) == (2, looks[1].alpha, looks[1])


def test_a_release_beside_another_champion_is_another_look():
    looks = look_often(Gates(0.6), 4)
    assert turn(looks, ask("v1", champion="v2"), Gates(0.6)).number == 5


def test_a_worn_out_holdout_still_knows_what_it_answered():
    gates = Gates(0.6, max_looks=2)
    looks = look_often(gates, 2)
    assert turn(looks, ask("v9"), gates).alpha == 0
    assert turn(looks, ask("v0"), gates).alpha == looks[0].alpha


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 10))
def test_another_number_of_looks_half_way_spends_no_more_than_alpha(before, after, taken):
    looks = look_often(Gates(0.6, max_looks=before), min(taken, before))
    then = Gates(0.6, max_looks=after)
    for number in range(50, 65):
        mine = turn(looks, ask(f"v{number}"), then)
        if mine.alpha == 0:
            break
        looks.append(Look(mine.number, ask(f"v{number}"), mine.alpha, Outcome.PASS))
    assert sum(look.alpha for look in looks) <= then.alpha * (1 + 1e-9)


def test_a_look_is_read_as_it_was_written():
    look = look_often(Gates(0.6), 2)[1]
    assert Look.from_dict(json.loads(json.dumps(look.to_dict()))) == look
