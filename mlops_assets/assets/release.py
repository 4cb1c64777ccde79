"""From a registered version to what serves: the ``release`` group of a model. Every step is a materialization."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.evaluation import evaluate, gate_verdict
from mlops_assets.assets.plots import trajectory_plot
from mlops_assets.assets.smoke import smoke_test_of
from mlops_assets.assets.verdicts import check_result, figures
from mlops_assets.changes import change
from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.canary import Decision, Move
from mlops_assets.core.errors import NotReady
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Change, Policy
from mlops_assets.core.verdict import Outcome, Verdict
from mlops_assets.ports import Platform
from mlops_assets.reconcile import converge_traffic, differences, reconcile, start
from mlops_assets.records import OF_PRODUCTION, Record, is_recorded, metadata_of, records_of
from mlops_assets.rollout import (
    GATE_EVIDENCE_TAG,
    GATE_TAG,
    advance_canary,
    begin_canary,
    decide_now,
    keep_hold,
    leave,
    promote,
)

BY_HAND = "operator (Dagster UI)"


class ActionConfig(dg.Config):
    """Who asks for a release action and on what ground. By hand, the defaults mean: now, on the policy as it is.

    ``evidence`` is the key of what it was decided by, if that was kept already.
    """

    who: str = BY_HAND
    reason: str = "materialized by hand"
    expected_generation: int = -1
    evidence: str | None = None


class RollbackConfig(ActionConfig):
    """``to`` names the release to go back to; by default the champion before this one."""

    to: str | None = None


def build_release_assets(spec: ModelSpec) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    release = dg.AssetSpec(
        keys.key(spec, "release"),
        deps=[keys.key(spec, "registered_model")],
        group_name=keys.group(spec, "release"),
        partitions_def=keys.releases(spec),
        owners=list(spec.owners),
        description="This version exists. Reported by registered_model.",
    )
    built = (_evaluation, _staging, _canary, _promotion, _rollback, _production)
    return [release, *(build(spec) for build in built)]


def _evaluation(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "evaluation")

    @dg.asset(
        **_release_asset(spec, "evaluation", "release"),
        description="Challenger and champion on the challenger's frozen holdout.",
        check_specs=[dg.AssetCheckSpec("quality_gate", asset=key, blocking=True, partitions_def=keys.releases(spec))],
    )
    def evaluation(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        release, policy = context.partition_key, platform.policies.read(spec.name)
        evaluated = evaluate(platform, spec, release, policy.champion)
        result, certificate, evidence = evaluated.result, evaluated.certificate, evaluated.evidence
        platform.objects.put(f"evidence/{spec.name}/{release}/certificate.md", certificate.encode())
        tags = {GATE_TAG: result.outcome.value, GATE_EVIDENCE_TAG: evidence, "certificate": certificate[:4900]}
        platform.registry.annotate(spec.name, release, tags)
        if result.outcome is not Outcome.PASS and policy.candidate(release):
            why = "quality gate: " + "; ".join(verdict.reason for verdict in result.verdicts if not verdict.passed)
            author = Author("evaluation", why, context.run.run_id, evidence)
            change(platform, spec.name, lambda p: policy_changes.refuse(p, release, author, platform.clock()))
        return dg.MaterializeResult(
            metadata=figures(result.verdicts)
            | {"certificate": dg.MetadataValue.md(certificate), "champion": policy.champion or "none"}
            | {"evidence": dg.MetadataValue.path(f"s3://{evidence}")},
            check_results=[check_result("quality_gate", key, gate_verdict(result))],
        )

    return evaluation


def _staging(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "staging")

    @dg.asset(
        **_release_asset(spec, "staging", "evaluation"),
        description="The release runs, without traffic, and answers the holdout as the model did.",
        check_specs=[dg.AssetCheckSpec("smoke_test", asset=key, blocking=True, partitions_def=keys.releases(spec))],
    )
    def staging(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        release, run_id = context.partition_key, context.run.run_id
        gate_evidence = platform.registry.release(spec.name, release).tags.get(GATE_EVIDENCE_TAG)
        author = Author("staging", "passed its evaluation", run_id, gate_evidence)
        staged = change(
            platform, spec.name, lambda p: p if _is_past_staging(p, release) else policy_changes.stage(p, release, author, platform.clock())
        )
        verdict = smoke_test(platform, spec, release, staged.digests[release])
        if verdict.passed:
            passed = Author("staging", verdict.reason, run_id)
            change(
                platform,
                spec.name,
                lambda p: p if _is_past_staging(p, release) else policy_changes.accept(p, release, passed, platform.clock()),
            )
        else:
            failed = Author("staging", f"smoke test: {verdict.reason}", run_id)
            change(platform, spec.name, lambda p: policy_changes.refuse(p, release, failed, platform.clock()))
        reconcile(platform, spec.name, spec.serving)
        return dg.MaterializeResult(
            metadata=figures((verdict,)) | {"reason": verdict.reason}, check_results=[check_result("smoke_test", key, verdict)]
        )

    return staging


def _canary(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "canary")

    @dg.multi_asset(
        name=f"{spec.slug}__canary",
        specs=[
            _release_spec(
                spec, "canary", "staging", "One materialization a step: the release enters it, on the evidence of the one before."
            )
        ],
        partitions_def=keys.releases(spec),
        check_specs=[dg.AssetCheckSpec("canary_analysis", asset=key, partitions_def=keys.releases(spec))],
        can_subset=True,
        pool=keys.release_pool(spec),
    )
    def canary(context: dg.AssetExecutionContext, config: ActionConfig, platform: dg.ResourceParam[Platform]) -> Iterator[object]:
        release, policy = context.partition_key, platform.policies.read(spec.name)
        if _moved_on(policy, config):
            yield from _catch_up(context, platform, spec, policy, "canary", release)
            return
        if policy.challenger is None or policy.challenger.release != release:
            changed = begin_canary(platform, spec, release, policy, _author(context, config), again=config.who == BY_HAND)
            yield from _materialized(context, spec, changed, changed.log[-1])
            return
        decision, seen = decide_now(platform, spec, policy)
        yield dg.AssetCheckResult(
            check_name="canary_analysis",
            asset_key=key,
            passed=decision.move in (Move.ADVANCE, Move.PROMOTE),
            description=decision.reason,
            metadata=figures(decision.verdicts),
        )
        if decision.move is not Move.ADVANCE:
            keep_hold(platform, spec, policy, seen, decision)
            yield dg.AssetObservation(key, partition=release, metadata={"last_hold": f"{decision.move}: {decision.reason}"})
            return
        changed = advance_canary(platform, spec, policy, decision, seen, _author(context, config))
        yield from _materialized(context, spec, changed, changed.log[-1], decision)

    return canary


def _promotion(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"{spec.slug}__promotion",
        specs=[_release_spec(spec, "promotion", "canary", "The release becomes champion with all traffic.")],
        partitions_def=keys.releases(spec),
        can_subset=True,
        pool=keys.release_pool(spec),
    )
    def promotion(context: dg.AssetExecutionContext, config: ActionConfig, platform: dg.ResourceParam[Platform]) -> Iterator[object]:
        release, policy = context.partition_key, platform.policies.read(spec.name)
        if policy.champion == release or _moved_on(policy, config):
            yield from _catch_up(context, platform, spec, policy, "promotion", release)
            return
        decision, changed = promote(platform, spec, release, policy, _author(context, config), forced=config.who == BY_HAND)
        yield from _materialized(context, spec, changed, changed.log[-1], decision)

    return promotion


def _rollback(spec: ModelSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=f"{spec.slug}__rollback",
        specs=[
            _release_spec(spec, "rollback", "canary", "The release of this partition leaves: canary aborted, or production rolled back.")
        ],
        partitions_def=keys.releases(spec),
        can_subset=True,
    )
    def rollback(context: dg.AssetExecutionContext, config: RollbackConfig, platform: dg.ResourceParam[Platform]) -> Iterator[object]:
        release, policy = context.partition_key, platform.policies.read(spec.name)
        has_left = release != policy.champion and (policy.challenger is None or policy.challenger.release != release)
        if has_left or _moved_on(policy, config):
            yield from _catch_up(context, platform, spec, policy, "rollback", release)
            return
        changed = leave(platform, spec, release, policy, _author(context, config), config.to)
        yield from _materialized(context, spec, changed, changed.log[-1])

    return rollback


def _production(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "production")

    @dg.asset(
        key=key,
        deps=[keys.key(spec, "promotion"), keys.key(spec, "rollback")],
        group_name=keys.group(spec, "release"),
        owners=list(spec.owners),
        kinds={"envoy", "bentoml"},
        description="What is live now.",
        check_specs=[dg.AssetCheckSpec("serves_champion", asset=key)],
    )
    def production(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        policy = reconcile(platform, spec.name, spec.serving)
        wrong = differences(platform, spec.name)
        latest = next((c for c in reversed(policy.log) if c.action in OF_PRODUCTION), None)
        return dg.MaterializeResult(
            metadata=_facts_of_production(context, spec, policy, latest) | {"live": policies.describe(policy)},
            check_results=[
                dg.AssetCheckResult(
                    check_name="serves_champion",
                    passed=not wrong and (policy.champion is not None or policy.retired_at is not None),
                    description="; ".join(f"{d.what}: expected {d.expected}, got {d.got}" for d in wrong) or policies.describe(policy),
                )
            ],
        )

    return production


def _facts_of_production(context: dg.AssetExecutionContext, spec: ModelSpec, policy: Policy, latest: Change | None) -> dict[str, object]:
    """How production came to be what it is. The change's generation stands in the first record of it only, which is the change's own."""
    if latest is None:
        return {}
    facts: dict[str, object] = {**metadata_of(policy, latest)}
    if is_recorded(context.instance, spec, Record("production", None, latest)):
        del facts["generation"]
    return facts


def smoke_test(platform: Platform, spec: ModelSpec, release: str, digest: str) -> Verdict:
    """Start the release and compare what it answers with what its file says. One that does not start fails."""
    start(platform, spec.name, release, digest, spec.serving)
    try:
        deployment = platform.deployments.wait_ready(spec.name, release, spec.serving.ready_within.total_seconds())
    except NotReady as error:
        return Verdict("smoke_test", Outcome.FAIL, None, None, str(error))
    return smoke_test_of(platform, spec.name, release).ask(platform, deployment)


def _release_spec(spec: ModelSpec, noun: str, upstream: str, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        keys.key(spec, noun),
        deps=[keys.key(spec, upstream)],
        group_name=keys.group(spec, "release"),
        owners=list(spec.owners),
        kinds={"envoy"},
        description=description,
        skippable=True,
    )


def _release_asset(spec: ModelSpec, noun: str, upstream: str) -> dict[str, object]:
    return {
        "key": keys.key(spec, noun),
        "deps": [keys.key(spec, upstream)],
        "group_name": keys.group(spec, "release"),
        "partitions_def": keys.releases(spec),
        "owners": list(spec.owners),
    }


def _author(context: dg.AssetExecutionContext, config: ActionConfig) -> Author:
    return Author(config.who, config.reason, context.run.run_id, config.evidence)


def _moved_on(policy: Policy, config: ActionConfig) -> bool:
    return config.expected_generation not in (-1, policy.generation)


def _is_past_staging(policy: Policy, release: str) -> bool:
    candidate = policy.candidate(release)
    return (candidate is None or candidate.state == "waiting") and policy.last(release, "accept") is not None


def _catch_up(
    context: dg.AssetExecutionContext, platform: Platform, spec: ModelSpec, policy: Policy, noun: str, release: str
) -> Iterator[object]:
    """The policy moved on before this run: finish what an earlier, killed run has begun, and record what it could not.

    One run can materialize an asset once: of several unrecorded changes the newest is recorded, the reconcile sensor records the others.
    """
    converge_traffic(platform, spec.name, spec.serving)
    unrecorded = [
        c
        for c in policy.log
        for r in records_of(c)
        if (r.noun, r.partition) == (noun, release) and not is_recorded(context.instance, spec, r)
    ]
    if not unrecorded:
        yield dg.AssetObservation(
            keys.key(spec, noun), partition=release, metadata={"last_look": f"nothing to do: {policies.describe(policy)}"}
        )
    for missed in unrecorded[-1:]:
        yield from _materialized(context, spec, policy, missed)


def _materialized(
    context: dg.AssetExecutionContext, spec: ModelSpec, policy: Policy, made: Change, decision: Decision | None = None
) -> Iterator[object]:
    for record in records_of(made):
        if record.noun == "production" or is_recorded(context.instance, spec, record):
            continue
        measured = figures(decision.verdicts) if decision else {}
        weight = {"weight": policy.weights.get(made.release, 0), "mirror": policy.mirror.percent if policy.mirror else 0}
        plot = {"plot": trajectory_plot(policy, record.partition or made.release)}
        yield dg.MaterializeResult(asset_key=keys.key(spec, record.noun), metadata=metadata_of(policy, made) | weight | measured | plot)
