"""The way to a person: Alertmanager and its in-memory twin keep the same promises."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_assets.adapters.alertmanager import AlertmanagerPager
from mlops_assets.adapters.memory_pager import MemoryPager
from mlops_assets.adapters.release_client import answers_ready
from mlops_assets.core.alert import Alert
from mlops_assets.core.errors import Unavailable
from mlops_assets.ports import NoPager, Pager
from mlops_assets.stack_monitoring import BINARIES, alertmanager_config
from tests.e2e.pagerduty import PagerDuty
from tests.servers import HOST, eventually, free_port

ALERTMANAGER = BINARIES["alertmanager"]
FAILED = Alert("RunFailed", "fraud", "run-failed", "page", "it raised", "http://dagster/runs/1", "runbooks#run-failed", {"stage": "train"})
LATER = timedelta(hours=1)


class Real:
    """An Alertmanager that pages a PagerDuty on loopback."""

    def __init__(self, home: Path, pagerduty: PagerDuty) -> None:
        self.url, self.pagerduty = f"http://{HOST}:{free_port()}", pagerduty
        (home / "key").write_text("k" * 32)
        config = home / "alertmanager.yml"
        config.write_text(alertmanager_config(1000.0, home / "key", pagerduty.url))
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        command = [ALERTMANAGER, f"--config.file={config}", f"--storage.path={home / 'data'}", listen, "--cluster.listen-address="]
        with (home / "log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(lambda: answers_ready(self.url.removeprefix("http://"), "/-/ready"), within=20)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    if shutil.which(ALERTMANAGER) is None:
        pytest.skip(f"{ALERTMANAGER} is not installed: bash deploy/monitoring_tools.sh")
    pagerduty = PagerDuty()
    made = Real(tmp_path_factory.mktemp("am"), pagerduty)
    yield made
    made.process.terminate()
    made.process.wait(10)
    pagerduty.close()


@pytest.fixture(params=["memory", "alertmanager"])
def pager(request: pytest.FixtureRequest) -> Pager:
    if request.param == "memory":
        return MemoryPager(lambda: datetime.now(UTC))
    return AlertmanagerPager(request.getfixturevalue("real").url)


@pytest.fixture
def alert(request: pytest.FixtureRequest) -> Alert:
    """Of a model of the test's own."""
    return replace(FAILED, model=request.node.name.partition("[")[0].replace("_", "-"))


def now() -> datetime:
    return datetime.now(UTC)


def known(pager: Pager, alert: Alert) -> list[Alert]:
    if isinstance(pager, AlertmanagerPager):
        pager._known = (-1e9, ())  # which it remembers for a moment
    return [firing.alert for firing in pager.firing(alert.model)]


def test_what_fires_is_known_as_it_was_told_until_it_is_over(pager: Pager, alert: Alert) -> None:
    assert known(pager, alert) == []
    pager.fire([alert], now() + LATER)
    assert known(pager, alert) == [alert]
    pager.resolve([alert])
    eventually(lambda: known(pager, alert) == [])


def test_told_again_it_is_the_same_and_keeps_its_beginning(pager: Pager, alert: Alert) -> None:
    pager.fire([alert], now() + LATER)
    [first] = pager.firing(alert.model)
    time.sleep(0.05)
    pager.fire([replace(alert, summary="it raised again")], now() + 2 * LATER)
    [again] = known(pager, alert)
    assert again.summary == "it raised again"
    [firing] = pager.firing(alert.model)
    assert abs(firing.since - first.since) < timedelta(milliseconds=40)
    pager.resolve([alert])


def test_one_that_is_not_told_again_is_over_at_its_end(pager: Pager, alert: Alert) -> None:
    pager.fire([alert], now() + timedelta(seconds=0.5))
    assert known(pager, alert) == [alert]
    eventually(lambda: known(pager, alert) == [])


def test_alerts_of_other_models_and_labels_are_others(pager: Pager, alert: Alert) -> None:
    ingest = replace(alert, labels={"stage": "ingest"})
    pager.fire([alert, ingest, replace(alert, model="somebody-else")], now() + LATER)
    assert sorted(each.labels["stage"] for each in known(pager, alert)) == ["ingest", "train"]
    pager.resolve([ingest])
    eventually(lambda: known(pager, alert) == [alert])
    pager.resolve([alert])


def test_nothing_to_tell_is_told_to_nobody(pager: Pager, alert: Alert) -> None:
    pager.fire([], now())
    pager.resolve([])
    pager.resolve([alert])
    eventually(lambda: known(pager, alert) == [])


def test_pagerduty_gets_one_trigger_and_one_resolve_however_often_it_is_told(real: Real, alert: Alert) -> None:
    pager = AlertmanagerPager(real.url)
    slept = replace(alert, cause="stale-data")
    for _ in range(4):
        pager.fire([slept], now() + LATER)
        time.sleep(0.8)
    eventually(lambda: len(real.pagerduty.of("stale-data")) == 1, within=15)
    pager.resolve([slept])
    eventually(lambda: len(real.pagerduty.of("stale-data")) == 2, within=15)
    (_, trigger), (_, resolve) = real.pagerduty.of("stale-data")
    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"]
    assert trigger["payload"]["summary"] == f"{alert.model}: it raised"
    assert [link["href"] for link in trigger["links"]] == ["runbooks#run-failed", "http://dagster/runs/1"]


def test_a_page_keeps_the_ticket_of_its_cause_back_and_a_champion_that_is_down_its_burn(real: Real, alert: Alert) -> None:
    pager, end = AlertmanagerPager(real.url), now() + LATER
    pager.fire([replace(alert, name="ChampionDown", cause="champion-down")], end)
    time.sleep(1.5)
    pager.fire([replace(alert, cause="slo-latency"), replace(alert, cause="champion-down", severity="ticket")], end)
    time.sleep(4)
    assert [event["event_action"] for _, event in real.pagerduty.of("champion-down")] == ["trigger"]
    assert real.pagerduty.of("champion-down", "warning") == []
    assert real.pagerduty.of("slo-latency") == []


def test_one_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unavailable, match=r"Alertmanager at http://127.0.0.1:\d+ does not answer"):
        AlertmanagerPager(f"http://{HOST}:{free_port()}").fire([FAILED], now() + LATER)


def test_an_alert_that_alertmanager_refuses_is_named_with_its_answer(real: Real) -> None:
    with pytest.raises(Unavailable, match="answered POST /api/v2/alerts with 400"):
        AlertmanagerPager(real.url).fire([replace(FAILED, labels={"no label": "x"})], now() + LATER)


def test_where_none_is_configured_nobody_is_told() -> None:
    NoPager().fire([FAILED], now())
    NoPager().resolve([FAILED])
    assert NoPager().firing("fraud") == ()
