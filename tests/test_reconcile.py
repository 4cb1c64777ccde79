"""The reconciler beside others who change a policy."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mlops_assets.adapters.memory_deployments import MemoryDeployments
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.core import policy_changes
from mlops_assets.ports import Platform
from mlops_assets.reconcile import converge_traffic
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
