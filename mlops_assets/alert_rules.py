"""Prometheus' rules of a model, written from its ``defs.yaml``: what wakes a person, and what becomes a ticket.

Names of series are those of :mod:`serving.metrics`, :mod:`mlops_assets.exporter` and of Envoy. Every alert has the labels ``model``,
``cause`` and ``severity``, and links the section of the runbook that its cause has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mlops_assets.core.alert import Cause
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.slo import Objective, Severity, burns, objectives

EVERY_MODEL = "all"
"""The label ``model`` of what is wrong with the platform."""

SCRAPE = timedelta(seconds=15)
_LEAST_SCRAPE = timedelta(seconds=1)
_SCRAPES_IN_A_WINDOW = 4
"""A rate needs two samples, and one may be missed."""

_LOG_BEHIND = timedelta(minutes=10)
"""A segment is shipped a minute after its first answer, unless declared otherwise."""

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Rules:
    """What the rules of all models have in common.

    Args:
        runbooks: the address of the runbooks, to which ``#cause`` is added.
        pace: how many seconds of a model's declared waiting pass in one: of its objective's window and its canary. What is due by
            the clock of others (data, logs, processes) does not follow it.
    """

    runbooks: str
    pace: float = 1.0

    def model(self, spec: ModelSpec) -> str:
        """The rules file of one model."""
        rules = [
            *(self._burn(spec, objective, severity) for objective in objectives(spec.slo) for severity in ("page", "ticket")),
            *self._serving(spec),
            *self._releases(spec),
            *self._data(spec),
        ]
        return _document(spec.name, rules)

    def platform(self) -> str:
        """The rules file of what all models stand on."""
        rule, down = partial(self._rule, EVERY_MODEL, "platform-down", "page"), 2 * _MINUTE
        looked = 'time() - mlops_daemon_heartbeat_timestamp_seconds{daemon="SENSOR"}'
        rules = [
            rule(
                "GatewayDown", 'up{job="gateway"} == 0', "the gateway {{ $labels.instance }} does not answer: no model may be reached", down
            ),
            rule(
                "ExporterDown",
                'up{job="platform"} == 0 or absent(up{job="platform"})',
                "the exporter does not answer: releases, data and runs are watched by nobody",
                down,
            ),
            rule(
                "NightShiftDown",
                f"{looked} > {_seconds(10 * _MINUTE)}",
                "Dagster's sensors have not looked for {{ $value | humanizeDuration }}: nothing moves, and nobody is told of failed runs",
            ),
        ]
        return _document("platform", rules)

    def _burn(self, spec: ModelSpec, objective: Objective, severity: Severity) -> Mapping[str, Any]:
        """The burn rates of one objective and severity: of them one alert, which goes on while any of them does."""
        allowed, parts = 1 - objective.target, []
        for burn in burns(spec.slo, self.pace):
            if burn.severity == severity:
                limit = f"{burn.factor * allowed:.6g}"
                long, short = self._at_least(burn.long), self._at_least(burn.short)
                enough = f"{_total(spec, objective, 'increase', long)} >= {spec.slo.min_requests}"
                shares = [f"{_bad_share(spec, objective, window)} > {limit}" for window in (long, short)]
                parts.append(f"({' and '.join([*shares, enough])})")
        # What challengers do to their share of the traffic is their guardrails' affair.
        challenger = f'mlops_release_role{{model="{spec.name}",role="challenger"}}'
        expression = f"({' or '.join(parts)}) unless on (model, release) {challenger}"
        kind = "fast" if severity == "page" else "slowly"
        summary = (
            f"{{{{ $value | humanizePercentage }}}} of the requests of {{{{ $labels.release }}}} of {spec.name} {objective.failing}: "
            f"the budget of {allowed * 100:.4g} % in {_duration(spec.slo.window)} burns {kind}"
        )
        name = f"{objective.name.capitalize()}Burns{kind.capitalize()}"
        return self._rule(spec.name, f"slo-{objective.name}", severity, name, expression, summary)  # type: ignore[arg-type]

    def _serving(self, spec: ModelSpec) -> Sequence[Mapping[str, Any]]:
        model, behind = spec.name, _duration(_LOG_BEHIND)
        champion = f'mlops_release_role{{model="{model}",role="champion"}}'
        healthy = f'max by (model, release) (envoy_cluster_membership_healthy{{model="{model}"}})'
        asked = f'sum by (model) (increase(envoy_cluster_upstream_rq_completed{{model="{model}"}}'
        answered = f'sum by (model) (rate(mlops_predictions_total{{model="{model}",role="live",outcome="answered"}}'
        shipped = f'time() - mlops_prediction_log_newest_timestamp_seconds{{model="{model}"}}'
        lost = f'sum by (model) (increase(mlops_prediction_log_lost_total{{model="{model}"}}'
        return [
            self._rule(
                *(model, "champion-down", "page", "ChampionDown"),
                f"{healthy} == 0 and on (model, release) {champion}",
                f"no gateway finds {{{{ $labels.release }}}} of {model} healthy: callers get 503",
                _MINUTE,
            ),
            self._rule(
                *(model, "no-traffic", "ticket", "NoTraffic"),
                f"{asked}[15m])) == 0 and {asked}[1d])) > 0 and on (model) {champion}",
                f"nobody has asked {model} for 15 minutes, which was asked within the day",
            ),
            self._rule(
                *(model, "prediction-log-behind", "ticket", "PredictionLogBehind"),
                f"{shipped} > {_seconds(_LOG_BEHIND)} and on (model) {answered}[{behind}])) > 0",
                f"{model} answers, and its log has got nothing for {{{{ $value | humanizeDuration }}}}: drift and performance are blind",
            ),
            self._rule(
                *(model, "prediction-log-lost", "ticket", "PredictionsNotLogged"),
                f"{lost}[{behind}])) > 0",
                f"{{{{ $value | humanize }}}} answers of {model} were given and not logged",
            ),
        ]

    def _releases(self, spec: ModelSpec) -> Sequence[Mapping[str, Any]]:
        """Past the deadline of a step the sensor rolls back by itself: who is there much longer is looked at by nobody."""
        plan, rule = spec.canary, partial(self._rule, spec.name, "release-stuck", "ticket")
        stuck = self._at_least(1.5 / self.pace * max(plan.deadline, plan.first_bake, *(step.bake for step in plan.steps)))
        entered = f'time() - mlops_canary_step_entered_timestamp_seconds{{model="{spec.name}"}}'
        waits = f'time() - mlops_candidate_since_timestamp_seconds{{model="{spec.name}"}}'
        who = f"{{{{ $labels.release }}}} of {spec.name} has been"
        return [
            rule("CanaryStuck", f"{entered} > {_seconds(stuck)}", f"{who} at its canary step for {{{{ $value | humanizeDuration }}}}"),
            rule(
                "ReleaseStuck",
                f"{waits} > {_seconds(stuck * (len(plan.steps) + 1))}",
                f"{who} {{{{ $labels.state }}}} for {{{{ $value | humanizeDuration }}}}",
            ),
        ]

    def _data(self, spec: ModelSpec) -> Sequence[Mapping[str, Any]]:
        failed, aged = partial(self._failed, spec), partial(self._aged, spec)
        return [
            failed("FeatureDrift", "drift", "feature_drift", "is asked about other things than its champion was trained on"),
            failed("PredictionDrift", "drift", "prediction_drift", "answers otherwise than on its training data"),
            failed("Performance", "performance", "performance", "is worse than it was promised, by the labels that came"),
            failed("ViewsStale", "stale-features", "views_fresh", "is served features that are too old, or none"),
            aged("OnlineFeaturesStale", "stale-features", "online_features", "the online store has got nothing"),
            aged("LabelsMissing", "missing-labels", "labels", "no labels have been ingested"),
            aged("DataStale", "stale-data", "events", "no events have been ingested"),
        ]

    def _failed(self, spec: ModelSpec, name: str, cause: Cause, check: str, what: str) -> Mapping[str, Any]:
        expression = f'mlops_check_outcome{{model="{spec.name}",check="{check}",outcome="fail"}} == 1'
        return self._rule(spec.name, cause, "ticket", name, expression, f"{spec.name} {what}: the check {check} failed")

    def _aged(self, spec: ModelSpec, name: str, cause: Cause, asset: str, what: str) -> Mapping[str, Any]:
        made = f'time() - mlops_asset_last_success_timestamp_seconds{{model="{spec.name}",asset="{asset}"}}'
        expression = f"{made} > {_seconds(spec.data.freshness)}"
        return self._rule(spec.name, cause, "ticket", name, expression, f"{spec.name}: {what} for {{{{ $value | humanizeDuration }}}}")

    def _rule(
        self, model: str, cause: Cause, severity: Severity, name: str, expression: str, summary: str, lasting: timedelta = timedelta(0)
    ) -> Mapping[str, Any]:
        labels = {"model": model, "cause": cause, "severity": severity}
        rule = {"alert": name, "expr": expression} | ({"for": _duration(lasting)} if lasting else {})
        return {**rule, "labels": labels, "annotations": {"summary": summary, "runbook_url": f"{self.runbooks}#{cause}"}}

    def _at_least(self, window: timedelta) -> timedelta:
        return max(window, _SCRAPES_IN_A_WINDOW * scrape_interval(self.pace))


def scrape_interval(pace: float) -> timedelta:
    """How often Prometheus looks."""
    return max(SCRAPE / pace, _LEAST_SCRAPE)


def write(folder: Path, specs: Sequence[ModelSpec], rules: Rules) -> Sequence[Path]:
    """Write the rules of these models and of the platform, and remove those of models that are gone; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {folder / "platform.yml": rules.platform()} | {folder / f"model-{spec.name}.yml": rules.model(spec) for spec in specs}
    for gone in {*folder.glob("model-*.yml")} - set(texts):
        gone.unlink()
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)


