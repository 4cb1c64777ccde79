"""The reconciler beside others who change a policy."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import pytest

from mlops_assets.adapters.local import local_platform
from mlops_assets.adapters.memory_deployments import MemoryDeployments
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.core import policy_changes
from mlops_assets.core.serving_spec import Serving
from mlops_assets.ports import Platform
from mlops_assets.reconcile import converge_traffic, serving_key, start
from mlops_assets.settings import Settings
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


def test_what_is_no_longer_kept_warm_is_ended(platform: Platform) -> None:
    converge_traffic(platform, MODEL)
    assert releases(platform) == {"v2"}


def test_a_release_to_which_somebody_rolls_back_meanwhile_is_not_ended(platform: Platform, monkeypatch) -> None:
    def roll_back() -> None:
        policy = platform.policies.read(MODEL)
        platform.policies.write(policy_changes.rollback(policy, ADA, platform.clock()), policy.generation)

    monkeypatch.setattr(platform.gateway, "apply", after(platform.gateway.apply, roll_back))
    converge_traffic(platform, MODEL)
    assert platform.policies.read(MODEL).champion == "v1"
    assert "v1" in releases(platform)
