"""The rollback drill: once a day the release before the champion is brought back, all the way to a route that no traffic takes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.smoke import SmokeTest, smoke_test_of
from mlops_assets.assets.verdicts import check_result
from mlops_assets.core.drill import Part, comes_back
from mlops_assets.core.errors import MlopsError, NotReady
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.routing import Route, Share, drill_of
from mlops_assets.core.verdict import Verdict
from mlops_assets.ports import Clock, Deployment, Platform, model_key
from mlops_assets.reconcile import start, stop_dead


def build_drill_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "rollback_drill")

    @dg.asset(
        key=key,
        deps=[keys.key(spec, "production")],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        kinds={"envoy"},
        description="The release before the champion, started, asked and routed to beside production: how long a rollback would take.",
        check_specs=[dg.AssetCheckSpec("comes_back", asset=key)],
    )
    def rollback_drill(platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        drilled = drill(platform, spec)
        return dg.MaterializeResult(
            metadata={
                "release": drilled.release or "none",
                "was_running": drilled.was_running,
                "reason": drilled.verdict.reason,
                **({"seconds": drilled.verdict.value} if drilled.verdict.value is not None else {}),
                **{f"{part.name}_seconds": part.seconds for part in drilled.parts},
            },
            check_results=[check_result("comes_back", key, drilled.verdict, inconclusive=dg.AssetCheckSeverity.WARN)],
        )

    return rollback_drill


@dataclass(frozen=True)
class Drilled:
    """What came of a drill. ``was_running`` says that the release was there already, as one that is warm is."""

    release: str | None
    was_running: bool
    parts: tuple[Part, ...]
    verdict: Verdict


@dataclass
class _Watch:
    """Takes the time of each part."""

    clock: Clock
    parts: list[Part] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = self.clock()
        try:
            yield
        finally:
            self.parts.append(Part(name, (self.clock() - began).total_seconds()))


def drill(platform: Platform, spec: ModelSpec) -> Drilled:
    """Bring the previous release back as a rollback would, and end what was begun for it.

    What it starts is not in the policy: if this process is killed, the reconciler ends it at its next look, and a route that is left behind
    is one that nobody takes.

    Raises:
        MlopsError: if what a drill asks beyond a rollback cannot be read (MLflow, the holdout): nothing is concluded then.
    """
    policy = platform.policies.read(spec.name)
    release, objective = policy.previous, spec.drill.objective
    if release is None:
        return Drilled(None, False, (), comes_back(objective, None, (), None))
    watch = _Watch(platform.clock)
    was_running = any(running.release == release and running.ready for running in platform.deployments.running(spec.name))
    try:
        trouble = _verify(platform, spec.name, release, policy.digests[release], watch)
        if trouble is None:
            test = smoke_test_of(platform, spec.name, release)
            trouble = _bring_back(platform, spec, release, policy.digests[release], test, watch)
    finally:
        _end(lambda: _route(platform, spec.name, None))
        _end(lambda: _stop_if_dead(platform, spec.name, release))
    return Drilled(release, was_running, tuple(watch.parts), comes_back(objective, release, watch.parts, trouble))


def _verify(platform: Platform, model: str, release: str, digest: str, watch: _Watch) -> str | None:
    """Why the file is not whole that the release would be loaded from, on this machine or another. The release checks it again."""
    try:
        with watch.part("artifact"):
            got = hashlib.sha256(platform.objects.get(model_key(model, release))).hexdigest()
    except MlopsError as error:
        return str(error)
    return None if got == digest else f"{model_key(model, release)}: got sha256 {got}, expected {digest}: restore its earlier version"


def _bring_back(platform: Platform, spec: ModelSpec, release: str, digest: str, test: SmokeTest, watch: _Watch) -> str | None:
    """What a rollback does of a release before it has its traffic. Returns why it went no further, if it did not."""
    try:
        with watch.part("ready"):
            start(platform, spec.name, release, digest, spec.serving)
            deployment = platform.deployments.wait_ready(spec.name, release, spec.serving.ready_within.total_seconds())
        with watch.part("smoke_test"):
            answered = test.ask(platform, deployment)
        if not answered.passed:
            return f"it does not answer as its file does: {answered.reason}"
        with watch.part("route"):
            _route(platform, spec.name, deployment)
    except MlopsError as error:
        return str(error)
    return None


def _route(platform: Platform, model: str, to: Deployment | None) -> None:
    """Change the route of the drill, which is of a name that no model can have, and read back that every gateway follows it."""
    name = drill_of(model)
    generation = max(platform.gateway.applied(name).values(), default=-1) + 1
    shares = (Share(to.release, 0, 100),) if to else ()
    platform.gateway.apply(Route(name, generation, shares, None, {to.release: to.endpoint} if to else {}))
    followed = platform.gateway.applied(name)
    late = [gateway for gateway, applied in followed.items() if applied != generation]
    if late:
        raise NotReady(f"gateway {', '.join(late)} does not follow the route of the drill: its log says what it refused")


def _stop_if_dead(platform: Platform, model: str, release: str) -> None:
    running = {deployment.release: deployment for deployment in platform.deployments.running(model) if deployment.release == release}
    stop_dead(platform, platform.policies.read(model), running)


def _end(step: Callable[[], None]) -> None:
    """Clear something away; what cannot be is said, and left to the reconciler and the next drill."""
    try:
        step()
    except MlopsError as error:
        dg.get_dagster_logger().warning(f"left to the reconciler: {error}")