def _bad_share(spec: ModelSpec, objective: Objective, window: timedelta) -> str:
    total = _total(spec, objective, "rate", window)
    if objective.name == "availability":
        failed = _summed(f'envoy_cluster_upstream_rq_xx{{model="{spec.name}",envoy_response_code_class="5"}}', "rate", window)
        return f"{failed} / {total}"
    within = f'envoy_cluster_upstream_rq_time_bucket{{model="{spec.name}",le="{spec.slo.latency_ms:g}"}}'
    return f"(1 - {_summed(within, 'rate', window)} / {total})"


def _total(spec: ModelSpec, objective: Objective, function: str, window: timedelta) -> str:
    series = "upstream_rq_completed" if objective.name == "availability" else "upstream_rq_time_count"
    return _summed(f'envoy_cluster_{series}{{model="{spec.name}"}}', function, window)


def _summed(series: str, function: str, window: timedelta) -> str:
    return f"sum by (model, release) ({function}({series}[{_duration(window)}]))"


def _document(group: str, rules: Sequence[Mapping[str, Any]]) -> str:
    head = "# Written by 'mlops rules' from defs.yaml: change that.\n"
    return head + yaml.safe_dump({"groups": [{"name": group, "rules": [dict(rule) for rule in rules]}]}, sort_keys=False, width=140)


def _duration(window: timedelta) -> str:
    """A window as Prometheus reads it.

    >>> [_duration(timedelta(seconds=s)) for s in (3600, 300, 2.5, 5400, 259200)]
    ['1h', '5m', '2500ms', '90m', '3d']
    """
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m"), (timedelta(seconds=1), "s")):
        if window >= unit and window % unit == timedelta(0):
            return f"{window // unit}{name}"
    return f"{window // timedelta(milliseconds=1)}ms"


def _seconds(window: timedelta) -> str:
    return f"{window.total_seconds():g}"
