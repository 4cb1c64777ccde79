import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from mlops_assets.core.floors import Footprint, budgets, calibration, holm, slice_floors
from mlops_assets.core.gate_spec import Gates, Slice
from mlops_assets.core.verdict import Outcome

PASS, FAIL, OPEN = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
@pytest.mark.long
def test_holm_refuses_what_statsmodels_refuses(p_values, alpha):
    assert holm(p_values, alpha) == list(multipletests(p_values, alpha, method="holm")[0])


def in_slices(floors, values, rows=400, blocks=None):
    """A slice for each value, whose AUC is that value within a hundredth."""
    label = np.tile(np.repeat([0, 1], rows // 2), len(values))
    place = np.repeat(np.arange(len(values)), rows)
    # Of a two-valued score the AUC is (1 + share of positives above - share of negatives above) / 2.
    score = np.concatenate([np.r_[np.zeros(rows // 2), np.arange(rows // 2) < (2 * value - 1) * rows / 2] for value in values]).astype(
        float
    )
    gates = Gates(floor=0.0, slices=tuple(Slice("part", str(n), floor) for n, floor in enumerate(floors)))
    masks = {f"part={n}": place == n for n in range(len(values))}
    return slice_floors(gates, label, score, masks, 10, blocks)


def test_a_slice_passes_as_it_is_fails_when_that_is_shown_and_is_open_in_between():
    found = in_slices([0.7, 0.7, 0.7], [0.75, 0.60, 0.69])
    assert [verdict.outcome for verdict in found] == [PASS, FAIL, OPEN]
    assert "below its floor of 0.700 (p " in found[1].reason
    assert "may be chance" in found[2].reason


def test_among_many_slices_more_is_needed_to_fail_one():
    alone = in_slices([0.7], [0.66])
    among = in_slices([0.7] * 8, [0.66] + [0.75] * 7)
    assert (alone[0].outcome, among[0].outcome) == (FAIL, OPEN)


def test_a_slice_of_few_days_is_open_where_days_are_blocks():
    found = in_slices([0.7], [0.75], blocks=np.repeat(np.arange(4), 100))
    assert (found[0].outcome, found[0].value) == (OPEN, None)
    assert "got 4 blocks, expected at least 20" in found[0].reason


def test_a_slice_whose_scores_are_all_the_same_fails_without_an_error():
    assert in_slices([0.7], [0.5])[0].outcome is FAIL


@pytest.mark.parametrize(("power", "limit", "outcome"), [(1, 0.05, PASS), (2, 0.05, FAIL), (2, 0.165, OPEN)])
def test_calibration_fails_only_when_it_is_shown(power, limit, outcome):
    generator = np.random.default_rng(1)
    score = generator.random(6000)
    label = (generator.random(6000) < score**power).astype(int)
    assert calibration(Gates(0.5, max_ece=limit), label, score, 50, None).outcome is outcome


def test_calibration_on_few_rows_or_days_is_open():
    score = np.full(100, 0.9)
    label = np.arange(100) % 2
    assert calibration(Gates(0.5, max_ece=0.1), label, score, 60, None).value is None
    few_days = calibration(Gates(0.5, max_ece=0.1), label, score, 10, np.arange(100) // 50)
    assert (few_days.outcome, few_days.value) == (OPEN, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("gates", "footprint", "expected"),
    [
        (Gates(0.5), Footprint(10**9), []),
        (Gates(0.5, max_model_bytes=1000), Footprint(1000), [("model_bytes", PASS, 1000)]),
        (Gates(0.5, max_model_bytes=1000), Footprint(1001), [("model_bytes", FAIL, 1001)]),
        (Gates(0.5, max_latency_ms=2), Footprint(1, (1.0,) * 96 + (50.0,) * 4), [("latency_ms", PASS, 1)]),
        (Gates(0.5, max_latency_ms=2), Footprint(1, (1.0,) * 90 + (50.0,) * 10), [("latency_ms", FAIL, 50)]),
        (Gates(0.5, max_latency_ms=2), Footprint(1, ()), [("latency_ms", OPEN, None)]),
        (Gates(0.5, max_latency_ms=2), Footprint(1), [("latency_ms", OPEN, None)]),
    ],
)
def test_budgets_are_held_against_what_was_measured(gates, footprint, expected):
    assert [(verdict.name, verdict.outcome, verdict.value) for verdict in budgets(gates, footprint)] == expected
