"""The reconciler beside others who change a policy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pytest

from mlops_assets.adapters.kubernetes import KubernetesDeployments
from mlops_assets.adapters.kubernetes_manifests import Target
from mlops_assets.adapters.local import local_platform
from mlops_assets.adapters.memory_deployments import MemoryDeployments
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import NotFound
from mlops_assets.core.routing import Route
from mlops_assets.core.serving_spec import Serving
from mlops_assets.ports import Platform, TrainingRun
from mlops_assets.reconcile import STAGE_TAG, converge_traffic, reconcile, serving_key, start
from mlops_assets.settings import Settings
from tests.adapters.kubernetes_objects import MemoryKubernetes
from tests.adapters.test_kubernetes import CURRENT, KINDS
from tests.test_backup import ADA, HOUR, MODEL, promote
from tests.test_doctor import in_memory


def releases(platform: Platform) -> set[str]:
    return {deployment.release for deployment in platform.deployments.running(MODEL)}


@pytest.fixture
def platform() -> Platform:
    """v2 is in production, and v1 no longer kept warm, but still there."""
    made, deployments = in_memory(), MemoryDeployments(lambda model, release, digest: np.ravel)
    made = replace(made, deployments=deployments, gateway=MemoryGateway(deployments, MemoryPredictionLog(), made.clock))
    for release in ("v1", "v2"):
        promote(made, release)
        made.deployments.start(MODEL, release, made.policies.read(MODEL).digests[release], None)
    now = made.clock() + 2 * HOUR
    return replace(made, clock=lambda: now)


def after(does: Callable[..., object], then: Callable[[], None]) -> Callable[..., object]:
    def called(*given: object) -> object:
        answer = does(*given)
        then()
        return answer

    return called


@dataclass
class Noting(MemoryDeployments):
    """Notes by what each release was started."""

    by: dict[str, Serving | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(lambda model, release, digest: np.ravel)

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        self.by[release] = serving
        super().start(model, release, digest, serving)


def test_who_has_no_declaration_starts_a_release_as_it_was_last_started(platform: Platform) -> None:
    noting = Noting()
    noted = replace(platform, deployments=noting, gateway=MemoryGateway(noting, MemoryPredictionLog(), platform.clock))
    converge_traffic(noted, MODEL)
    assert noting.by == {"v2": None}  # nobody ever said how
    for declared in (Serving(workers=2), Serving(workers=8, ready_within=timedelta(seconds=300))):
        noting.stop(MODEL, "v2")
        converge_traffic(noted, MODEL, declared)
        noting.stop(MODEL, "v2")
        converge_traffic(noted, MODEL)
        assert noting.by == {"v2": declared}


def test_a_store_in_which_no_release_can_be_overwritten_keeps_the_newest_declaration(platform: Platform, empty_s3: Settings) -> None:
    real = replace(platform, objects=local_platform(empty_s3).objects)
    for declared in (Serving(workers=2), Serving(workers=3)):
        start(real, MODEL, "v2", "", declared)
        assert start(real, MODEL, "v2", "", None) == declared


def test_a_declaration_that_cannot_be_read_keeps_no_release_from_starting(platform: Platform) -> None:
    platform.objects.put(serving_key(MODEL, "v2"), b"{ half")
    platform.deployments.stop(MODEL, "v2")
    converge_traffic(platform, MODEL)
    assert "v2" in releases(platform)


class Following(MemoryGateway):
    """Gateways that find releases by themselves, those that they are told are ready."""

    found: frozenset[str] = frozenset()

    def apply(self, route: Route) -> None:
        self.found = frozenset(route.endpoints)


@pytest.mark.parametrize("dies_after", range(5))
@pytest.mark.parametrize("serving", [Serving(), None])
def test_a_release_whose_start_was_cut_in_half_is_completed_by_the_next_reconcile(
    platform: Platform, dies_after: int, serving: Serving | None
) -> None:
    memory = MemoryKubernetes(CURRENT)
    pods = KubernetesDeployments(Target("mlops", "serving:1", "http://s3:8333"), memory)  # type: ignore[arg-type]
    gateway = Following(MemoryDeployments(lambda *_: np.ravel), MemoryPredictionLog(), platform.clock)
    there = replace(platform, deployments=pods, gateway=gateway)
    memory.dies_after = dies_after
    with pytest.raises(KeyboardInterrupt):
        converge_traffic(there, MODEL, Serving())
    memory.dies_after = -1
    converge_traffic(there, MODEL, serving)
    assert {kind for kind, name in memory.objects if name == f"{MODEL}-v2"} == KINDS
    assert gateway.found == {"v2"}


@pytest.fixture
def registered(platform: Platform) -> Platform:
    """v1 and v2 of before, and v3 in production, all of them in the registry."""
    promote(platform, "v3")
    for number in range(3):
        run = platform.registry.log_run(TrainingRun(MODEL, "t", {}, {}, {}), {})
        platform.registry.register(MODEL, run, str(number), {})
    reconcile(platform, MODEL)
    return platform


def delete(platform: Platform, release: str) -> None:
    """As in MLflow's UI: the aliases of a version go with it."""
    known = platform.registry._models[MODEL]  # type: ignore[attr-defined]
    del known.releases[release]
    known.aliases = {alias: to for alias, to in known.aliases.items() if to != release}


@pytest.mark.parametrize("gone", ["v1", "v2"])
def test_an_archived_version_that_somebody_deleted_in_the_registry_keeps_nothing_from_being_shown(registered: Platform, gone: str) -> None:
    delete(registered, gone)
    registered.registry.annotate(MODEL, "v3", {STAGE_TAG: "Staging"})
    registered.registry.set_aliases(MODEL, {"champion": None})
    reconcile(registered, MODEL)
    assert registered.registry.release(MODEL, "v3").tags[STAGE_TAG] == "Production"
    wanted = {"champion": "v3", "previous": "v2"}
    assert registered.registry.aliases(MODEL) == {alias: release for alias, release in wanted.items() if release != gone}


def test_an_alias_does_not_go_on_naming_the_release_before_when_its_next_one_was_deleted(registered: Platform) -> None:
    delete(registered, "v1")
    policy = registered.policies.read(MODEL)
    registered.policies.write(policy_changes.rollback(policy, ADA, registered.clock()), policy.generation)
    reconcile(registered, MODEL)
    assert registered.registry.aliases(MODEL) == {"champion": "v2"}


def test_a_champion_that_somebody_deleted_in_the_registry_is_an_error(registered: Platform) -> None:
    delete(registered, "v3")
    with pytest.raises(NotFound, match="'v3'"):
        reconcile(registered, MODEL)


def test_what_is_no_longer_kept_warm_is_ended(platform: Platform) -> None:
    converge_traffic(platform, MODEL)
    assert releases(platform) == {"v2"}


def test_neither_what_somebody_rolls_back_to_meanwhile_nor_what_he_leaves_is_ended(platform: Platform, monkeypatch) -> None:
    def roll_back() -> None:
        policy = platform.policies.read(MODEL)
        platform.policies.write(policy_changes.rollback(policy, ADA, platform.clock()), policy.generation)

    monkeypatch.setattr(platform.gateway, "apply", after(platform.gateway.apply, roll_back))
    converge_traffic(platform, MODEL)
    assert platform.policies.read(MODEL).champion == "v1"
    assert releases(platform) == {"v1", "v2"}
    monkeypatch.undo()
    converge_traffic(platform, MODEL)
    assert releases(platform) == {"v1"}
