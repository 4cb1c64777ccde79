"""The series of the exporter, as pure functions from what was read to what Prometheus is shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily, Metric

from mlops_assets.core.policy import Policy


@dataclass(frozen=True)
class AssetSeen:
    """The newest materialization of an asset.

    Args:
        partition: the one that it was of.
        seconds: how long its run took; None while it goes on.
        figures: the numbers in its metadata.
    """

    model: str
    asset: str
    at: float
    partition: str | None
    seconds: float | None
    figures: Mapping[str, float]


@dataclass(frozen=True)
class CheckSeen:
    """The newest outcome of a check."""

    model: str
    asset: str
    check: str
    outcome: str
    at: float


@dataclass(frozen=True)
class World:
    """All that was read at one look."""

    assets: Sequence[AssetSeen] = ()
    checks: Sequence[CheckSeen] = ()
    policies: Sequence[Policy] = ()
    logged: Mapping[str, datetime] = field(default_factory=dict)
    daemons: Mapping[str, float] = field(default_factory=dict)


class _Gauge:
    """A family under construction."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.family = GaugeMetricFamily(name, text, labels=labels)

    def add(self, value: float, *labels: str) -> None:
        self.family.add_metric(labels, value)


def families(world: World) -> Iterator[Metric]:
    yield from _assets(world.assets)
    yield from _checks(world.checks)
    yield from _reports(world.assets)
    yield from _releases(world.policies)
    logged = _Gauge("mlops_prediction_log_newest_timestamp_seconds", "When the newest answers reached the object store", "model")
    for model, at in world.logged.items():
        logged.add(at.timestamp(), model)
    daemons = _Gauge("mlops_daemon_heartbeat_timestamp_seconds", "When a daemon of Dagster was last alive", "daemon")
    for daemon, beat in world.daemons.items():
        daemons.add(beat, daemon)
    yield from (logged.family, daemons.family)


def _assets(assets: Sequence[AssetSeen]) -> Iterator[Metric]:
    at = _Gauge("mlops_asset_last_success_timestamp_seconds", "When an asset was last materialized", "model", "asset")
    took = _Gauge("mlops_asset_last_run_duration_seconds", "How long the run took that did so", "model", "asset")
    newest = _Gauge("mlops_asset_last_partition_timestamp_seconds", "The day or hour that it was of", "model", "asset")
    for seen in assets:
        at.add(seen.at, seen.model, seen.asset)
        if seen.seconds is not None:
            took.add(seen.seconds, seen.model, seen.asset)
        if (began := _begins(seen.partition)) is not None:
            newest.add(began, seen.model, seen.asset)
    yield from (at.family, took.family, newest.family)


def _begins(partition: str | None) -> float | None:
    """When a partition of time begins; None of a release."""
    for form in ("%Y-%m-%d-%H:%M", "%Y-%m-%d"):
        try:
            return datetime.strptime(f"{partition} +0000", f"{form} %z").timestamp()
        except ValueError:  # of the other form, or a release's name
            continue
    return None


def _checks(checks: Sequence[CheckSeen]) -> Iterator[Metric]:
    names = ("model", "asset", "check")
    outcome = _Gauge("mlops_check_outcome", "1 for what a check said last: pass, fail or inconclusive", *names, "outcome")
    at = _Gauge("mlops_check_last_evaluation_timestamp_seconds", "When it said so", *names)
    for seen in checks:
        outcome.add(1, seen.model, seen.asset, seen.check, seen.outcome)
        at.add(seen.at, seen.model, seen.asset, seen.check)
    yield from (outcome.family, at.family)


def _reports(assets: Sequence[AssetSeen]) -> Iterator[Metric]:
    """The figures of the newest reports."""
    psi = _Gauge("mlops_feature_psi", "How far what is asked has moved from the training data", "model", "feature")
    expected = _Gauge("mlops_expected_performance", "What the scores let expect before labels come", "model", "metric")
    realized = _Gauge("mlops_performance", "What the labels that came say", "model", "metric")
    budget = _Gauge("mlops_slo_budget_left_ratio", "The share of the error budget that is left", "model", "objective")
    told = {
        "drift_report": (("psi_", psi), ("expected_", expected)),
        "performance_report": (("", realized),),
        "slo_report": (("budget_left_", budget),),
    }
    for seen in assets:
        for prefix, gauge in told.get(seen.asset, ()):
            for name, value in seen.figures.items():
                if name.startswith(prefix):
                    gauge.add(value, seen.model, name.removeprefix(prefix))
    yield from (psi.family, expected.family, realized.family, budget.family)


def _releases(policies: Sequence[Policy]) -> Iterator[Metric]:
    who = ("model", "release")
    generation = _Gauge("mlops_policy_generation", "How often the policy of a model has changed", "model")
    changed = _Gauge("mlops_policy_changed_timestamp_seconds", "When it last did", "model")
    role = _Gauge("mlops_release_role", "1 for what a release is: champion, previous or challenger", *who, "role")
    weight = _Gauge("mlops_release_weight_ratio", "The share of the units that a release answers", *who)
    mirror = _Gauge("mlops_release_mirror_ratio", "The share of the requests that it gets copies of", *who)
    step = _Gauge("mlops_canary_step", "Which step of its canary a release is at, from 0", *who, "step")
    entered = _Gauge("mlops_canary_step_entered_timestamp_seconds", "Since when", *who)
    waits = _Gauge("mlops_candidate_since_timestamp_seconds", "Since when a release on its way to its canary is where it is", *who, "state")
    for policy in policies:
        model, challenger = policy.model, policy.challenger
        generation.add(policy.generation, model)
        if policy.log:
            changed.add(policy.log[-1].at.timestamp(), model)
        roles = {"champion": policy.champion, "previous": policy.previous, "challenger": challenger and challenger.release}
        for name, release in roles.items():
            if release:
                role.add(1, model, release, name)
        for release, percent in policy.weights.items():
            weight.add(percent / 100, model, release)
        if policy.mirror:
            mirror.add(policy.mirror.percent / 100, model, policy.mirror.release)
        if challenger:
            step.add(challenger.step, model, challenger.release, challenger.step_name)
            entered.add(challenger.entered_at.timestamp(), model, challenger.release)
        for candidate in policy.candidates:
            waits.add(candidate.since.timestamp(), model, candidate.release, candidate.state)
    yield from (each.family for each in (generation, changed, role, weight, mirror, step, entered, waits))
