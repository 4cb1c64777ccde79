from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.core.evidence import (
    LATENCY_BOUNDS_MS,
    SCORE_BINS,
    Flips,
    GatewaySample,
    Logged,
    Observation,
    Traffic,
    begin,
    observe,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
BUCKETS = len(LATENCY_BOUNDS_MS) + 1


def traffic(requests: int, errors: int = 0) -> Traffic:
    return Traffic(requests, errors, (requests, *(0,) * (BUCKETS - 1)))


def sample(gateway: str = "a", epoch: str = "1", **releases: int) -> GatewaySample:
    return GatewaySample(gateway, epoch, {release: traffic(requests) for release, requests in releases.items()})


def looked(start: list[GatewaySample], *looks: list[GatewaySample]) -> Observation:
    seen = begin(start, "", START)
    for minutes, samples in enumerate(looks, 1):
        seen = observe(seen, samples, Logged(f"position {minutes}"), START + timedelta(minutes=minutes))
    return seen


def requests(seen: Observation) -> dict[str, int]:
    return {release: counts.requests for release, counts in seen.traffic.items()}


@pytest.mark.parametrize(
    ("start", "looks", "counted"),
    [
        ([sample(v1=100)], [], {}),
        ([sample(v1=100)], [[sample(v1=130)]], {"v1": 30}),
        ([sample(v1=100)], [[sample(v1=130)], [sample(v1=130)], [sample(v1=130)]], {"v1": 30}),
        ([sample(v1=100)], [[sample(v1=130, v2=4)], [sample(v1=135, v2=9)]], {"v1": 35, "v2": 9}),
        ([sample(v1=100)], [[sample(v1=130)], [sample(epoch="2", v1=7)], [sample(epoch="2", v1=9)]], {"v1": 39}),
        ([sample(v1=100)], [[sample(epoch="2", v1=250)]], {"v1": 250}),
        ([sample("a", v1=10), sample("b", v1=20)], [[sample("a", v1=11), sample("b", v1=25)]], {"v1": 6}),
        ([sample("a", v1=10), sample("b", v1=20)], [[sample("a", v1=11)], [sample("a", v1=12), sample("b", v1=25)]], {"v1": 7}),
        ([sample("a", v1=10)], [[sample("a", v1=11), sample("b", v1=5)]], {"v1": 6}),
        ([sample(v1=100, v2=50)], [[sample(v1=110)], [sample(v1=120, v2=55)]], {"v1": 20, "v2": 5}),
        ([sample(v1=100, v2=50)], [[sample(v1=110)], [sample(v1=120, v2=3)]], {"v1": 20, "v2": 3}),
    ],
    ids=[
        "nothing yet",
        "one look",
        "looking again adds nothing",
        "a release appears",
        "the gateway restarts",
        "the gateway restarts and overtakes its old count",
        "two gateways",
        "a gateway is not seen for a while",
        "a gateway is added",
        "a release is not seen for a while",
        "a release is taken out and put back",
    ],
)
def test_what_was_counted_since_the_step_began_is_counted_once(start, looks, counted):
    assert requests(looked(start, *looks)) == counted


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["on", "restart", "silent"])), max_size=20))
def test_however_often_a_gateway_restarts_what_was_seen_is_never_counted_twice_or_below_zero(story):
    served, count, epoch, looks = 0, 0, 1, []
    for increase, event in story:
        if event == "restart":
            count, epoch = 0, epoch + 1
        count += increase
        served += increase
        looks.append([] if event == "silent" else [sample(epoch=str(epoch), v1=count)])
    seen = requests(looked([sample(v1=0)], *looks)).get("v1", 0)
    assert 0 <= seen <= served
    if all(event != "silent" for _, event in story):
        assert seen == served


