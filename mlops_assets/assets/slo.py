"""Whether a model keeps its objectives: ``slo_report`` in its ``monitoring`` group."""

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.verdicts import table
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.slo import budget_left, counted, judge
from mlops_assets.core.verdict import Outcome, Verdict, combine
from mlops_assets.objectives import look
from mlops_assets.ports import Platform


def build_slo_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "slo_report")

    @dg.asset(
        key=key,
        deps=[keys.key(spec, "production")],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        kinds={"envoy"},
        description="How fast the champion burns the budget of its objectives, by what the gateways counted.",
        check_specs=[dg.AssetCheckSpec("slo", asset=key)],
    )
    def report(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        return slo_report(platform, spec)

    return report


def slo_report(platform: Platform, spec: ModelSpec) -> dg.MaterializeResult:
    """Look at what the gateways counted, and judge the champion by it. Without a champion there is nothing to judge, and it says so."""
    policy, now = platform.policies.read(spec.name), platform.clock()
    if policy.champion is None:
        nothing = dg.MaterializeResult(asset_key=keys.key(spec, "slo_report"), metadata={"release": "none in production"})
        return nothing._replace(check_results=[slo_check(spec, ())])
    history = look(platform, spec, policy)
    verdicts = judge(spec.slo, history, policy.champion, now, platform.pace)
    served = counted(history, None, spec.slo.window / platform.pace, now)
    return dg.MaterializeResult(
        asset_key=keys.key(spec, "slo_report"),
        metadata={
            "release": policy.champion,
            "requests": served.requests,
            "errors": served.errors,
            "slow": served.slow,
            "since": dg.MetadataValue.timestamp(history.points[0].at),
            **{f"budget_left_{name}": left for name, left in budget_left(spec.slo, history, now, platform.pace).items()},
            "verdicts": table(verdicts),
        },
        check_results=[slo_check(spec, verdicts)],
    )


def slo_check(spec: ModelSpec, verdicts: tuple[Verdict, ...]) -> dg.AssetCheckResult:
    """Failed if any budget burns too fast; too few requests to tell are a warning that says so."""
    outcome = combine(verdicts)
    burning = [verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL]
    told = burning or [verdict for verdict in verdicts if not verdict.passed][:1]
    worst = max((verdict for verdict in verdicts if verdict.value is not None), key=lambda v: v.value / v.threshold, default=None)
    return dg.AssetCheckResult(
        check_name="slo",
        asset_key=keys.key(spec, "slo_report"),
        passed=outcome is Outcome.PASS,
        severity=dg.AssetCheckSeverity.ERROR if outcome is Outcome.FAIL else dg.AssetCheckSeverity.WARN,
        description="; ".join(verdict.reason for verdict in told) or None,
        metadata={"outcome": outcome.value} | ({"value": worst.value, "threshold": worst.threshold} if worst else {}),
    )
