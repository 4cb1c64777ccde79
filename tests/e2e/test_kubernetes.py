"""The data plane on a real cluster, under load: canary, promotion, a rollback without Dagster and without Kubernetes, and what faults cost.

``make e2e-kubernetes``. Every figure that is asserted here is printed, too.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.table import Table

from mlops_assets.adapters.memory import MemoryRegistry
from mlops_assets.changes import change
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Step
from mlops_assets.core.policy import Author, Policy
from mlops_assets.core.serving_spec import Pods, Serving
from mlops_assets.ports import Platform
from mlops_assets.reconcile import converge_traffic
from tests.cluster import Cluster, kubectl
from tests.e2e.load import Load
from tests.servers import eventually
from tests.serving.models import GOOD, SIGNATURE, tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

MODEL = "tiny"
SERVING = Serving(pods=Pods(cpu="50m", memory="112Mi", memory_limit="384Mi"), ready_within=timedelta(seconds=180))
ADA = Author("ada", "a test on a cluster")
BAKE = timedelta(minutes=1)
STEPS = (Step("shadow", BAKE, mirror=50), Step("5%", BAKE, 5), Step("25%", BAKE, 25), Step("50%", BAKE, 50))


@dataclass
class Story:
    """What is done to the cluster, and what was measured of it."""

    cluster: Cluster
    load: Load
    figures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        there = self.cluster
        unused = MemoryRegistry()
        parts = {"objects": there.objects, "policies": there.policies, "deployments": there.deployments, "gateway": there.gateway}
        return Platform(clock=lambda: datetime.now(UTC), registry=unused, features=None, predictions=None, **parts)  # type: ignore[arg-type]

    def change(self, apply: Callable[[Policy], Policy]) -> float:
        """A change of the policy and all that follows; how many seconds that took."""
        began = time.monotonic()
        change(self.platform, MODEL, apply)
        converge_traffic(self.platform, MODEL, SERVING)
        return time.monotonic() - began

    def release(self, release: str, bias: float) -> None:
        """A new release, as far as a canary."""
        file = tiny_model(replace(SIGNATURE, model=MODEL), bias=bias)
        self.cluster.objects.create(f"models/{MODEL}/{release}/model.onnx", file.data)
        for step in ("register", "stage", "accept"):
            arguments = (release, file.digest) if step == "register" else (release,)
            change(self.platform, MODEL, lambda policy, s=step, a=arguments: getattr(policy_changes, s)(policy, *a, ADA, self.now))

    @property
    def now(self) -> datetime:
        return datetime.now(UTC)

    def tell(self, what: str, figure: str) -> None:
        self.figures.append((what, figure))
        print(f"{what}: {figure}", flush=True)

    def cost(self, what: str, since: float) -> int:
        """Tell how many requests failed since then; returns it."""
        failed, asked = self.load.failed(since), len(self.load.since(since))
        self.tell(what, f"{sum(failed.values())} of {asked} requests failed {dict(failed) if failed else ''}".strip())
        return sum(failed.values())


@pytest.fixture(scope="module")
def story(cluster: Cluster) -> Iterator[Story]:
    told = Story(cluster, Load(cluster.gateway_address, MODEL, dict(GOOD)))
    told.tell("installed: gateways ready and buckets made", f"{cluster.seconds:.1f} s")
    told.release("v1", 0.0)
    seconds = told.change(lambda policy: policy_changes.begin(policy, "v1", Step("100%", BAKE, 100), ADA, told.now))
    told.tell("v1 from its policy to 3 pods that are ready and have the traffic", f"{seconds:.1f} s")
    told.change(lambda policy: policy_changes.promote(policy, ADA, told.now, timedelta(hours=1)))
    with told.load.running():
        eventually(lambda: len(told.load.asked) > 50, 30)
        yield told
        table = Table("on this cluster", "figure")
        for row in told.figures:
            table.add_row(*row)
        Console(width=160).print(table)


def _rollback(story: Story) -> float:
    """``mlops rollback`` as a person calls it, who reaches S3 and the gateways and nothing else; seconds from its start to its end."""
    there = story.cluster
    environment = {
        **os.environ,
        **there.credentials.environment(),
        "MLOPS_TARGET": "kubernetes",
        "MLOPS_S3_URL": there.s3_url,
        "MLOPS_GATEWAYS": ",".join(there.sidecars),
        "MLOPS_GATEWAY_TOKEN": there.token,
        "KUBECONFIG": "/nonexistent",
        "USER": "ada",
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "mlops_assets", "rollback", MODEL, "--reason", "a test"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "champion v1" in done.stdout
    return time.monotonic() - began


def test_a_release_goes_through_its_canary_beside_the_champion_without_a_lost_request(story):
    began = time.time()
    story.release("v2", 0.5)
    seconds = story.change(lambda policy: policy_changes.begin(policy, "v2", STEPS[0], ADA, story.now))
    story.tell("v2 from its policy to 3 pods that are ready and get copies", f"{seconds:.1f} s")
    for index, step in enumerate(STEPS[1:], start=1):
        seconds = story.change(lambda policy, i=index, s=step: policy_changes.advance(policy, i, s, ADA, story.now))
        story.tell(f"to {step.name}, until the last gateway follows", f"{seconds:.2f} s")
        entered = time.time()
        eventually(lambda since=entered: sum(story.load.answered(since).values()) > 300, 60)
        share = 100 * story.load.answered(entered)["v2"] / sum(story.load.answered(entered).values())
        assert abs(share - step.weight) < 12, f"v2 answers {share:.0f} % of new units, expected about {step.weight}"
    seconds = story.change(lambda policy: policy_changes.promote(policy, ADA, story.now, timedelta(hours=1)))
    promoted = time.time()
    eventually(lambda: len(story.load.since(promoted + 0.2)) > 50, 30)
    assert story.load.answered(promoted + 0.2).keys() == {"v2"}
    samples = story.cluster.gateway.sample(MODEL)
    assert len(samples) == 2
    assert sum(sample.traffic["v2"].requests for sample in samples) >= story.load.answered(began)["v2"]
    assert story.cost("canary in four steps and promotion", began) == 0


def test_a_rollback_by_hand_reaches_the_last_gateway_without_dagster_and_without_kubernetes(story):
    began = time.time()
    seconds = _rollback(story)
    policy = story.cluster.policies.read(MODEL)
    written = policy.log[-1].at.timestamp()
    time.sleep(1.0)
    last = max(one.at for one in story.load.since(began) if one.release == "v2")
    assert set(story.cluster.gateway.applied(MODEL).values()) == {policy.generation}
    assert story.load.answered(last + 0.001).keys() == {"v1"}
    story.tell("mlops rollback: the whole command", f"{seconds:.2f} s")
    story.tell("mlops rollback: from the policy to the last answer of the release that left", f"{last - written:.2f} s")
    assert last - written < 2.0
    assert story.cost("rollback by hand", began) == 0


def test_a_policy_that_nobody_tells_the_gateways_of_reaches_the_last_one_within_two_seconds(story):
    took = []
    for _ in range(5):
        there, gateway = story.cluster.policies, story.cluster.gateway
        policy = there.read(MODEL)
        to = "v2" if policy.champion == "v1" else "v1"
        changed = policy_changes.rollback(policy, ADA, story.now, to)
        there.write(changed, policy.generation)
        began = time.monotonic()
        eventually(lambda g=changed.generation, of=gateway: set(of.applied(MODEL).values()) == {g}, 10)
        took.append(time.monotonic() - began)
    story.tell("a policy's change to the last gateway, by its own looking alone (worst of 5)", f"{max(took):.2f} s")
    assert max(took) < 2.0


def test_pods_come_and_go_without_a_lost_request(story):
    began = time.time()
    champion = story.cluster.policies.read(MODEL).champion
    names = kubectl("get", "pods", "-l", f"mlops-assets/release={champion}", "-o", "name").split()
    kubectl("delete", names[0], "--wait=true")
    story.cluster.deployments.wait_ready(MODEL, champion, 120)
    assert story.cost("a pod of the champion ends as planned", began) == 0
    began = time.time()
    kubectl("rollout", "restart", "deployment/mlops-gateway")
    kubectl("rollout", "status", "deployment/mlops-gateway", "--timeout=180s")
    time.sleep(12)  # until the last of the old ones has drained
    assert story.cost("both gateways are replaced as planned", began) == 0


def test_what_faults_cost(story):
    champion = story.cluster.policies.read(MODEL).champion
    began, clock = time.time(), time.monotonic()
    name = kubectl("get", "pods", "-l", f"mlops-assets/release={champion}", "-o", "name").split()[0]
    kubectl("delete", name, "--grace-period=0", "--force", "--wait=false")
    time.sleep(2)
    story.cluster.deployments.wait_ready(MODEL, champion, 120)
    story.tell("a killed pod is replaced", f"{time.monotonic() - clock:.1f} s")
    time.sleep(3)
    lost = story.cost("a pod of the champion is killed", began)
    assert lost <= 0.02 * len(story.load.since(began))

    began, clock = time.time(), time.monotonic()
    victim = next(iter(story.cluster.gateway_pods()))
    kubectl("delete", "pod", victim, "--grace-period=0", "--force", "--wait=false")
    time.sleep(2)
    eventually(lambda: len(story.cluster.gateway_pods()) == 2, 120)
    story.tell("a killed gateway is replaced, ready with its routes", f"{time.monotonic() - clock:.1f} s")
    time.sleep(3)
    lost = story.cost("a gateway is killed", began)
    assert lost <= 0.1 * len(story.load.since(began))
    assert set(story.cluster.gateway.applied(MODEL).values()) == {story.cluster.policies.read(MODEL).generation}


def test_what_no_policy_wants_is_ended(story):
    champion = story.cluster.policies.read(MODEL).champion
    story.cluster.deployments.start(MODEL, "v9", "f" * 64, SERVING)
    converge_traffic(story.platform, MODEL, SERVING)
    running = {deployment.release for deployment in story.cluster.deployments.running(MODEL)}
    assert "v9" not in running
    assert champion in running
