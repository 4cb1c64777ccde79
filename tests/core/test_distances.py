import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, entropy, ks_2samp, wasserstein_distance

from mlops_assets.core import distances, grid
from mlops_assets.core.distances import chi_square, examine, jensen_shannon, kl, kolmogorov_smirnov, measure, psi, wasserstein
from mlops_assets.core.profile import ColumnProfile, baseline, profile

COUNTS = st.integers(2, 30).flatmap(lambda bins: arrays(np.int64, (2, bins), elements=st.integers(1, 10**6)))


def columns(before: np.ndarray, after: np.ndarray) -> tuple[ColumnProfile, ColumnProfile]:
    base = baseline(["x"], before[:, None])
    return base.columns[0], profile(base, after[:, None]).columns[0]


def normal(rows: int, seed: int, mean: float = 15.0, spread: float = 8.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, rows).astype(np.float32)


@given(COUNTS)
def test_shares_are_compared_as_scipy_does(counts):
    p, q = (side / side.sum() for side in counts)
    assert kl(p, q) == pytest.approx(entropy(p, q), rel=1e-9, abs=1e-12)
    assert float(psi(p, q)) == pytest.approx(entropy(p, q) + entropy(q, p), rel=1e-9, abs=1e-12)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q), rel=1e-9, abs=1e-7)  # the root of a rounding error of 1e-16
    exact = chi2_contingency(counts, correction=False)
    ours = chi_square(*counts)
    assert (ours.statistic, ours.p_value) == pytest.approx((exact.statistic, exact.pvalue), rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.lists(st.integers(-3, 12), min_size=2, max_size=60))
def test_whole_numbers_are_as_far_apart_as_scipy_says(one, other):
    before, after = np.asarray(one, dtype=np.float32), np.asarray(other, dtype=np.float32)
    found = columns(before, after)
    assert wasserstein(*found) == pytest.approx(wasserstein_distance(before, after), abs=1e-9)
    exact, ours = ks_2samp(before, after, method="asymp"), kolmogorov_smirnov(*found)
    assert (ours.statistic, ours.p_value) == pytest.approx((exact.statistic, exact.pvalue), abs=1e-9)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (normal(20_000, 1), normal(5_000, 2, mean=16)),
        (normal(20_000, 1), normal(300, 2, spread=9)),
        (np.exp(normal(20_000, 1, 0, 1)), np.exp(normal(5_000, 2, 0.1, 1))),
        (normal(20_000, 1, mean=1013), normal(5_000, 2, mean=1011)),
        (np.where(normal(20_000, 1) < 20, 0, normal(20_000, 3)), np.where(normal(5_000, 2) < 15, 0, normal(5_000, 4))),
    ],
    ids=["warmer", "wider", "heavy tail", "pressure", "mostly zero"],
)
def test_wasserstein_is_within_the_bound_of_the_cells(before, after):
    before, after = (side.astype(np.float32).astype(float) for side in (before, after))
    exact, found = wasserstein_distance(before, after), columns(before, after)
    centre = found[0].centre
    bound = (np.abs(before - centre).mean() + np.abs(after - centre).mean()) / 512
    assert wasserstein(*found) == pytest.approx(exact, abs=bound)
    assert wasserstein(*found) == pytest.approx(exact, rel=0.01)
    assert measure(*found).wasserstein_normed == pytest.approx(exact / before.std(), rel=0.01)
    assert kolmogorov_smirnov(*found).statistic == pytest.approx(ks_2samp(before, after).statistic, abs=0.01)


FLOATS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200).map(lambda values: np.asarray(values, dtype=np.float32))


@given(FLOATS, FLOATS)
def test_of_the_cells_wasserstein_is_what_scipy_says(before, after):
    base, now = columns(before, after)
    places = [(grid.places(np.asarray(side.cells), side.categorical), side.cell_counts) for side in (base, now)]
    (one, one_counts), (other, other_counts) = places
    exact = wasserstein_distance(one, other, one_counts, other_counts)
    assert wasserstein(base, now) == pytest.approx(exact, rel=1e-9, abs=1e-9)


