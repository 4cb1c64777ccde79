"""Real Prometheus and Alertmanager on a real stack: errors in the champion, an alert, a page, a rollback, and the end of the page."""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import dagster as dg
import pytest

from mlops_assets.adapters.local import local_platform
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.policy import Change, Policy
from mlops_assets.core.remedy import AUTHOR
from mlops_assets.dashboards import PAGES, document
from mlops_assets.demo.dagster_ui import materialize
from mlops_assets.demo.report import instance_of, latest
from mlops_assets.demo.traffic import Traffic
from mlops_assets.ports import Platform
from mlops_assets.schedules import TRAINING_NOUNS
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_monitoring import BINARIES, prometheus_url
from tests.assets.gifts import NAME, SLUG
from tests.e2e import shop
from tests.e2e.pagerduty import PagerDuty
from tests.servers import free_base_port

MISSING = [binary for binary in BINARIES.values() if shutil.which(binary) is None]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: bash deploy/monitoring_tools.sh"),
]

PACE = 2400
"""The 24 hours of a canary pass in 36 seconds; the hour of the fastest alert in the four that a rate needs."""

RATE = 80.0
ROUTING_KEY = "a-routing-key-of-32-characters--"


@dataclass
class Night:
    """The stack, what is asked of it, and when what was seen."""

    settings: Settings
    platform: Platform
    pagerduty: PagerDuty
    traffic: Traffic
    began: float = field(default_factory=time.monotonic)

    def policy(self) -> Policy:
        return self.platform.policies.read(NAME)

    def tell(self, what: str, since: float | None = None) -> None:
        print(f"{time.monotonic() - (since or self.began):7.1f} s  {what}", flush=True)

    def wait(self, what: str, look: Callable[[], Any], within: float = 240.0, since: float | None = None) -> Any:
        """What ``look`` finds, once it finds something."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            found = look()
            if found:
                self.tell(what, since)
                return found
            time.sleep(0.2)
        pytest.fail(f"not within {within:.0f} s: {what}; {self.policy()}")

    def train(self, **hyperparameters: Any) -> str:
        config = {
            "ops": {
                f"{SLUG}_train_and_export": {"config": {"hyperparameters": hyperparameters}},
                f"{SLUG}__training_set": {"config": {"gate": "refresh", "trigger": "manual"}},
            }
        }
        return materialize(self.settings, [(SLUG, noun) for noun in TRAINING_NOUNS], config)

    def promoted(self, release: str) -> Change | None:
        ended = self.policy().last(release, "refuse", "abort")
        if ended is not None:
            raise MlopsError(f"{release} was to be promoted, but: {ended.action}, {ended.author.why}")
        return self.policy().last(release, "promote")

    def ask(self, path: str, **query: Any) -> Any:
        with urllib.request.urlopen(f"{prometheus_url(self.settings)}/api/v1/{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def firing(self, name: str) -> list[dict[str, Any]]:
        return [each for each in self.ask("alerts")["alerts"] if each["labels"]["alertname"] == name and each["state"] == "firing"]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    home, project = tmp_path_factory.mktemp("mon"), tmp_path_factory.mktemp("shop")
    settings, pagerduty, before = Settings(Path(home), free_base_port()), PagerDuty(), dict(os.environ)
    shop.scaffold(project)
    told = {
        "MLOPS_HOME": str(home),
        "MLOPS_BASE_PORT": str(settings.base_port),
        "MLOPS_PACE": str(PACE),
        "MLOPS_SENSOR_SECONDS": "2",
        "MLOPS_LOG_ROTATE_SECONDS": "2",
        "MLOPS_MONITORING": "1",
        "MLOPS_PAGERDUTY_URL": pagerduty.url,
        "MLOPS_PAGERDUTY_KEY": ROUTING_KEY,
        shop.PLACE: str(project),
    }
    os.environ.update(told)
    stack = Stack(settings, definitions="tests.e2e.shop")
    try:
        stack.up(lambda line: print(f"          {line}", flush=True))
        made = Night(settings, local_platform(settings), pagerduty, Traffic(NAME, settings.gateway_port, RATE))
        yield made
        made.traffic.stop()
    finally:
        stack.down()
        pagerduty.close()
        os.environ.clear()
        os.environ.update(before)


def test_errors_become_an_alert_one_page_a_rollback_and_the_end_of_the_page(night: Night) -> None:
    shop.land(night.platform.objects)
    night.traffic.play(shop.requests())
    night.traffic.start()
    night.wait("v1 is in production", lambda: night.promoted("v1"))
    night.train(behave="fragile")
    night.wait("v2 is in production", lambda: night.promoted("v2"))
    materialize(night.settings, [(SLUG, "slo_report")])
    time.sleep(10)  # a quiet time, in which nobody is told of anything
    assert night.pagerduty.of("slo-availability") == []

    injected = time.monotonic()
    night.tell("half of the orders are for an amount at which v2 answers no number")
    night.traffic.play(shop.requests(unusual=0.5))
    [alert, *_] = night.wait("Prometheus: the alert fires", lambda: night.firing("AvailabilityBurnsFast"), since=injected)
    [(paged, trigger), *_] = night.wait("PagerDuty: triggered", lambda: night.pagerduty.of("slo-availability"), since=injected)
    rolled = night.wait("rolled back: v1 serves", lambda: night.policy().last("v1", "rollback"), since=injected)
    failed = night.traffic.answers["v2", 500]
    ended = night.wait("PagerDuty: resolved", lambda: night.pagerduty.of("slo-availability")[1:], since=injected)
    time.sleep(8)
    night.tell(f"{failed} requests were answered 500 by v2, of {sum(night.traffic.by_release().values()) + failed} in all", injected)

    assert alert["labels"] | {"release": "v2"} == alert["labels"]
    assert [event["event_action"] for _, event in night.pagerduty.of("slo-availability")] == ["trigger", "resolve"]
    assert paged - injected < 30
    assert ended[0][1]["dedup_key"] == trigger["dedup_key"]
    assert trigger["routing_key"] == ROUTING_KEY
    payload = trigger["payload"]
    assert (payload["class"], payload["component"], payload["severity"]) == ("slo-availability", NAME, "critical")
    assert "of the requests of v2 of gift-returns failed" in payload["summary"]
    assert payload["custom_details"]["release"] == "v2"
    assert trigger["links"][0]["href"] == "docs/guides/runbooks.md#slo-availability"
    assert trigger["links"][1]["href"].startswith(prometheus_url(night.settings))

    assert rolled.author.who == AUTHOR
    assert rolled.left == "v2"
    # The sensor may count the errors itself before Prometheus has: both ways lead to the alert.
    alerts = f"http://127.0.0.1:{night.settings.alertmanager_port}/#/alerts?filter="
    assert alerts in rolled.author.why or f"{prometheus_url(night.settings)}/graph?" in rolled.author.why
    night.tell(f"because {rolled.author.why[:160]}...")
    assert [change.action for change in night.policy().log].count("rollback") == 1
    for noun, partition in (("rollback", "v2"), ("production", None)):
        recorded = night.wait(f"Dagster: {noun} is recorded", lambda n=noun, p=partition: _recorded(night, n, p), within=30)
        assert recorded["reason"].value == rolled.author.why
        assert recorded["link"].value.startswith("http://127.0.0.1:")
    assert not night.firing("AvailabilityBurnsFast")


def test_a_run_that_fails_is_paged_once_and_is_over_when_it_succeeds(night: Night) -> None:
    began = time.monotonic()
    night.train(behave="raise")
    night.wait("PagerDuty: triggered by the failed training", lambda: night.pagerduty.of("run-failed"), since=began)
    time.sleep(10)  # the sensor tells again and again
    [(_, trigger)] = night.pagerduty.of("run-failed")
    assert "no gradient" in trigger["payload"]["summary"]
    assert trigger["links"][1]["href"].startswith(f"{night.settings.dagster_url}/runs/")
    night.train(C=0.5)
    night.wait("PagerDuty: resolved", lambda: len(night.pagerduty.of("run-failed")) == 2, since=began)
    time.sleep(4)
    assert [event["event_action"] for _, event in night.pagerduty.of("run-failed")] == ["trigger", "resolve"]


def test_every_panel_has_data_of_this_night(night: Night) -> None:
    """Asked as Grafana asks them, over the time of the test."""
    instance = instance_of(night.settings)
    if latest(instance, shop.load_specs()[0], "performance_report") is None:
        key = dg.AssetKey([SLUG, "performance_report"])
        instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"auc": 0.7, "accuracy": 0.8}))
    night.wait("the exporter shows the newest reports", lambda: night.ask("query", query="mlops_performance")["result"], within=30)
    step, end = 5, time.time()  # the last step is the present moment
    span = {"start": end - step * ((time.monotonic() - night.began) // step), "end": end, "step": step}
    asked, empty = 0, []
    for page in PAGES:
        shown = document(page)
        queries = {f"{page.title}: {a['name']}": a["expr"] for a in shown["annotations"].get("list", ())}
        for panel in shown["panels"]:
            queries |= {f"{page.title}: {panel['title']} ({t['legendFormat']})": t["expr"] for t in panel.get("targets", ())}
        for name, expression in queries.items():
            real = expression.replace("$__rate_interval", "10s").replace("$model", NAME)
            found = night.ask("query_range", query=real, **span)["result"]
            values = [value for series in found for _, value in series["values"] if value != "NaN"]
            asked += 1
            if not values:
                empty.append(f"{name}: {real}")
    night.tell(f"{asked} queries of {len(PAGES)} dashboards, {len(empty)} without data")
    assert asked > 40
    assert empty == []


def test_the_gateway_the_releases_and_the_platform_are_scraped_and_all_rules_are_sound(night: Night) -> None:
    up = {sample["metric"]["job"] for sample in night.ask("query", query="up == 1")["result"]}
    assert {"gateway", "platform", "release", "prometheus"} <= up
    groups = night.ask("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    assert {group["name"] for group in groups} == {NAME, "platform"}


def _recorded(night: Night, noun: str, partition: str | None) -> Any:
    key = dg.AssetRecordsFilter(dg.AssetKey([SLUG, noun]), asset_partitions=[partition] if partition else None)
    found = instance_of(night.settings).fetch_materializations(key, limit=1).records
    made = found[0].asset_materialization if found else None
    return made.metadata if made and "link" in made.metadata else None