def test_errors_and_latencies_are_counted_with_the_requests():
    first = Traffic(10, 1, (5, 5, *(0,) * (BUCKETS - 2)))
    second = Traffic(15, 4, (5, 9, *(0,) * (BUCKETS - 3), 1))
    seen = looked([GatewaySample("a", "1", {"v1": first})], [GatewaySample("a", "1", {"v1": second})])
    assert seen.traffic["v1"] == Traffic(5, 3, (0, 4, *(0,) * (BUCKETS - 3), 1))
    assert seen.traffic["v1"].error_rate == 0.6


def test_scores_add_up_and_the_position_in_the_log_moves_on():
    counts = tuple(range(SCORE_BINS))
    seen = begin([], "p0", START)
    assert seen.log_position == "p0"
    for position in ("p1", "p2"):
        seen = observe(seen, [], Logged(position, {"v2": counts}), START + timedelta(minutes=5))
    assert seen.scores == {"v2": tuple(2 * count for count in counts)}
    assert (seen.since, seen.until, seen.log_position) == (START, START + timedelta(minutes=5), "p2")


def test_scores_in_other_bins_are_refused():
    seen = observe(begin([], "", START), [], Logged("", {"v2": (0,) * SCORE_BINS}), START)
    with pytest.raises(ValueError, match="shorter"):
        observe(seen, [], Logged("", {"v2": (1, 2)}), START)


def test_no_requests_have_no_rate_and_no_quantile():
    assert Traffic().error_rate is None
    assert Traffic().latency_quantile(0.5) is None


def counted(latencies: list[float]) -> Traffic:
    buckets = np.bincount(np.searchsorted(LATENCY_BOUNDS_MS, latencies, side="left"), minlength=BUCKETS)
    return Traffic(len(latencies), 0, tuple(int(count) for count in buckets))


@given(st.lists(st.floats(0.01, 9999), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(latencies, q):
    exact = float(np.quantile(latencies, q, method="inverted_cdf"))
    edges = (0.0, *LATENCY_BOUNDS_MS)
    index = int(np.searchsorted(LATENCY_BOUNDS_MS, exact, side="left"))
    assert edges[index] <= counted(latencies).latency_quantile(q) <= edges[index + 1]


def test_the_quantiles_of_many_requests_are_near_the_true_ones():
    latencies = np.random.default_rng(3).lognormal(3, 0.6, 50_000)
    for q in (0.5, 0.9, 0.95, 0.99):
        assert counted(list(latencies)).latency_quantile(q) == pytest.approx(np.quantile(latencies, q), rel=0.1)


@given(st.lists(st.floats(0.01, 20_000), min_size=1, max_size=50))
def test_a_higher_quantile_is_never_a_lower_latency(latencies):
    found = [counted(latencies).latency_quantile(q) for q in np.linspace(0, 1, 21)]
    assert found == sorted(found)


def test_what_is_slower_than_every_bound_counts_as_the_last_bound():
    assert counted([60_000.0] * 5).latency_quantile(0.95) == LATENCY_BOUNDS_MS[-1]


def test_what_a_release_would_have_had_is_shared_out_look_by_look():
    # 10 errors while it had half of the requests, 100 while it had a tenth.
    looks = [{"v1": Traffic(100, 8), "v2": Traffic(100, 2)}, {"v1": Traffic(1000, 90), "v2": Traffic(200, 20)}]
    seen = looked([GatewaySample("a", "1", {})], *([GatewaySample("a", "1", traffic)] for traffic in looks))
    assert seen.expected["v2"].errors == pytest.approx(10 / 2 + 100 / 10)
    assert seen.expected["v1"].errors + seen.expected["v2"].errors == pytest.approx(110)


def test_units_and_flips_add_up():
    logged = Logged("p", units={"v2": (1, -3)}, flips={"v2": Flips(5, 1)})
    seen = observe(observe(begin([], "", START), [], logged, START), [], logged, START)
    assert (seen.units["v2"], seen.flips["v2"]) == ((2, -6), Flips(10, 2))
