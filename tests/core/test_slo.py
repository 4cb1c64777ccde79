"""Burn rates against the SRE workbook's own figures and against counts by hand."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.errors import SpecError
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, GatewaySample, Traffic
from mlops_assets.core.slo import BURNS, Counts, History, budget_left, burn_rate, burns, count, counted, judge, pages
from mlops_assets.core.slo_spec import Slo
from mlops_assets.core.verdict import Outcome

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SLO = Slo()


def served(requests: int, errors: int = 0, slow: int = 0) -> Traffic:
    """``slow`` of them took 750 ms, the others 5."""
    latency = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    latency[LATENCY_BOUNDS_MS.index(5)], latency[LATENCY_BOUNDS_MS.index(750)] = requests - slow, slow
    return Traffic(requests, errors, tuple(latency))


class Gateway:
    """Counts as a gateway does, and is looked at."""

    def __init__(self, slo: Slo = SLO, pace: float = 1.0) -> None:
        self.slo, self.pace, self.now, self.history = slo, pace, NOW, History()
        self.epoch, self.traffic = "1", {"v1": Traffic()}
        self.look()

    def restart(self) -> None:
        self.epoch, self.traffic = self.epoch + "1", {}

    def pass_by(self, time: timedelta, every: timedelta, each: Traffic, release: str = "v1", serving: tuple[str, ...] = ("v1",)) -> None:
        """So much traffic between two looks, for so long."""
        for _ in range(time // every):
            self.now += every
            self.traffic[release] = self.traffic.get(release, Traffic()) + each
            self.look(serving)

    def look(self, serving: tuple[str, ...] = ("v1",)) -> None:
        sample = GatewaySample("local", self.epoch, dict(self.traffic))
        self.history = count(self.history, [sample], frozenset(serving), self.slo, self.now, self.pace)

    def outcomes(self, release: str = "v1") -> Mapping[str, Outcome]:
        return {verdict.name: verdict.outcome for verdict in judge(self.slo, self.history, release, self.now, self.pace)}


def test_the_factors_spend_the_shares_of_a_month_s_budget_that_the_workbook_says() -> None:
    spent = [burn.factor * (burn.long / (30 * DAY)) for burn in BURNS]
    assert spent == pytest.approx([0.02, 0.05, 0.10, 0.10])
    assert [burn.long / burn.short for burn in BURNS] == [12.0] * 4


def test_windows_are_in_proportion_to_the_objective_s_own_and_to_the_pace() -> None:
    week = burns(Slo(window=7 * DAY))
    assert [burn.long / ours.long for burn, ours in zip(week, BURNS, strict=True)] == pytest.approx([7 / 30] * 4)
    assert [burn.factor * (burn.long / (7 * DAY)) for burn in week] == pytest.approx([0.02, 0.05, 0.10, 0.10])
    assert burns(SLO, pace=60)[0].long == MINUTE


@pytest.mark.parametrize(
    ("bad", "total", "target", "rate"),
    [(0, 1000, 0.999, 0), (1, 1000, 0.999, 1), (144, 10_000, 0.999, 14.4), (50, 100, 0.99, 50), (0, 0, 0.9, 0)],
)
def test_a_burn_rate_is_the_share_of_bad_requests_over_what_is_allowed(bad: int, total: int, target: float, rate: float) -> None:
    assert burn_rate(bad, total, target) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "errors", "failed"),
    [
        ("none fails", 0, ()),
        ("14 of 1,000 burn 14 times: the hour's alert is silent, the six hours' is not", 14, ("6 h", "1 d", "3 d")),
        ("15 of 1,000 burn 15 times", 15, ("1 h", "6 h", "1 d", "3 d")),
        ("4 of 1,000 burn 4 times: tickets only", 4, ("1 d", "3 d")),
        ("one of 1,000 burns as fast as it may, which is no faster", 1, ()),
    ],
)
def test_errors_at_a_steady_rate_raise_the_alerts_whose_factor_they_exceed(name: str, errors: int, failed: tuple[str, ...]) -> None:
    gateway = Gateway()
    gateway.pass_by(4 * DAY, HOUR / 4, served(1000, errors))
    assert {key for key, outcome in gateway.outcomes().items() if outcome is Outcome.FAIL} == {
        f"availability over {window}" for window in failed
    }


def test_a_verdict_tells_both_windows_in_figures_and_words() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, 5 * MINUTE, served(100))
    gateway.pass_by(30 * MINUTE, 5 * MINUTE, served(100, errors=20))
    verdict = judge(SLO, gateway.history, "v1", gateway.now)[0]
    assert (verdict.value, verdict.threshold, verdict.sample) == (pytest.approx(100), 14.4, 1200)
    assert verdict.reason == (
        "120 of 1200 requests of v1 failed over 1 h: availability burns 100 times as fast as its 0.999 allows, "
        "200 times over the last 5 min (limit 14.4)"
    )


def test_the_short_window_ends_an_alert_soon_after_the_trouble() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, MINUTE, served(100, errors=50))
    assert gateway.outcomes()["availability over 1 h"] is Outcome.FAIL
    gateway.pass_by(6 * MINUTE, MINUTE, served(100))
    assert gateway.outcomes()["availability over 1 h"] is Outcome.PASS
    assert gateway.outcomes()["availability over 6 h"] is Outcome.FAIL  # whose short window is half an hour


def test_slow_answers_burn_the_budget_of_latency_alone() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, MINUTE, served(100, slow=20))
    outcomes = gateway.outcomes()
    assert outcomes["latency over 1 h"] is Outcome.FAIL  # 20 % of 1 %
    assert outcomes["availability over 1 h"] is Outcome.PASS
    exactly = replace(SLO, latency=timedelta(milliseconds=750))
    assert Counts.of(served(10, slow=5), exactly).slow == 0  # at the bound is within it


def test_too_few_requests_are_inconclusive_however_many_fail() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, MINUTE, served(1, errors=1))
    assert set(gateway.outcomes().values()) == {Outcome.INCONCLUSIVE}
    assert "60 requests of v1 over 1 h, 100 are needed" in judge(SLO, gateway.history, "v1", gateway.now)[0].reason


def test_without_any_look_nothing_is_claimed() -> None:
    assert {verdict.outcome for verdict in judge(SLO, History(), "v1", NOW)} == {Outcome.INCONCLUSIVE}
    assert budget_left(SLO, History(), NOW) == {}


def test_what_was_counted_before_the_first_look_does_not_belong() -> None:
    gateway = Gateway()
    gateway.history, gateway.traffic = History(), {"v1": served(10_000, errors=10_000)}
    gateway.look()
    gateway.pass_by(10 * MINUTE, MINUTE, served(100))
    assert counted(gateway.history, "v1", HOUR, gateway.now) == Counts(1000, 0, 1000, 0)


def test_a_gateway_that_restarts_counts_anew_and_nothing_twice() -> None:
    gateway = Gateway()
    gateway.pass_by(10 * MINUTE, MINUTE, served(100, errors=1))
    gateway.restart()
    gateway.pass_by(10 * MINUTE, MINUTE, served(100, errors=1))
    gateway.look()
    gateway.look()
    assert counted(gateway.history, "v1", HOUR, gateway.now).requests == 2000


def test_answers_to_copies_are_no_part_of_an_objective() -> None:
    gateway = Gateway()
    gateway.pass_by(10 * MINUTE, MINUTE, served(100, errors=100), release="v2")
    assert counted(gateway.history, "v2", HOUR, gateway.now) == Counts()
    gateway.pass_by(10 * MINUTE, MINUTE, served(100), release="v2", serving=("v1", "v2"))
    assert counted(gateway.history, "v2", HOUR, gateway.now) == Counts(1000, 0, 1000, 0)


def test_a_release_is_judged_by_its_own_answers() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, MINUTE, served(100, errors=50), release="v2", serving=("v1", "v2"))
    gateway.pass_by(HOUR, MINUTE, served(100), serving=("v1", "v2"))
    assert gateway.outcomes("v1")["availability over 6 h"] is Outcome.PASS
    assert gateway.outcomes("v2")["availability over 6 h"] is Outcome.PASS  # it is quiet by now
    assert judge(SLO, gateway.history, "v2", gateway.now)[1].value == pytest.approx(500)


def test_the_budget_is_that_of_the_whole_window_and_of_all_releases() -> None:
    gateway = Gateway()
    gateway.pass_by(10 * DAY, HOUR, served(1000))
    gateway.pass_by(DAY, HOUR, served(1000, errors=5), release="v2", serving=("v1", "v2"))
    left = budget_left(SLO, gateway.history, gateway.now)
    assert left["availability"] == pytest.approx(1 - 120 / 264_000 / 0.001)
    assert left["latency"] == 1


def test_a_year_of_looks_keeps_some_two_hundred_points_and_the_sums_of_each_window() -> None:
    gateway = Gateway()
    gateway.pass_by(40 * DAY, HOUR, served(3600))
    gateway.pass_by(6 * HOUR, MINUTE / 2, served(30))
    assert len(gateway.history.points) < 250
    for window, slack in ((5 * MINUTE, MINUTE), (HOUR, 5 * MINUTE), (6 * HOUR, 10 * MINUTE), (3 * DAY, 2 * HOUR), (30 * DAY, DAY)):
        exact, got = window.total_seconds(), counted(gateway.history, "v1", window, gateway.now).requests
        assert exact <= got <= exact + slack.total_seconds(), window


def test_a_release_that_left_is_forgotten_when_its_last_answer_is_older_than_the_window() -> None:
    gateway = Gateway(replace(SLO, window=2 * DAY))
    gateway.pass_by(DAY, HOUR, served(100), release="v2", serving=("v1", "v2"))
    gateway.pass_by(DAY, HOUR, served(100))
    assert "v2" in gateway.history.points[-1].counts
    gateway.pass_by(5 * DAY, HOUR, served(100))
    assert all("v2" not in point.counts for point in gateway.history.points)
    gateway.pass_by(2 * HOUR, HOUR, served(100), release="v2", serving=("v1", "v2"))
    assert counted(gateway.history, "v2", DAY, gateway.now).requests == 200


def test_only_the_fast_burns_wake_a_person() -> None:
    gateway = Gateway()
    gateway.pass_by(4 * DAY, HOUR / 4, served(1000, errors=4))
    assert pages(SLO, judge(SLO, gateway.history, "v1", gateway.now)) == ()
    gateway.pass_by(HOUR, MINUTE, served(1000, errors=400))
    assert [v.name for v in pages(SLO, judge(SLO, gateway.history, "v1", gateway.now))] == [
        "availability over 1 h",
        "availability over 6 h",
    ]


def test_a_history_survives_its_document() -> None:
    gateway = Gateway()
    gateway.pass_by(HOUR, MINUTE, served(100, errors=3, slow=2))
    assert decode(History, encode(gateway.history), "here") == gateway.history


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"availability": 1.0}, "slo.availability: got 1.0, expected a share between 0 and 1"),
        ({"latency_share": 0.0}, "slo.latency_share: got 0.0"),
        (
            {"latency": timedelta(milliseconds=120)},
            "slo.latency: got 120 ms, expected one of the bounds by which gateways count, in ms: 1, 2",
        ),
        ({"latency": timedelta(seconds=10)}, "slo.latency: got 10000 ms"),
        ({"window": MINUTE}, "slo.window: got 0:01:00, expected 1h to 90d"),
        ({"min_requests": 0}, "slo.min_requests: must be at least 1"),
        ({"on_slo_violation": "retrain"}, "slo.on_slo_violation: got 'retrain', expected page or rollback"),
        ({"rollback_cooldown": timedelta(0)}, "slo.rollback_cooldown: must be longer than nothing"),
        ({"max_rollbacks": 0}, "slo.max_rollbacks: must be at least 1"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_with_what_can(wrong: dict, told: str) -> None:
    with pytest.raises(SpecError) as refused:
        Slo(**wrong)
    assert told in str(refused.value)
