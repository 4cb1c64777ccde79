"""The rules of a model under Prometheus' own test of rules: what fires, and what does not."""

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.canaries import fleet
from mlops_assets.alert_rules import Rules, write
from mlops_assets.core.alert import CAUSES
from mlops_assets.core.slo_spec import Slo
from mlops_assets.settings import Settings
from mlops_assets.stack_monitoring import alertmanager_config, prometheus_config

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("amtool") is None,
    reason="promtool and amtool are not installed: bash deploy/monitoring_tools.sh",
)

ROOT = Path(__file__).parent.parent
RUNBOOKS = "docs/guides/runbooks.md"
SPEC = replace(fleet(1)[0], name="fraud", slo=Slo(on_slo_violation="rollback"))
WHO = 'model="fraud",release="v2"'
CHAMPION = {f'mlops_release_role{{{WHO},role="champion"}}': "1x2000"}


def requests(errors: str = "0+0x2000", slow: str | None = None, total: str = "0+100x2000", who: str = WHO) -> dict[str, str]:
    """100 requests a minute; ``errors`` and those within the bound as Prometheus' tests write series."""
    return {
        f"envoy_cluster_upstream_rq_completed{{{who}}}": total,
        f'envoy_cluster_upstream_rq_xx{{{who},envoy_response_code_class="5"}}': errors,
        f"envoy_cluster_upstream_rq_time_count{{{who}}}": total,
        f'envoy_cluster_upstream_rq_time_bucket{{{who},le="500"}}': slow or total,
        f"envoy_cluster_membership_healthy{{{who}}}": "1x2000",
    }


def healthy(values: str) -> dict[str, str]:
    return {f"envoy_cluster_membership_healthy{{{WHO}}}": values}


def asset(name: str, made_at_hour: int) -> dict[str, str]:
    return {f'mlops_asset_last_success_timestamp_seconds{{model="fraud",asset="{name}"}}': f"{made_at_hour * 3600}x2000"}


def check(asset: str, name: str, outcome: str) -> dict[str, str]:
    return {f'mlops_check_outcome{{model="fraud",asset="{asset}",check="{name}",outcome="{outcome}"}}': "1x2000"}


def logged(answers: str) -> dict[str, str]:
    """The newest shipment is of the first hour."""
    answered = f'mlops_predictions_total{{{WHO},role="live",outcome="answered"}}'
    return {'mlops_prediction_log_newest_timestamp_seconds{model="fraud"}': "3600x2000", answered: answers}


def up(**jobs: str) -> dict[str, str]:
    return {f'up{{job="{job}"}}': values for job, values in jobs.items()}


def fires(name: str, cause: str, severity: str = "ticket") -> tuple[str, str, str]:
    return name, cause, severity


FAILING = {fires("AvailabilityBurnsFast", "slo-availability", "page"), fires("AvailabilityBurnsSlowly", "slo-availability")}
SLOW = {fires("LatencyBurnsFast", "slo-latency", "page"), fires("LatencyBurnsSlowly", "slo-latency")}
HALF_FAILED_FOR_AN_HOUR = "0+0x300 50+50x59 3000+0x2000"
STOPPED = {"total": "0+100x120 12000+0x2000", "errors": "0x2000"}
ENTERED, SINCE = "mlops_canary_step_entered_timestamp_seconds", "mlops_candidate_since_timestamp_seconds"
BEAT = {'mlops_daemon_heartbeat_timestamp_seconds{daemon="SENSOR"}': "0x2000"}

