"""Make the world as the policy says: deployments, gateway, registry. One direction, any number of times, from any process."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.errors import MlopsError, NotFound, NotReady, Unavailable
from mlops_assets.core.policy import Policy, next_waiting, stage_of
from mlops_assets.core.routing import route
from mlops_assets.core.serving_spec import Serving
from mlops_assets.ports import Deployment, Platform

STAGE_TAG = "stage"


@dataclass(frozen=True)
class Difference:
    """Something that is not as the policy says, and why if that is known."""

    what: str
    expected: str
    got: str


def reconcile(platform: Platform, model: str, serving: Serving | None = None, shown: int = 0) -> Policy:
    """Start what must run, route the traffic, end what must not run, and show it in the registry.

    Args:
        shown: the generation that the registry is known to show; releases that left before it are not read again.

    Raises:
        NotReady: if a release that gets traffic does not start. The gateway then keeps its last good routes.
        Unavailable: if a system does not answer; what comes before it is done.
    """
    policy = converge_traffic(platform, model, serving)
    project_registry(platform, policy, shown)
    return policy


def converge_traffic(platform: Platform, model: str, serving: Serving | None = None) -> Policy:
    """The data plane alone: it needs neither Dagster nor the registry."""
    policy = platform.policies.read(model)
    running = start_live(platform, policy, serving)
    apply_route(platform, policy, running)
    # Waiting for a release and for gateways takes seconds. Whoever changed the policy meanwhile may have turned to a release that the one
    # above lets go, and from one that gateways are on until he has started it: he ends what he left, or else the next reconcile does.
    if platform.policies.read(model).generation == policy.generation:
        stop_dead(platform, policy, running)
    return policy


def start_live(platform: Platform, policy: Policy, serving: Serving | None) -> dict[str, Deployment]:
    """Start the releases that must run, and wait for those that get traffic."""
    running = {deployment.release: deployment for deployment in platform.deployments.running(policy.model)}
    late = {release for release in with_traffic(policy) if release not in running or not running[release].ready}
    # One of these that is there may be on its way out: a drill, or somebody with an older policy, ends it at this very moment.
    missing = policy.live_releases(platform.clock()) - running.keys()
    started_as = {release: start(platform, policy.model, release, policy.digests[release], serving) for release in sorted(missing | late)}
    for release in sorted(late):
        running[release] = platform.deployments.wait_ready(policy.model, release, started_as[release].ready_within.total_seconds())
    started = {deployment.release: deployment for deployment in platform.deployments.running(policy.model)}
    return started | running


def serving_key(model: str, release: str) -> str:
    """How a release was last started."""
    return f"models/{model}/{release}/serving.json"


def start(platform: Platform, model: str, release: str, digest: str, serving: Serving | None) -> Serving:
    """Start a release as it is declared; returns that.

    An operator's command reads no ``defs.yaml``. It starts the release as whoever does has last started it, which is kept beside its
    file, else by the defaults.
    """
    key, kept = serving_key(model, release), None
    # Whatever is wrong with what is kept must not keep a release from starting.
    with suppress(MlopsError):
        kept = decode(Serving, platform.objects.get(key), key)
    if serving is not None and serving != kept:
        platform.objects.put(key, encode(serving))
    platform.deployments.start(model, release, digest, serving or kept)
    return serving or kept or Serving()


def apply_route(platform: Platform, policy: Policy, running: Mapping[str, Deployment]) -> None:
    endpoints = {release: deployment.endpoint for release, deployment in running.items() if deployment.ready}
    platform.gateway.apply(route(policy, endpoints, platform.clock()))


def stop_dead(platform: Platform, policy: Policy, running: Mapping[str, Deployment]) -> None:
    """End what no longer needs to run; by now the gateways send nothing there."""
    for release in sorted(set(running) - policy.live_releases(platform.clock())):
        platform.deployments.stop(policy.model, release)


def project_registry(platform: Platform, policy: Policy, shown: int = 0) -> None:
    """Write stages and aliases so that the registry's own UI shows them; only what differs is written.

    A model gathers hundreds of archived releases: those that no change after generation ``shown`` is about are left unread.
    """
    wanted = wanted_aliases(policy)
    present = platform.registry.aliases(policy.model)
    needed = _present(policy)
    for alias, release in wanted.items():
        if present.get(alias) != release:
            _show_alias(platform, policy.model, alias, release, release in needed)
    for release in sorted(needed):
        _show_stage(platform, policy, release)
    for release in sorted(_changed(policy, shown) - needed):
        # An archived version may be deleted by hand in the registry's own UI; nothing else must wait for it.
        with suppress(NotFound):
            _show_stage(platform, policy, release)


def _show_stage(platform: Platform, policy: Policy, release: str) -> None:
    stage = stage_of(policy, release)
    if platform.registry.release(policy.model, release).tags.get(STAGE_TAG) != stage:
        platform.registry.annotate(policy.model, release, {STAGE_TAG: stage})


def _show_alias(platform: Platform, model: str, alias: str, release: str | None, is_needed: bool) -> None:
    """Point an alias to a release; to none if it was deleted and ``is_needed`` does not say that this is an error."""
    try:
        platform.registry.set_aliases(model, {alias: release})
    except NotFound:
        if is_needed:
            raise
        # else it would go on naming the release before
        platform.registry.set_aliases(model, {alias: None})


def wanted_aliases(policy: Policy) -> dict[str, str | None]:
    """``champion`` is what serves, ``previous`` where a rollback goes, ``staging`` what comes next."""
    following = policy.challenger.release if policy.challenger else next_waiting(policy)
    return {"champion": policy.champion, "previous": policy.previous, "staging": following}


def differences(platform: Platform, model: str) -> tuple[Difference, ...]:
    """What is not as the policy says, for ``mlops status`` and the check ``serves_champion``; empty when all is well."""
    policy = platform.policies.read(model)
    return (*_gateway_differences(platform, policy), *_deployment_differences(platform, policy), *_registry_differences(platform, policy))


def _present(policy: Policy) -> set[str]:
    """The releases that are in production, in canary or on their way there."""
    ahead = (policy.champion, policy.challenger.release if policy.challenger else None)
    return {release for release in ahead if release} | {candidate.release for candidate in policy.candidates}


def _changed(policy: Policy, since: int) -> set[str]:
    """The releases that changes after generation ``since`` are about."""
    changes = [change for change in policy.log if change.generation > since]
    return {release for change in changes for release in (change.release, change.left) if release}


def with_traffic(policy: Policy) -> set[str]:
    """The releases that get requests or copies of them."""
    weighted = {release for release, weight in policy.weights.items() if weight > 0}
    return weighted | ({policy.mirror.release} if policy.mirror else set())


def _gateway_differences(platform: Platform, policy: Policy) -> list[Difference]:
    if policy.generation == 0:
        return []
    try:
        applied = platform.gateway.applied(policy.model)
    except Unavailable as error:
        return [Difference("gateway", f"generation {policy.generation}", str(error))]
    # A change that moves no traffic (a registration, say) reaches the gateways with the next reconciliation.
    return [
        Difference(f"gateway {name}", f"generation {policy.generation}", f"generation {generation}")
        for name, generation in applied.items()
        if generation != policy.generation
    ]


def _deployment_differences(platform: Platform, policy: Policy) -> list[Difference]:
    try:
        ready = {deployment.release for deployment in platform.deployments.running(policy.model) if deployment.ready}
    except (Unavailable, NotReady) as error:
        return [Difference("deployments", "an answer", str(error))]
    live = policy.live_releases(platform.clock())
    missing = [Difference(f"release {release}", "ready", "not ready") for release in sorted(live - ready)]
    return missing + [Difference(f"release {release}", "stopped", "running") for release in sorted(ready - live)]


def _registry_differences(platform: Platform, policy: Policy) -> list[Difference]:
    try:
        present = platform.registry.aliases(policy.model) if policy.digests else {}
    except MlopsError as error:
        return [Difference("registry", "an answer", str(error))]
    return [
        Difference(f"alias {alias}", release or "none", present.get(alias) or "none")
        for alias, release in wanted_aliases(policy).items()
        if present.get(alias) != release
    ]
