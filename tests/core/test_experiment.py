"""What an experiment answers: ship, stop or keep running, and how often it is wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.stats import beta

from mlops_assets.core.errors import BadData, DigestMismatch, SpecError
from mlops_assets.core.experiment import Action, Answer, analyse
from mlops_assets.core.experiment_design import Design, Guardrail, Metric
from mlops_assets.core.experiment_results import Figures, Results, Variant
from mlops_assets.core.verdict import Outcome

START = datetime(2026, 11, 2, tzinfo=UTC)
WEEK = timedelta(days=7)
CONVERSION = Metric("conversion", "proportion")
LATENCY = Guardrail("latency_ms", "mean", margin=5)
DESIGN = Design("checkout", CONVERSION, 40_000, (LATENCY,))


def results(
    successes: tuple[int, int], units: tuple[int, int] = (20_000, 20_000), latency: float = 100.0, lasted: timedelta = WEEK
) -> Results:
    control, treatment = (
        Variant(n, {"conversion": Figures(successes=found), "latency_ms": Figures(mean=mean, sd=40.0)})
        for n, found, mean in zip(units, successes, (100.0, latency), strict=True)
    )
    return Results(START, START + lasted, control, treatment)


def answered(seen: Results, design: Design = DESIGN) -> Answer:
    return analyse(design, design.digest, seen)


def outcomes(answer: Answer) -> dict[str, str]:
    return {verdict.name: verdict.outcome.value for verdict in answer.verdicts}


@pytest.mark.parametrize(
    ("seen", "action", "reason"),
    [
        (results((2000, 2300)), Action.SHIP, "conversion is better by +0.015"),
        (results((1000, 1100), (10_000, 10_000)), Action.KEEP_RUNNING, "whether by more than 0 is not shown"),
        (results((1000, 1300), (10_000, 10_000)), Action.SHIP, "latency_ms is +0 worse"),
        (results((2000, 1700)), Action.STOP, "conversion is better by -0.015"),
        (results((2000, 2020)), Action.STOP, "the planned units are reached, and conversion"),
        (results((2000, 2300), latency=110.0), Action.STOP, "latency_ms is +10 worse [+8.7"),
        (results((2000, 2300), latency=105.0), Action.STOP, "harm beyond the margin of 5 is not excluded yet"),
        (results((2000, 2300), lasted=timedelta(days=6)), Action.KEEP_RUNNING, "6 days of a full cycle of 7 days only"),
        (results((2000, 1500), lasted=timedelta(days=6)), Action.KEEP_RUNNING, "6 days of a full cycle"),
        (results((2000, 2300), latency=110.0, lasted=timedelta(hours=3)), Action.STOP, "beyond the margin of 5"),
        (results((2000, 2300), (20_000, 19_000), lasted=timedelta(hours=3)), Action.STOP, "mend the assignment and start again"),
        (results((0, 0), (0, 0)), Action.KEEP_RUNNING, "0 and 0 units, 100 of each are needed"),
        (results((1, 1), (1, 1)), Action.KEEP_RUNNING, "1 and 1 units, 100 of each are needed"),
        (results((0, 0), (1000, 1000)), Action.KEEP_RUNNING, "0 of the rarer outcome are to be expected in a variant, 20 are needed"),
        (results((1000, 1000), (1000, 1000)), Action.KEEP_RUNNING, "0 of the rarer outcome are to be expected in a variant, 20 are needed"),
        (results((0, 0)), Action.STOP, "the planned units are reached, and conversion: 0 of the rarer outcome"),
    ],
)
def test_the_answer_and_its_reason(seen, action, reason):
    answer = answered(seen)
    assert answer.action is action
    assert reason in answer.reason


def test_every_verdict_has_its_figures():
    answer = answered(results((2000, 2300)))
    assert outcomes(answer) == {"sample_ratio": "pass", "cycle": "pass", "latency_ms": "pass", "conversion": "pass"}
    assert [one.name for one in answer.estimates] == ["conversion", "latency_ms"]
    assert answer.estimates[0].difference.lower < 0.015 < answer.estimates[0].difference.upper
    assert answer.information == 1.0
    assert all(verdict.value is not None and verdict.threshold is not None for verdict in answer.verdicts)


def test_no_data_never_passes():
    assert set(outcomes(answered(results((0, 0), (0, 0), lasted=timedelta(0)))).values()) == {"inconclusive"}


def test_a_metric_that_never_varies_is_inconclusive():
    still = Guardrail("price", "mean", margin=1)
    design = replace(DESIGN, guardrails=(still,))
    seen = results((2000, 2300))
    control, treatment = (
        Variant(one.units, {"conversion": one.metrics["conversion"], "price": Figures(mean=9.0, sd=0.0)})
        for one in (seen.control, seen.treatment)
    )
    answer = answered(replace(seen, control=control, treatment=treatment), design)
    assert outcomes(answer)["price"] == "inconclusive"
    assert answer.action is Action.STOP
    assert "every unit has the same value" in answer.reason


def test_a_design_that_was_changed_after_the_start_is_refused():
    for changed in (
        replace(DESIGN, success=Metric("clicks", "proportion")),
        replace(DESIGN, guardrails=()),
        replace(DESIGN, guardrails=(replace(LATENCY, margin=6),)),
        replace(DESIGN, alpha=0.1),
        replace(DESIGN, cycle=timedelta(days=6)),
    ):
        with pytest.raises(DigestMismatch, match="analyse what was declared, or declare anew and start again"):
            analyse(changed, DESIGN.digest, results((2000, 2300)))


def test_the_hash_is_of_what_is_declared_and_of_nothing_else():
    assert replace(DESIGN, guardrails=(replace(LATENCY, margin=5.0),)).digest == DESIGN.digest
    assert len({DESIGN.digest, replace(DESIGN, units=40_002).digest, replace(DESIGN, method="fixed").digest}) == 3


def test_what_was_not_declared_is_not_looked_at():
    seen = results((2000, 2300))
    more = Variant(20_000, {**seen.control.metrics, "clicks": Figures(successes=3)})
    with pytest.raises(BadData, match="expected exactly those that were declared: conversion, latency_ms"):
        answered(replace(seen, control=more))
    with pytest.raises(BadData, match="results.treatment: got conversion, expected"):
        answered(replace(seen, treatment=Variant(20_000, {"conversion": Figures(successes=3)})))


def test_lower_can_be_better():
    design = Design("errors", replace(CONVERSION, better="lower"), 40_000, (replace(LATENCY, better="higher", margin=5),))
    assert answered(results((2300, 2000)), design).action is Action.SHIP
    assert answered(results((2000, 2300)), design).action is Action.STOP
    assert "beyond the margin" in answered(results((2300, 2000), latency=90.0), design).reason


def test_a_minimum_effect_must_be_exceeded_and_stops_once_it_is_excluded():
    design = replace(DESIGN, min_effect=0.03)
    assert answered(results((2000, 2300)), design).action is Action.STOP
    assert "more than 0.03 is excluded" in answered(results((2000, 2300)), design).reason
    assert answered(results((2000, 3000)), design).action is Action.SHIP


def test_a_fixed_experiment_answers_once_at_its_end():
    design = replace(DESIGN, method="fixed")
    early = answered(results((1000, 1300), (10_000, 10_000)), design)
    assert (early.action, early.estimates[0].difference) == (Action.KEEP_RUNNING, None)
    assert "one look at the end was declared, 20000 of 40000 units are there" in early.reason
    answer = answered(results((2000, 2130)), design)
    assert answer.action is Action.SHIP
    found = answer.estimates[0].difference
    se = np.sqrt((0.1 * 0.9 + 0.1065 * 0.8935) / 20_000)
    assert (found.lower, found.upper) == pytest.approx((0.0065 - 1.959964 * se, 0.0065 + 1.959964 * se), rel=1e-6)


def test_a_group_sequential_look_asks_for_the_boundary_of_its_looks():
    design = replace(DESIGN, method="group-sequential")
    half = answered(results((1000, 1100), (10_000, 10_000)), design)
    assert (half.action, half.information) == (Action.KEEP_RUNNING, pytest.approx(0.5))
    se = np.sqrt((0.1 * 0.9 + 0.11 * 0.89) / 10_000)
    assert half.estimates[0].difference.upper - 0.01 == pytest.approx(2.963 * se, rel=1e-3)
    end = answered(replace(results((2000, 2130)), earlier_looks=(0.5,)), design)
    se = np.sqrt((0.1 * 0.9 + 0.1065 * 0.8935) / 20_000)
    assert end.estimates[0].difference.upper - 0.0065 == pytest.approx(1.969 * se, rel=1e-3)
    assert end.action is Action.SHIP
    with pytest.raises(SpecError, match="name only those before it"):
        answered(replace(results((1000, 1100), (10_000, 10_000)), earlier_looks=(0.5,)), design)


@pytest.mark.parametrize(
    ("successes", "action", "text"),
    [
        ((2000, 2130), Action.SHIP, "is better with probability 0.98"),
        ((2000, 1800), Action.STOP, "0.0005 or less is not worth it"),
        ((2000, 2050), Action.STOP, "the planned units are reached"),
    ],
)
def test_a_bayesian_answer_weighs_what_a_wrong_one_costs(successes, action, text):
    answer = answered(results(successes), replace(DESIGN, method="bayesian", max_loss=0.0005))
    assert answer.action is action
    assert text in answer.reason


def test_a_bayesian_answer_can_be_of_means_and_of_less_being_better():
    design = Design("speed", Metric("latency_ms", "mean", "lower"), 40_000, method="bayesian", max_loss=0.1)
    seen = results((1, 1))
    control, treatment = (Variant(20_000, {"latency_ms": Figures(mean=mean, sd=40.0)}) for mean in (100.0, 98.0))
    assert answered(replace(seen, control=control, treatment=treatment), design).action is Action.SHIP
    assert answered(replace(seen, control=treatment, treatment=control), design).action is Action.STOP


def test_ratios_and_adjusted_means_are_read_from_their_figures():
    clicks, revenue = Metric("click_rate", "ratio"), Guardrail("revenue", "mean", 0.5, better="higher", adjusted=True)
    design = Design("page", clicks, 2000, (revenue,))
    control, treatment = (
        Variant(
            1000,
            {
                "click_rate": Figures(numerator_mean=y, numerator_sd=1.0, denominator_mean=10.0, denominator_sd=5.0, correlation=0.5),
                "revenue": Figures(mean=5.0, sd=3.0, before_mean=4.0, before_sd=3.0, correlation=0.8),
            },
        )
        for y in (1.0, 1.3)
    )
    answer = answered(Results(START, START + WEEK, control, treatment), design)
    assert answer.action is Action.SHIP
    assert answer.estimates[0].difference.effect == pytest.approx(0.03)
    plain = answer.estimates[1].difference
    # 0.36 of the variance is left, so 0.6 of the width
    again = Design("page", clicks, 2000, (replace(revenue, adjusted=False),))
    unadjusted = tuple(replace(one, metrics={**one.metrics, "revenue": Figures(mean=5.0, sd=3.0)}) for one in (control, treatment))
    other = answered(Results(START, START + WEEK, *unadjusted), again).estimates[1].difference
    assert (plain.upper - plain.lower) / (other.upper - other.lower) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("metric", "figures", "told"),
    [
        (CONVERSION, Figures(successes=5, mean=0.5), "got successes, mean, expected of a metric of kind proportion: successes"),
        (CONVERSION, Figures(), "got nothing, expected"),
        (CONVERSION, Figures(successes=1001), "got 1001 of 1000 units"),
        (Metric("m", "mean"), Figures(mean=float("nan"), sd=1.0), "got mean = nan, expected finite numbers"),
        (Metric("m", "mean"), Figures(mean=1.0, sd=-1.0), "got sd = -1.0"),
        (Metric("m", "mean"), Figures(mean=1.0, sd=float("inf")), "got sd = inf"),
        (
            Metric("m", "mean", adjusted=True),
            Figures(mean=1.0, sd=1.0),
            "kind adjusted mean: mean, sd, before_mean, before_sd, correlation",
        ),
        (
            Metric("m", "mean", adjusted=True),
            Figures(mean=1.0, sd=1.0, before_mean=1.0, before_sd=1.0, correlation=2.0),
            "correlation: got 2.0, expected from -1 to 1",
        ),
    ],
)
def test_figures_that_are_missing_or_impossible_are_refused(metric, figures, told):
    design = Design("x", metric, 2000)
    variant = Variant(1000, {metric.name: figures})
    with pytest.raises(BadData, match=told):
        answered(Results(START, START + WEEK, variant, variant), design)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: replace(DESIGN, units=2), "units: got 2, expected two in each variant"),
        (lambda: replace(DESIGN, treatment_share=1.0), "treatment_share: got 1.0"),
        (lambda: replace(DESIGN, alpha=0.5), "alpha: got 0.5"),
        (lambda: replace(DESIGN, min_effect=-0.1), "min_effect: got -0.1"),
        (lambda: replace(DESIGN, cycle=timedelta(0)), "cycle: must be longer"),
        (lambda: replace(DESIGN, guardrails=(LATENCY, LATENCY)), "each metric once"),
        (lambda: replace(DESIGN, max_loss=0.1), "above 0 for bayesian, and only there"),
        (lambda: replace(DESIGN, method="bayesian"), "above 0 for bayesian, and only there"),
        (lambda: replace(DESIGN, method="bayesian", max_loss=0.1, min_effect=0.1), "leave it out"),
        (lambda: replace(LATENCY, margin=-1), "got a margin of -1"),
        (lambda: replace(LATENCY, margin=float("nan")), "got a margin of nan"),
        (lambda: Metric("", "mean"), "name: got nothing"),
        (lambda: Metric("m", "ratio", adjusted=True), "only a mean is adjusted"),
        (lambda: Guardrail("m", "ratio", 1.0, adjusted=True), "only a mean is adjusted"),
        (lambda: Results(START, START - WEEK, None, None), "is before started_at"),
        (lambda: Results(START, datetime(2026, 12, 1), None, None), "a time zone, or none"),
        (lambda: Variant(-1, {}), "units: got -1"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(make, told):
    with pytest.raises(SpecError, match=told):
        make()


def test_a_rare_outcome_in_a_small_variant_is_not_taken_for_a_difference():
    """1 % of a tenth of the units: before there are some, none of them is no sign of anything."""
    rng, runs, wrong = np.random.default_rng(2), 300, 0
    design = Design("rare", CONVERSION, 20_000, treatment_share=0.1, cycle=timedelta(days=1))
    for _ in range(runs):
        found = np.cumsum(rng.binomial([[900], [100]], 0.01, (2, 20)), axis=1)
        for day in range(20):
            control, treatment = (
                Variant(units * (day + 1), {"conversion": Figures(successes=int(row[day]))})
                for units, row in zip((900, 100), found, strict=True)
            )
            answer = answered(Results(START, START + timedelta(days=day + 1), control, treatment), design)
            if answer.verdicts[-1].outcome is not Outcome.INCONCLUSIVE:
                wrong += 1
                break
    assert beta.ppf(0.99, wrong + 1, runs - wrong) <= 0.05


def test_a_variant_that_broke_is_seen_by_having_no_successes_at_all():
    assert answered(results((1000, 0), (10_000, 10_000))).action is Action.STOP


@pytest.mark.long
def test_who_looks_every_day_ships_what_is_no_better_and_calls_harm_what_is_none_at_most_alpha_of_the_time():
    """Both guardrails and the success metric, with 28 daily looks: half of alpha for shipping, alpha for harm."""
    rng, runs, shipped, harmed = np.random.default_rng(21), 800, 0, 0
    design = Design(
        "aa", CONVERSION, 28_000, (Guardrail("latency_ms", "mean", 0), Guardrail("errors", "proportion", 0)), cycle=timedelta(days=1)
    )
    for _ in range(runs):
        daily = {
            "units": np.full((2, 28), 500),
            "conversion": rng.binomial(500, 0.1, (2, 28)),
            "errors": rng.binomial(500, 0.05, (2, 28)),
            "latency": rng.normal(100, 40 / np.sqrt(500), (2, 28)),
        }
        total = {name: np.cumsum(values, axis=1) for name, values in daily.items()}
        for day in range(28):
            control, treatment = (
                Variant(
                    int(total["units"][side, day]),
                    {
                        "conversion": Figures(successes=int(total["conversion"][side, day])),
                        "errors": Figures(successes=int(total["errors"][side, day])),
                        "latency_ms": Figures(mean=float(total["latency"][side, day] / (day + 1)), sd=40.0),
                    },
                )
                for side in (0, 1)
            )
            answer = answered(Results(START, START + timedelta(days=day + 1), control, treatment), design)
            better = answer.verdicts[-1].outcome is Outcome.PASS
            worse = any(verdict.outcome is Outcome.FAIL for verdict in answer.verdicts[2:4])
            shipped, harmed = shipped + better, harmed + worse
            if better or worse:
                break
    # Clopper and Pearson's upper bound of 99 %
    assert beta.ppf(0.99, harmed + 1, runs - harmed) <= 0.05
    assert beta.ppf(0.99, shipped + 1, runs - shipped) <= 0.025
