import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.certificate import certificate
from mlops_assets.core.comparison import delong
from mlops_assets.core.errors import BadData
from mlops_assets.core.gate_spec import Gates, Slice
from mlops_assets.core.gates import Scored, evaluate
from mlops_assets.core.verdict import Outcome

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
GATES = Gates(floor=0.6, min_uplift=0.005, margin=0.01)


def scored(rows: int = 4000, seed: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A label with 25 % positives, a good score of AUC near 0.85, and a fair one near 0.75 that errs on the same rows."""
    generator = np.random.default_rng(seed)
    label = (np.arange(rows) % 4 == 0).astype(int)
    noise = generator.normal(size=rows)
    good = 1.5 * label + noise
    return label, good, good + 0.9 * generator.normal(size=rows)


def judge(policy, challenger, champion, label, gates=GATES, slices=None, min_positives=50):
    return evaluate(gates, policy, Scored(label, challenger, champion, slices or {}), min_positives)


@pytest.mark.parametrize(
    ("policy", "who", "outcome"),
    [
        ("improve", "better", PASS),
        ("improve", "worse", FAIL),
        ("improve", "same", FAIL),
        ("observed", "better", PASS),
        ("observed", "worse", FAIL),
        ("observed", "same", FAIL),
        ("refresh", "better", PASS),
        ("refresh", "worse", FAIL),
        ("refresh", "same", PASS),
    ],
)
def test_each_policy_asks_its_own_of_a_clear_case(policy, who, outcome):
    label, good, fair = scored()
    challenger, champion = {"better": (good, fair), "worse": (fair, good), "same": (fair, fair)}[who]
    result = judge(policy, challenger, champion, label)
    assert (result.outcome, result.verdicts[-1].outcome, result.verdicts[-1].name) == (outcome, outcome, policy)
    assert result.needed_positives is None


@pytest.mark.parametrize(("policy", "outcome"), [("improve", OPEN), ("refresh", OPEN), ("observed", PASS)])
def test_a_small_holdout_leaves_a_small_uplift_open_unless_the_observed_is_enough(policy, outcome):
    label, good, _ = scored(400)
    generator = np.random.default_rng(5)
    challenger, champion = good, good + 0.35 * generator.normal(size=400)
    gates = Gates(floor=0.6, min_uplift=0.002, margin=0.0)
    seen = delong(label, challenger, champion, 0.9)
    assert seen.lower < 0 < 0.002 < seen.uplift < seen.upper
    assert judge(policy, challenger, champion, label, gates).outcome is outcome


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["improve", "refresh"]), st.floats(0, 0.05), st.floats(0.1, 2))
def test_a_verdict_follows_from_the_interval_and_the_border(seed, policy, border, noise):
    label, good, _ = scored(300, seed)
    champion = good + noise * np.random.default_rng(seed + 1).normal(size=300)
    gates = Gates(floor=0.0, min_uplift=border, margin=border)
    result = judge(policy, good, champion, label, gates)
    limit = border if policy == "improve" else -border
    seen = delong(label, good, champion, 1 - 2 * gates.alpha)
    expected = PASS if seen.lower >= limit - 1e-12 else FAIL if seen.upper < limit else OPEN
    assert result.verdicts[-1].outcome is expected
    assert (result.needed_positives is not None) == (expected is OPEN)


def test_as_many_positives_as_it_names_would_decide():
    label, good, _ = scored(400)
    champion = good + 0.5 * np.random.default_rng(5).normal(size=400)
    gates = Gates(floor=0.6, min_uplift=0.005, target_uplift=0.2)
    few = judge("improve", good, champion, label, gates)
    assert few.outcome is OPEN
    # The same rows k times over have the same AUCs and a standard error that is about sqrt(k) smaller.
    enough = int(np.ceil(few.needed_positives / label.sum())) + 1
    assert judge("improve", np.tile(good, enough), np.tile(champion, enough), np.tile(label, enough), gates).outcome is PASS
    short = enough // 2
    assert short >= 1
    assert judge("improve", np.tile(good, short), np.tile(champion, short), np.tile(label, short), gates).outcome is OPEN


def test_a_release_below_the_floor_fails_however_bad_its_champion_is():
    label, good, _ = scored()
    result = judge("improve", good, 1 - good, label, Gates(floor=0.95))
    assert [verdict.outcome for verdict in result.verdicts] == [FAIL, PASS]
    assert result.outcome is FAIL
    assert "below its floor of 0.950" in result.verdicts[0].reason


@pytest.mark.parametrize("policy", ["improve", "observed", "refresh"])
def test_a_first_release_has_only_floors_to_pass(policy):
    label, good, _ = scored()
    result = judge(policy, good, None, label)
    assert [verdict.name for verdict in result.verdicts] == ["auc"]
    assert (result.outcome, result.comparison, result.needed_positives) == (PASS, None, None)


@pytest.mark.parametrize("turned", [False, True])
def test_too_few_of_either_outcome_is_never_a_pass(turned):
    label, good, fair = scored(160)
    label = 1 - label if turned else label
    result = judge("observed", good, fair, label)
    assert (result.outcome, result.comparison, result.needed_positives) == (OPEN, None, 50)
    assert result.verdicts[0].reason == "auc: 40 rows of the rarer outcome, 50 are needed"


@pytest.mark.parametrize("label", [np.zeros(0), np.zeros(200), np.ones(200)])
def test_a_holdout_without_both_outcomes_is_inconclusive(label):
    score = np.linspace(0, 1, len(label))
    assert judge("improve", score, score, label).outcome is OPEN


def test_a_slice_has_a_floor_of_its_own():
    label, good, _ = scored()
    part = np.arange(len(label)) < 1000
    mixed = np.where(part, np.random.default_rng(0).normal(size=len(label)), good)
    gates = Gates(floor=0.6, slices=(Slice("origin", "JFK", 0.6), Slice("origin", "LGA", 0.6)))
    result = judge("improve", mixed, None, label, gates, {"origin=JFK": part, "origin=LGA": ~part})
    assert [(verdict.name, verdict.outcome) for verdict in result.verdicts] == [
        ("auc", PASS),
        ("auc[origin=JFK]", FAIL),
        ("auc[origin=LGA]", PASS),
    ]
    assert result.outcome is FAIL


@pytest.mark.parametrize("rows", [0, 30])
def test_a_slice_of_few_rows_leaves_the_gate_open(rows):
    label, good, _ = scored()
    gates = Gates(floor=0.6, slices=(Slice("origin", "JFK", 0.6),))
    result = judge("improve", good, None, label, gates, {"origin=JFK": np.arange(len(label)) < rows})
    assert [verdict.outcome for verdict in result.verdicts] == [PASS, OPEN]
    assert result.outcome is OPEN


def test_a_slice_without_its_rows_is_named():
    label, good, _ = scored()
    gates = Gates(floor=0.6, slices=(Slice("origin", "JFK", 0.6),))
    with pytest.raises(ValueError, match="got none, expected one for each of origin=JFK"):
        judge("improve", good, None, label, gates)


def test_scores_that_are_not_numbers_are_refused_not_judged():
    label, good, _ = scored()
    with pytest.raises(BadData, match="not finite"):
        judge("improve", np.full(len(label), np.nan), good, label)


def test_a_certificate_tells_a_person_all_there_is_to_know():
    label, good, fair = scored()
    page = certificate("flight-delay", "v3", "v2", "abcdef0123456789abcdef", judge("improve", good, fair, label))
    assert page.startswith("# flight-delay v3: pass\n")
    for part in ("`improve`", "against v2", "4000 rows", "`abcdef0123456789`", "| auc | pass | 0.8", "| improve | pass | 0.0"):
        assert part in page


def test_a_certificate_of_an_open_gate_says_how_much_data_would_close_it():
    label, good, _ = scored(400)
    result = judge("improve", good, good + 0.5 * np.random.default_rng(5).normal(size=400), label)
    page = certificate("flight-delay", "v3", "v2", "abc", result)
    assert f"About {result.needed_positives} positives in the holdout would decide." in page
    assert "no champion" in certificate("flight-delay", "v3", None, "abc", judge("improve", good, None, label))