Fired = set[tuple[str, str, str]]
BY_THE_MINUTE: dict[str, tuple[dict[str, str], int, Fired]] = {
    "nothing is wrong": (CHAMPION | requests() | asset("labels", 1), 400, set()),
    "2 % fail: 20 times the budget": (CHAMPION | requests("0+2x2000"), 90, FAILING),
    "1.4 % fail: 14 times, which the six hours see": (CHAMPION | requests("0+1.4x2000"), 90, FAILING),
    "0.5 % fail: 5 times": (CHAMPION | requests("0+0.5x2000"), 400, {fires("AvailabilityBurnsSlowly", "slo-availability")}),
    "0.09 % fail: less than may": (CHAMPION | requests("0+0.09x2000"), 400, set()),
    "half failed for an hour, ten minutes ago it was over": (CHAMPION | requests(HALF_FAILED_FOR_AN_HOUR), 371, FAILING),
    "half failed for an hour, seven hours ago it was over": (CHAMPION | requests(HALF_FAILED_FOR_AN_HOUR), 780, set()),
    "too few requests say nothing": (CHAMPION | requests("0+0.1x2000", total="0+0.1x2000"), 90, set()),
    "20 % are slow": (CHAMPION | requests(slow="0+80x2000"), 90, SLOW),
    "a challenger's errors are its guardrails' affair": (
        {f'mlops_release_role{{{WHO},role="challenger"}}': "1x2000"} | requests("0+50x2000"),
        90,
        set(),
    ),
    "without the exporter a burn is still seen": (requests("0+2x2000"), 90, FAILING),
    "no gateway finds the champion": (CHAMPION | requests() | healthy("1x60 0x2000"), 70, {fires("ChampionDown", "champion-down", "page")}),
    "a release that is no champion may be down": (requests() | healthy("0x2000"), 70, set()),
    "nobody asks any more": (CHAMPION | requests(**STOPPED), 140, {fires("NoTraffic", "no-traffic")}),
    "nobody has asked for long": (CHAMPION | requests(**STOPPED), 1600, set()),
    "a view is too old": (check("online_features", "views_fresh", "fail"), 10, {fires("ViewsStale", "stale-features")}),
    "features drifted": (check("drift_report", "feature_drift", "fail"), 10, {fires("FeatureDrift", "drift")}),
    "too few rows to tell of drift": (check("drift_report", "feature_drift", "inconclusive"), 10, set()),
    "scores drifted": (check("drift_report", "prediction_drift", "fail"), 10, {fires("PredictionDrift", "drift")}),
    "performance is worse": (check("performance_report", "performance", "fail"), 10, {fires("Performance", "performance")}),
    "the log is behind while answers are given": (logged("0+10x2000"), 120, {fires("PredictionLogBehind", "prediction-log-behind")}),
    "the log is behind and nobody asks": (logged("10x2000"), 120, set()),
    "answers are not logged": (
        {f'mlops_prediction_log_lost_total{{{WHO},reason="disk"}}': "0x30 0+5x2000"},
        40,
        {fires("PredictionsNotLogged", "prediction-log-lost")},
    ),
    "the gateway does not answer": (up(gateway="0x60", platform="1x60"), 10, {fires("GatewayDown", "platform-down", "page")}),
    "the exporter is not there": (up(gateway="1x60"), 10, {fires("ExporterDown", "platform-down", "page")}),
    "the daemon sleeps": (BEAT | up(platform="1x60"), 20, {fires("NightShiftDown", "platform-down", "page")}),
}
BY_THE_HOUR: dict[str, tuple[dict[str, str], int, Fired]] = {
    "labels are three days old": (asset("labels", 0), 72, {fires("LabelsMissing", "missing-labels")}),
    "labels are a day old": (asset("labels", 48), 72, set()),
    "events are three days old": (asset("events", 0), 72, {fires("DataStale", "stale-data")}),
    "the online store is three days old": (asset("online_features", 0), 72, {fires("OnlineFeaturesStale", "stale-features")}),
    "a canary stands still for twelve days": ({f"{ENTERED}{{{WHO}}}": "0x2000"}, 12 * 24, {fires("CanaryStuck", "release-stuck")}),
    "a canary stands still for a week": ({f"{ENTERED}{{{WHO}}}": "0x2000"}, 7 * 24, set()),
    "a candidate waits for two months": (
        {f'{SINCE}{{{WHO},state="waiting"}}': "0x2000"},
        60 * 24,
        {fires("ReleaseStuck", "release-stuck")},
    ),
}
ABOUT_THE_PLATFORM = ("the gateway does not answer", "the exporter is not there", "the daemon sleeps")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    write(folder, [SPEC], Rules(RUNBOOKS))
    return folder


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def every_rule(folder: Path) -> list[dict[str, Any]]:
    return [rule for path in folder.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_promtool_finds_the_rules_sound(rules: Path) -> None:
    done = promtool("check", "rules", *(path.name for path in rules.glob("*.yml")), folder=rules)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("cases", "unit", "every"), [(BY_THE_MINUTE, "m", "5m"), (BY_THE_HOUR, "h", "8h")], ids=["by the minute", "by the hour"]
)
@pytest.mark.long
def test_each_case_fires_what_it_should_and_nothing_else(rules: Path, tmp_path: Path, cases: dict, unit: str, every: str) -> None:
    tests = []
    for name, (series, at, fired) in cases.items():
        firing = f'ALERTS{{alertstate="firing",model="{"all" if name in ABOUT_THE_PLATFORM else "fraud"}"}}'
        labels = [f'{{alertname="{alert}",cause="{cause}",severity="{severity}"}}' for alert, cause, severity in sorted(fired)]
        asked = {
            "expr": f"count by (alertname, cause, severity) ({firing})",
            "eval_time": f"{at}{unit}",
            "exp_samples": [{"labels": each, "value": 1} for each in labels],
        }
        given = [{"series": key, "values": values} for key, values in series.items()]
        tests.append({"name": name, "interval": f"1{unit}", "input_series": given, "promql_expr_test": [asked]})
    files = [str(path) for path in rules.glob("*.yml")]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump({"rule_files": files, "evaluation_interval": every, "tests": tests}))
    done = promtool("test", "rules", "cases.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_alert_says_what_of_which_release_and_where_the_runbook_is(rules: Path, tmp_path: Path) -> None:
    expected = {
        "exp_labels": {"model": "fraud", "release": "v2", "cause": "slo-availability", "severity": "page"},
        "exp_annotations": {
            "summary": "2% of the requests of v2 of fraud failed: the budget of 0.1 % in 30d burns fast",
            "runbook_url": "docs/guides/runbooks.md#slo-availability",
        },
    }
    given = [{"series": key, "values": values} for key, values in (CHAMPION | requests("0+2x5760")).items()]
    asked = {"eval_time": "90m", "alertname": "AvailabilityBurnsFast", "exp_alerts": [expected]}
    tests = [{"interval": "1m", "input_series": given, "alert_rule_test": [asked]}]
    (tmp_path / "one.yml").write_text(yaml.safe_dump({"rule_files": [str(rules / "model-fraud.yml")], "tests": tests}))
    done = promtool("test", "rules", "one.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tried_and_has_model_cause_severity_and_a_runbook_that_exists(rules: Path) -> None:
    sections = {match[1] for match in re.finditer(r"^## ([a-z-]+)$", (ROOT / RUNBOOKS).read_text(), re.MULTILINE)}
    assert sections >= set(CAUSES)
    tried = {alert for _, _, fired in [*BY_THE_MINUTE.values(), *BY_THE_HOUR.values()] for alert, _, _ in fired}
    for rule in every_rule(rules):
        assert rule["alert"] in tried
        assert set(rule["labels"]) == {"model", "cause", "severity"}
        assert rule["labels"]["cause"] in CAUSES
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{rule['labels']['cause']}"


def test_rules_of_models_that_are_gone_are_removed_and_others_left(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("groups: []")
    write(tmp_path, [SPEC, replace(SPEC, name="other")], Rules(RUNBOOKS))
    write(tmp_path, [SPEC], Rules(RUNBOOKS))
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yml", "platform.yml", "model-fraud.yml"}


@pytest.mark.parametrize(("pace", "long"), [(1, "[1h]"), (60, "[1m]"), (10_800, "[4s]")])
def test_windows_follow_the_pace_down_to_what_a_rate_needs(pace: float, long: str) -> None:
    assert long in Rules(RUNBOOKS, pace).model(SPEC)


def test_a_shorter_window_of_the_objective_shortens_those_of_its_alerts() -> None:
    week = replace(SPEC, slo=replace(SPEC.slo, window=timedelta(days=15)))
    assert "[30m]" in Rules(RUNBOOKS).model(week)
    assert "[150s]" in Rules(RUNBOOKS).model(week)


def test_prometheus_and_alertmanager_take_their_configurations(tmp_path: Path, rules: Path) -> None:
    settings = Settings(tmp_path, 14000)
    settings.rules_folder.parent.mkdir()
    shutil.copytree(rules, settings.rules_folder)
    (tmp_path / "prometheus.yml").write_text(prometheus_config(settings))
    done = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "key").write_text("s3cret")
    for key in (None, tmp_path / "key"):
        text = alertmanager_config(1.0, key, "http://127.0.0.1:1/v2/enqueue")
        assert "s3cret" not in text
        (tmp_path / "alertmanager.yml").write_text(text)
        checked = subprocess.run(["amtool", "check-config", "alertmanager.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