def test_all_distances_of_the_same_rows_are_nothing():
    found = measure(*columns(normal(500, 1), normal(500, 1)))
    assert (found.psi, found.kl, found.wasserstein, found.wasserstein_normed) == (0, 0, 0, 0)
    assert found.jensen_shannon == pytest.approx(0, abs=1e-7)
    tested = examine(*columns(normal(500, 1), normal(500, 1)))
    assert (tested.chi_square_p, tested.ks_p) == (1, 1)


NOTHING = np.empty(0, dtype=np.float32)
NAN, INF = np.full(50, np.nan, dtype=np.float32), np.full(50, np.inf, dtype=np.float32)
CONSTANT = np.full(50, 7, dtype=np.float32)


@pytest.mark.parametrize("before", [NOTHING, NAN, INF, CONSTANT, CONSTANT[:1], normal(50, 1)])
@pytest.mark.parametrize("after", [NOTHING, NAN, INF, CONSTANT, CONSTANT[:1], normal(50, 1)])
def test_degenerate_columns_have_no_figure_that_is_not_finite(before, after):
    found, tested = measure(*columns(before, after)), examine(*columns(before, after))
    figures = [*asdict(found).values(), *asdict(tested).values()]
    assert all(figure is None or math.isfinite(figure) for figure in figures)
    assert (found.psi is None) == (len(before) == 0 or len(after) == 0)
    assert (found.wasserstein is None) == (not np.isfinite(before).any() or not np.isfinite(after).any())


def test_a_constant_column_that_moves_has_a_distance_and_no_normed_one():
    found = measure(*columns(CONSTANT, CONSTANT + 2))
    assert (found.wasserstein, found.wasserstein_normed) == (2, None)


class TestAgainstEvidently:
    """Given its bins (equal widths over both samples together, empty ones filled up), our figures are Evidently's."""

    @pytest.fixture(scope="class")
    def theirs(self):
        pytest.importorskip("evidently")
        from evidently.legacy.calculations import stattests
        from evidently.legacy.calculations.stattests.utils import get_binned_data
        from evidently.legacy.core import ColumnType

        return stattests, get_binned_data, ColumnType

    @pytest.fixture(params=["numerical", "categorical"])
    def samples(self, request):
        import pandas as pd

        if request.param == "numerical":
            return "num", pd.Series(normal(3000, 1)), pd.Series(normal(1000, 2, mean=17))
        generator = np.random.default_rng(5)
        return "cat", pd.Series(generator.integers(0, 6, 3000)), pd.Series(generator.integers(0, 7, 1000))

    def test_psi_kl_and_jensen_shannon(self, theirs, samples):
        stattests, binned, types = theirs
        kind, before, after = samples[0], samples[1], samples[2]
        kind = types.Numerical if kind == "num" else types.Categorical
        filled, raw = binned(before, after, kind, 30), binned(before, after, kind, 30, False)
        expected = [
            getattr(stattests, f"{name}_stat_test").func(before, after, kind, 0.1)[0] for name in ("psi", "kl_div", "jensenshannon")
        ]
        assert [float(psi(*filled)), kl(*filled), jensen_shannon(*raw)] == pytest.approx(expected, rel=1e-9)

    def test_wasserstein_in_standard_deviations(self, theirs):
        import pandas as pd

        stattests, _, types = theirs
        generator = np.random.default_rng(5)
        before, after = (generator.integers(0, high, 2000).astype(np.float32) for high in (6, 7))
        expected = stattests.wasserstein_stat_test.func(pd.Series(before, dtype=float), pd.Series(after, dtype=float), types.Numerical, 0.1)
        assert measure(*columns(before, after)).wasserstein_normed == pytest.approx(expected[0], rel=1e-9)


def test_the_definition_says_that_it_is_the_first():
    assert distances.DEFINITION == 1
