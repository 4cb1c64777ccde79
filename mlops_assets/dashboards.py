"""Grafana's dashboards, built with its own SDK: the fleet, and one model.

``python -m mlops_assets.dashboards`` writes them to ``deploy/grafana/dashboards``, from where Grafana is provisioned. The SDK belongs to
the development environment; nothing that runs imports this.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh, VariableSort

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_RATE = "[$__rate_interval]"
_WIDTH, _HEIGHT, _STAT_WIDTH, _STAT_HEIGHT = 12, 8, 4, 4


@dataclass(frozen=True)
class Chart:
    """A panel with curves.

    Args:
        queries: PromQL by the legend of its series.
        unit: Grafana's name of it.
        note: what one sees in it, and when to worry.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A panel with one number."""

    title: str
    query: str
    unit: str = "short"


@dataclass(frozen=True)
class Page:
    """A dashboard. ``rows`` are its panels under their headings."""

    uid: str
    title: str
    figures: tuple[Figure, ...]
    rows: Mapping[str, tuple[Chart, ...]]
    per_model: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)


def _per(labels: str, function: str, series: str) -> str:
    return f"sum by ({labels}) ({function}({series}{_RATE}))"


def _quantile(q: float, labels: str, bucket: str) -> str:
    return f"histogram_quantile({q}, {_per(f'{labels}, le', 'rate', bucket)})"


def _failed_share(labels: str, of: str) -> str:
    """Where nothing ever failed there is no series of failures."""
    every = _per(labels, "rate", f"envoy_cluster_upstream_rq_completed{of}")
    failed = _per(labels, "rate", "envoy_cluster_upstream_rq_xx" + (of[:-1] + "," if of else "{") + 'envoy_response_code_class="5"}')
    return f"({failed} or 0 * {every}) / {every}"


FLEET = Page(
    "mlops-fleet",
    "Models: the fleet",
    (
        Figure("models in production", 'count(mlops_release_role{role="champion"})'),
        Figure("releases in canary", 'count(mlops_release_role{role="challenger"}) or vector(0)'),
        Figure("pages firing", 'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)'),
        Figure("tickets firing", 'count(ALERTS{alertstate="firing",severity="ticket"}) or vector(0)'),
        Figure("failing checks", 'count(mlops_check_outcome{outcome="fail"}) or vector(0)'),
        Figure("age of these figures", "time() - max(mlops_exporter_read_timestamp_seconds)", "s"),
    ),
    {
        "Serving": (
            Chart(
                "answers a second",
                {"{{model}}": _per("model", "rate", 'mlops_predictions_total{role="live",outcome="answered"}')},
                "reqps",
                "Rows answered to callers, copies left out.",
            ),
            Chart(
                "failed requests", {"{{model}}": _failed_share("model", "")}, "percentunit", "The share of 5xx, by what gateways counted."
            ),
            Chart("latency, p99", {"{{model}}": _quantile(0.99, "model", "envoy_cluster_upstream_rq_time_bucket")}, "ms"),
            Chart("error budget left", {"{{model}} {{objective}}": "mlops_slo_budget_left_ratio"}, "percentunit", "Overdrawn below 0."),
        ),
        "What is served": (
            Chart("largest drift", {"{{model}}": "max by (model) (mlops_feature_psi)"}, "short", "PSI of the feature that moved most."),
            Chart(
                "data: time since it came",
                {"{{model}} {{asset}}": 'time() - mlops_asset_last_success_timestamp_seconds{asset=~"events|labels|online_features"}'},
                "s",
            ),
            Chart("log: time since it came", {"{{model}}": "time() - mlops_prediction_log_newest_timestamp_seconds"}, "s"),
            Chart("checks by what they said last", {"{{outcome}}": "count by (outcome) (mlops_check_outcome)"}),
        ),
        "Releases": (
            Chart("share of the traffic", {"{{model}} {{release}}": "mlops_release_weight_ratio"}, "percentunit"),
            Chart("time at a canary step", {"{{model}} {{release}}": "time() - mlops_canary_step_entered_timestamp_seconds"}, "s"),
            Chart("policy changes", {"{{model}}": "mlops_policy_generation"}),
            Chart("last sign of Dagster's daemons", {"{{daemon}}": "time() - mlops_daemon_heartbeat_timestamp_seconds"}, "s"),
        ),
    },
)

_M = '{model="$model"}'
_WEIGHT = f"mlops_release_weight_ratio{_M}"
_LATENCY = f"envoy_cluster_upstream_rq_time_bucket{_M}"
_SCORE = f"mlops_prediction_score_bucket{_M}"
_FIRING = 'ALERTS{alertstate="firing",model="$model"}'
_BATCH = " / ".join(_per("release", "rate", f"mlops_batch_rows_{part}{_M}") for part in ("sum", "count"))
_LIVE = 'mlops_predictions_total{model="$model",role="live",outcome="answered"}'
_UNANSWERED = _per("release, outcome", "rate", 'mlops_predictions_total{model="$model",outcome!="answered"}')
_ONLINE = _per("release, outcome", "rate", f"mlops_online_features_total{_M}")


def _feature_share(of: str) -> str:
    rows = _per("release", "rate", f"mlops_feature_rows_total{_M}")
    return f"{_per('release, feature', 'rate', f'mlops_feature_{of}_total{_M}')} / on (release) group_left () {rows}"


_SERVING = (
    Chart(
        "volume by release",
        {"{{release}} {{role}}": _per("release, role", "rate", 'mlops_predictions_total{model="$model",outcome="answered"}')},
        "reqps",
        "Shadow answers are those to copies of requests.",
    ),
    Chart("failed requests by release", {"{{release}}": _failed_share("release", _M)}, "percentunit"),
    Chart("latency by release", {f"{{{{release}}}} p{100 * q:g}": _quantile(q, "release", _LATENCY) for q in (0.5, 0.95, 0.99)}, "ms"),
    Chart(
        "requests without an answer, by kind",
        {"{{release}} {{outcome}}": _UNANSWERED},
        "reqps",
        "invalid: the caller's; unfeatured: the online store's; unlogged: the disk's; overloaded: too many; failed: the model's.",
    ),
    Chart(
        "requests under way and rows in the queue",
        {"{{release}} requests": f"mlops_requests_in_flight{_M}", "{{release}} rows": f"mlops_queue_rows{_M}"},
    ),
    Chart("rows that the model is given at once", {"{{release}}": _BATCH}),
    Chart("online features by what was found", {"{{release}} {{outcome}}": _ONLINE}, "reqps"),
    Chart("log: bytes that wait", {"{{release}}": f"mlops_prediction_log_pending_bytes{_M}"}, "bytes"),
)
_SCORES = (
    Chart(
        "scores by release, beside the champion's",
        {f"{{{{release}}}} {{{{role}}}} p{100 * q:g}": _quantile(q, "release, role", _SCORE) for q in (0.1, 0.5, 0.9)},
        "short",
        "A release whose scores lie elsewhere decides otherwise.",
    ),
    Chart(
        "performance by the labels that came, and what scores let expect",
        {"{{metric}}": f"mlops_performance{_M}", "{{metric}}, expected": f"mlops_expected_performance{_M}"},
    ),
)
_FEATURES = (
    Chart("drift by feature", {"{{feature}}": f"mlops_feature_psi{_M}"}, "short", "PSI against the training data of the champion."),
    Chart("missing values by feature", {"{{feature}} {{release}}": _feature_share("nulls")}, "percentunit"),
    Chart(
        "values out of what training saw, by feature",
        {"{{feature}} {{release}}": _feature_share("out_of_range")},
        "percentunit",
        "A change of units shows here within a minute or two.",
    ),
    Chart("data: time since it came", {"{{asset}}": f"time() - mlops_asset_last_success_timestamp_seconds{_M}"}, "s"),
)
MODEL = Page(
    "mlops-model",
    "Models: one model",
    (
        Figure("answers a second", f"sum(rate({_LIVE}{_RATE}))", "reqps"),
        Figure("failed requests", _failed_share("model", _M), "percentunit"),
        Figure("latency, p99", _quantile(0.99, "model", _LATENCY), "ms"),
        Figure("availability budget left", 'mlops_slo_budget_left_ratio{model="$model",objective="availability"}', "percentunit"),
        Figure("largest drift (PSI)", f"max(mlops_feature_psi{_M})"),
        Figure("alerts firing", f"count({_FIRING}) or vector(0)"),
    ),
    {
        "Serving": _SERVING,
        "Scores": _SCORES,
        "Features": _FEATURES,
        "Releases": (
            Chart("share of the traffic by release", {"{{release}}": _WEIGHT}, "percentunit"),
            Chart("how long runs took", {"{{asset}}": f"mlops_asset_last_run_duration_seconds{_M}"}, "s"),
        ),
    },
    per_model=True,
    marks={
        "canary: {{release}} has another share": f"{_WEIGHT} != {_WEIGHT} offset 1m or {_WEIGHT} unless {_WEIGHT} offset 1m",
        "{{alertname}} fires": f"{_FIRING} unless {_FIRING} offset 1m",
    },
)

PAGES = (FLEET, MODEL)


def document(page: Page) -> Mapping[str, Any]:
    """A page as Grafana's JSON."""
    built = dashboard.Dashboard(page.title).uid(page.uid).tags(["mlops"]).timezone("utc").refresh("30s").time("now-6h", "now").readonly()
    built.with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    if page.per_model:
        names = dashboard.QueryVariable("model").label("model").datasource(SOURCE).query("label_values(mlops_policy_generation, model)")
        built.with_variable(names.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC))
    for title, expression in page.marks.items():
        built.annotation(dashboard.AnnotationQuery().name(title).datasource(SOURCE).expr(expression).icon_color("blue"))
    for figure in page.figures:
        built.with_panel(_stat(figure))
    for heading, charts in page.rows.items():
        built.with_row(dashboard.Row(heading))
        for chart in charts:
            built.with_panel(_curves(chart))
    found: dict[str, Any] = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    for annotation in found["annotations"].get("list", ()):  # which the SDK does not know of Prometheus' annotations
        annotation |= {"titleFormat": annotation["name"], "step": "30s"}
    return found


def _stat(figure: Figure) -> stat.Panel:
    panel = stat.Panel().title(figure.title).datasource(SOURCE).unit(figure.unit).span(_STAT_WIDTH).height(_STAT_HEIGHT)
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    return panel.reduce_options(last).with_target(_query(figure.query, figure.title, 0))


def _curves(chart: Chart) -> timeseries.Panel:
    panel = timeseries.Panel().title(chart.title).datasource(SOURCE).unit(chart.unit).span(_WIDTH).height(_HEIGHT).fill_opacity(5)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    panel.legend(legend)
    if chart.note:
        panel.description(chart.note)
    for place, (told, expression) in enumerate(chart.queries.items()):
        panel.with_target(_query(expression, told, place))
    return panel


def _query(expression: str, legend: str, place: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend).ref_id("ABCDEF"[place]).range()


def text(page: Page) -> str:
    return json.dumps(document(page), indent=1, sort_keys=True) + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        (FOLDER / f"{page.uid}.json").write_text(text(page))


if __name__ == "__main__":
    main()
