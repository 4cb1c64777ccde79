import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.power import normal_power

from mlops_assets.core.certificate import certificate
from mlops_assets.core.comparison import delong
from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.floors import Footprint
from mlops_assets.core.gate_spec import Costs, Gates, Slice
from mlops_assets.core.gates import Scored, evaluate
from mlops_assets.core.ledger import Look, Question, Turn
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


@pytest.mark.parametrize("metric", ["auc", "average_precision", "log_loss", "brier", "ece", "cost"])
@pytest.mark.parametrize("by_day", [False, True])
def test_every_metric_tells_a_good_model_from_a_bad_one(metric, by_day):
    generator = np.random.default_rng(1)
    good = generator.beta(0.5, 0.5, 3000)
    label = (generator.random(3000) < good).astype(int)
    bad = np.clip(0.5 * good + 0.5 * generator.random(3000), 0, 1) ** 2
    gates = Gates(0.5, metric=metric, min_uplift=0.001, blocks="day" if by_day else "none", costs=Costs(1, 3))
    blocks = np.arange(3000) // 100 if by_day else None
    there = evaluate(gates, "improve", Scored(label, good, bad, blocks=blocks), 50)
    back = evaluate(gates, "improve", Scored(label, bad, good, blocks=blocks), 50)
    assert (there.verdicts[-1].outcome, back.verdicts[-1].outcome) == (PASS, FAIL)
    assert there.comparison.blocks == (30 if by_day else None)
    assert f"{metric} uplift +" in there.verdicts[-1].reason


def test_the_plain_rule_says_how_often_luck_would_do():
    label, good, _ = scored(400)
    champion = good + 0.35 * np.random.default_rng(5).normal(size=400)
    result = judge("observed", good, champion, label)
    # An uplift estimate of no true uplift is normal around 0.
    expected = norm.sf(0.005 / delong(label, good, champion).standard_error)
    assert result.false_promotions == pytest.approx(expected, abs=1e-12)
    assert f"({expected:.0%} of equal models would look so by chance)" in result.verdicts[-1].reason
    assert f"{expected:.1%}** of equal models would pass" in certificate("m", "v2", "v1", "abc", result)


@pytest.mark.parametrize(("policy", "hoped"), [("improve", 0.02 - 0.005), ("refresh", 0.01)])
def test_power_is_what_statsmodels_says(policy, hoped):
    label, good, fair = scored(1000)
    result = judge(policy, good, fair, label, Gates(0.6, target_uplift=0.02))
    expected = normal_power(hoped / result.comparison.standard_error, 1, 0.05, alternative="larger")
    assert result.power == pytest.approx(expected, abs=1e-9)


def test_a_holdout_too_small_for_what_is_hoped_for_says_so_with_the_rows_that_would_do():
    label, good, _ = scored(400)
    champion = good + 0.35 * np.random.default_rng(5).normal(size=400)
    gates = Gates(0.6, target_uplift=0.02, min_uplift=0.01, min_power=0.8)
    result = judge("improve", good, champion, label, gates)
    assert result.outcome is OPEN
    assert "the holdout is too small, it shows a true uplift of 0.0200 only" in result.verdicts[-1].reason
    assert (
        f"for 80% it takes about {result.needed_positives} positives ({4 * result.needed_positives} rows), there are 100"
        in result.verdicts[-1].reason
    )
    times = result.needed_positives / label.sum()
    error = result.comparison.standard_error / np.sqrt(times)
    assert norm.cdf(0.01 / error - norm.ppf(0.95)) == pytest.approx(0.8, abs=0.005)


def test_a_bound_that_is_cleared_passes_also_on_a_small_holdout():
    label, good, fair = scored(400)
    result = judge("improve", good, fair, label, Gates(0.6, min_uplift=0.005, target_uplift=0.006, min_power=0.9))
    assert result.power < 0.9
    assert (result.outcome, result.needed_positives) == (PASS, None)


def test_a_later_look_asks_for_more_and_a_worn_out_holdout_for_another():
    label, good, _ = scored(4000)
    champion = good + 0.2 * np.random.default_rng(5).normal(size=4000)
    gates = Gates(0.6, min_uplift=0.0, max_looks=5)
    first, fifth, sixth = (
        evaluate(gates, "improve", Scored(label, good, champion), 50, Turn(number, alpha, number - 1, 5))
        for number, alpha in ((1, 0.034), (5, 0.0014), (6, 0.0))
    )
    assert first.comparison.lower > fifth.comparison.lower
    assert (sixth.outcome, sixth.comparison, sixth.against_champion) == (OPEN, None, None)
    assert "worn out by 5 looks of 5: train again on newer data" in sixth.verdicts[-1].reason
    assert "This holdout is worn out: 5 looks." in certificate("m", "v6", "v1", "abc", sixth)


def test_a_certificate_shows_the_looks_at_its_holdout():
    label, good, fair = scored()
    turn = Turn(2, 0.008, 1, 10)
    result = evaluate(GATES, "improve", Scored(label, good, fair), 50, turn)
    looks = [Look(1, Question("v2", "v1", "refresh", "auc", -0.01), 0.03, FAIL)]
    page = certificate("m", "v3", "v1", "abc", result, looks)
    assert "look 2 of at most 10" in page
    assert "| 1 | v2 | v1 | refresh | 0.03 | fail |" in page


def test_few_days_are_no_ground_for_a_decision():
    label, good, fair = scored()
    result = evaluate(Gates(0.6, blocks="day"), "improve", Scored(label, good, fair, blocks=np.arange(4000) // 500), 50)
    assert (result.outcome, result.comparison) == (OPEN, None)
    assert "got 8 blocks, expected at least 20" in result.verdicts[-1].reason


def test_what_a_gate_asks_for_must_be_there():
    label, good, fair = scored()
    with pytest.raises(ValueError, match="expected the day of each row"):
        evaluate(Gates(0.6, blocks="day"), "improve", Scored(label, good, fair), 50)
    with pytest.raises(ValueError, match="measure them"):
        evaluate(Gates(0.6, max_model_bytes=1), "improve", Scored(label, good, fair), 50)


def test_calibration_and_budgets_are_asked_of_a_first_release_too():
    label, good, _ = scored()
    gates = Gates(0.6, max_ece=0.01, max_model_bytes=10)
    result = evaluate(gates, "improve", Scored(label, norm.cdf(good), None), 50, footprint=Footprint(11))
    assert [(verdict.name, verdict.outcome) for verdict in result.verdicts] == [("auc", PASS), ("ece", FAIL), ("model_bytes", FAIL)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gates(0.6, target_uplift=0.001), "gates.target_uplift: got 0.001, expected more than min_uplift 0.005"),
        (lambda: Gates(0.6, min_power=1), "gates.min_power: got 1"),
        (lambda: Gates(0.6, max_looks=0), "gates.max_looks: got 0"),
        (lambda: Gates(0.6, max_ece=5), "gates.max_ece: got 5"),
        (lambda: Gates(0.6, max_latency_ms=0), "gates.max_latency_ms: got 0"),
        (lambda: Costs(0, 0), "gates.costs: got 0 and 0"),
    ],
)
def test_a_gate_that_contradicts_itself_says_what_to_write_instead(make, message):
    with pytest.raises(SpecError, match=message):
        make()
