"""Releases on Kubernetes: what the port promises holds on objects in memory and, where KUBECONFIG names one, on a real cluster."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from mlops_assets.adapters.kubernetes import KubernetesDeployments
from mlops_assets.adapters.kubernetes_api import KubernetesApi
from mlops_assets.adapters.kubernetes_manifests import IN_FLIGHT, Offer, Target, release_companions, release_deployment
from mlops_assets.core.errors import BadData, MlopsError, NotFound, NotReady, Unavailable
from mlops_assets.core.serving_spec import Pods, Serving
from mlops_assets.ports import Deployment
from tests.adapters.kubernetes_objects import CRASHING, HOMELESS, READY, MemoryKubernetes
from tests.cluster import Cluster, kubectl
from tests.servers import eventually
from tests.serving.models import GOOD, SIGNATURE, tiny_model

DAGSTER = Path(__file__).resolve().parents[2] / "deploy" / "dagster"
CURRENT = Offer({"policy/v1", "autoscaling/v2"})
METERED = replace(CURRENT, pod_metrics={IN_FLIGHT})
SMALL = Serving(pods=Pods(replicas=2, max_replicas=3, cpu="20m", memory="96Mi"))
KINDS = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}


@dataclass
class Place:
    """Somewhere that releases run, and a model of which v1 and v2 can be run there."""

    deployments: KubernetesDeployments
    kinds: Callable[[str], set[str]]
    model: str
    digest: str
    within: float
    asks: bool
    started: list[str] = field(default_factory=list)

    def start(self, release: str = "v1", serving: Serving | None = SMALL) -> Deployment:
        self.deployments.start(self.model, release, self.digest, serving)
        return self.deployments.wait_ready(self.model, release, self.within)


@pytest.fixture(params=["memory", "cluster"])
def place(request):
    name = f"m-{uuid4().hex[:8]}"
    if request.param == "memory":
        memory = MemoryKubernetes(CURRENT)
        target = Target("mlops", "serving:1", "http://s3:8333")
        yield Place(KubernetesDeployments(target, memory), lambda of: {k for k, n in memory.objects if n == of}, name, "d" * 64, 1, False)  # type: ignore[arg-type]
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    file = tiny_model(replace(SIGNATURE, model=name))
    for release in ("v1", "v2"):
        cluster.objects.create(f"models/{name}/{release}/model.onnx", file.data)

    def kinds(of: str) -> set[str]:
        every = "deployment,service,hpa,pdb,networkpolicy"
        return set(kubectl("get", every, "--field-selector", f"metadata.name={of}", "-o", "jsonpath={.items[*].kind}").split())

    deployments = cluster.deployments
    yield Place(deployments, kinds, name, file.digest, 120, True)
    for release in ("v1", "v2"):
        deployments.stop(name, release)


def test_a_started_release_becomes_ready_and_is_listed_with_its_endpoint(place):
    assert place.deployments.running(place.model) == []
    ready = place.start()
    assert ready == Deployment(place.model, "v1", f"{place.model}-v1.mlops.svc.cluster.local:8080", True)
    assert place.deployments.running(place.model) == [ready]
    assert place.kinds(f"{place.model}-v1") == KINDS
    if place.asks:
        scores = place.deployments.predict(ready, [{**GOOD}, {**GOOD, "hour": None}])
        assert scores == pytest.approx([0.924, 0.880], abs=0.001)


def test_starting_what_runs_changes_nothing_and_a_challenger_has_pods_of_its_own(place):
    place.start()
    before = place.deployments._api.get("apps/v1", "Deployment", f"{place.model}-v1")["metadata"]["generation"]
    for serving in (None, SMALL):
        place.deployments.start(place.model, "v1", place.digest, serving)
    assert place.deployments._api.get("apps/v1", "Deployment", f"{place.model}-v1")["metadata"]["generation"] == before
    place.start("v2")
    assert [deployment.release for deployment in place.deployments.running(place.model)] == ["v1", "v2"]
    assert place.deployments.running(f"{place.model}-v1") == []


def test_a_stopped_release_is_gone_with_all_that_belongs_to_it_and_stopping_it_again_is_harmless(place):
    place.start()
    place.deployments.stop(place.model, "v1")
    place.deployments.stop(place.model, "v1")
    eventually(lambda: place.kinds(f"{place.model}-v1") == set(), 60)
    assert place.deployments.running(place.model) == []
    with pytest.raises(NotFound, match="was not started"):
        place.deployments.wait_ready(place.model, "v1", 1)
    place.start()


def test_a_release_that_runs_with_another_digest_is_left_as_it_is(place):
    place.start()
    with pytest.raises(BadData, match="a release is immutable"):
        place.deployments.start(place.model, "v1", "e" * 64, SMALL)


def test_a_release_whose_file_cannot_be_had_is_reported_in_time_with_its_log(place):
    if not place.asks:
        place.deployments._api.pod_status = HOMELESS
    place.deployments.start(place.model, "v3", "f" * 64, SMALL)
    with pytest.raises(NotReady, match=r"v3 of m-.* has 0 of 2 pods ready after 0.5 s; pod m-.*; its log ends:"):
        place.deployments.wait_ready(place.model, "v3", 0.5)
    [deployment] = place.deployments.running(place.model)
    assert not deployment.ready
    with pytest.raises(Unavailable, match="no pod of v3"):
        place.deployments.predict(deployment, [GOOD])
    place.deployments.stop(place.model, "v3")


@pytest.fixture
def memory() -> MemoryKubernetes:
    return MemoryKubernetes(CURRENT)


@pytest.fixture
def deployments(memory) -> KubernetesDeployments:
    return KubernetesDeployments(Target("mlops", "serving:1", "http://s3:8333"), memory)


@pytest.mark.parametrize("dies_after", range(5))
def test_what_a_crash_left_half_made_is_completed_by_the_next_start(memory, deployments, dies_after):
    memory.dies_after = dies_after
    with pytest.raises(KeyboardInterrupt):
        deployments.start("m", "v1", "d", SMALL)
    assert not any(deployment.ready for deployment in deployments.running("m")), "or nobody would start it again"
    memory.dies_after = -1
    deployments.start("m", "v1", "d", SMALL)
    assert {kind for kind, _ in memory.objects} == KINDS
    assert [deployment.ready for deployment in deployments.running("m")] == [True]
    deployments.stop("m", "v1")
    assert memory.objects == {}


def test_who_does_not_know_the_spec_completes_all_but_the_autoscaler(memory, deployments):
    memory.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        deployments.start("m", "v1", "d", SMALL)
    memory.dies_after = -1
    deployments.start("m", "v1", "d", None)
    assert {kind for kind, _ in memory.objects} == KINDS - {"HorizontalPodAutoscaler"}
    assert memory.objects["Deployment", "m-v1"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("serving", [SMALL, None])
def test_a_server_that_does_not_say_what_it_offers_leaves_nothing_half_made(memory, deployments, monkeypatch, serving):
    def away() -> Offer:
        raise Unavailable("Kubernetes does not answer")

    monkeypatch.setattr(memory, "offer", away)
    with pytest.raises(Unavailable):
        deployments.start("m", "v1", "d", serving)
    assert memory.objects == {}


def test_metrics_that_are_installed_later_are_the_autoscalers_at_the_next_start(memory, deployments):
    for offer in (CURRENT, METERED):
        memory._offer = offer
        deployments.start("m", "v1", "d", SMALL)
    assert [one["type"] for one in memory.objects["HorizontalPodAutoscaler", "m-v1"]["spec"]["metrics"]] == ["Resource", "Pods"]


class Answering:
    """Stands for the official client: what an API server answers by path, and 503 where it has a group of which nobody answers."""

    def __init__(self, answers):
        self._answers = answers

    def call_api(self, path, method, **_):
        from kubernetes.client import ApiException

        if path not in self._answers:
            raise ApiException(status=503, reason="Service Unavailable")
        return SimpleNamespace(data=json.dumps(self._answers[path]).encode())


GROUPS = {"groups": [{"versions": [{"groupVersion": name}]} for name in (*METERED.versions, "custom.metrics.k8s.io/v1beta2")]}


@pytest.mark.parametrize(
    ("metrics", "offered"),
    [({}, set()), ({"/apis/custom.metrics.k8s.io/v1beta2": {"resources": [{"name": "pods/mlops_requests_in_flight"}]}}, {IN_FLIGHT})],
    ids=["away", "there"],
)
def test_metrics_of_whoever_is_away_are_not_offered(metrics, offered):
    api = KubernetesApi("mlops")
    vars(api)["_client"] = Answering({"/apis": GROUPS} | metrics)
    offer = api.offer()
    assert set(offer.pod_metrics) == offered
    assert METERED.versions <= set(offer.versions)


def test_a_server_whose_groups_cannot_be_had_is_not_taken_for_one_that_offers_nothing():
    api = KubernetesApi("mlops")
    vars(api)["_client"] = Answering({})
    with pytest.raises(Unavailable, match="503"):
        api.offer()


def test_an_autoscalers_number_of_pods_is_kept(memory, deployments):
    deployments.start("m", "v1", "d", SMALL)
    memory.objects["Deployment", "m-v1"]["spec"]["replicas"] = 3
    deployments.start("m", "v1", "d", replace(SMALL, threads=2))
    assert memory.objects["Deployment", "m-v1"]["spec"]["replicas"] == 3


def test_a_release_that_keeps_ending_is_reported_early_with_kubernetes_own_words(memory, deployments):
    memory.pod_status = CRASHING
    deployments.start("m", "v1", "d", SMALL)
    with pytest.raises(NotReady) as told:
        deployments.wait_ready("m", "v1", 60)
    for part in ("keeps ending", "CrashLoopBackOff back-off 40s, ended before with Error (2)", "what m-v1-0 said last"):
        assert part in str(told.value)


def test_a_pod_that_finds_no_node_says_so(memory, deployments):
    memory.pod_status = HOMELESS
    deployments.start("m", "v1", "d", SMALL)
    with pytest.raises(NotReady, match="Unschedulable: 0/3 nodes: Insufficient cpu"):
        deployments.wait_ready("m", "v1", 0)
    memory.pod_status = READY
    deployments.start("m", "v1", "d", replace(SMALL, threads=2))
    assert deployments.wait_ready("m", "v1", 0).ready


def test_what_is_being_deleted_does_not_run_and_is_waited_for(memory, deployments, monkeypatch):
    deployments.start("m", "v1", "d", SMALL)
    memory.objects["Deployment", "m-v1"]["metadata"]["deletionTimestamp"] = "2026-11-26T12:00:00Z"
    assert deployments.running("m") == []
    looks = []

    def goes(seconds: float) -> None:
        looks.append(seconds)
        memory.delete("apps/v1", "Deployment", "m-v1")

    monkeypatch.setattr("mlops_assets.adapters.kubernetes.time.sleep", goes)
    deployments.start("m", "v1", "d", SMALL)
    assert len(looks) == 1
    assert [one.release for one in deployments.running("m")] == ["v1"]


def test_without_an_image_nothing_is_started_and_the_error_says_what_to_set(memory):
    imageless = KubernetesDeployments(Target("mlops", "", "http://s3:8333"), memory)
    with pytest.raises(MlopsError, match="MLOPS_SERVING_IMAGE is not set"):
        imageless.start("m", "v1", "d", None)
    assert memory.objects == {}
    imageless.stop("m", "v1")


def test_without_a_cluster_the_error_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="set KUBECONFIG"):
        KubernetesApi("mlops").pods({})


def test_a_real_api_server_would_take_what_stands_before_dagster(cluster):
    told = kubectl("apply", "--dry-run=server", "--filename", str(DAGSTER / "access.yaml"), "--filename", str(DAGSTER / "network.yaml"))
    assert told.count("(server dry run)") == 4


def test_a_real_api_server_would_take_every_manifest(cluster):
    every = Serving(workers=2, pods=Pods(2, 4, "100m", "1", "128Mi", "256Mi", 60, 8))
    offer = cluster.api.offer()
    manifests = (
        release_deployment(cluster.target, "dry", "v1", "d" * 64, every),
        *release_companions(cluster.target, "dry", "v1", every, offer),
    )
    assert {manifest["kind"] for manifest in manifests} == KINDS
    for manifest in manifests:
        made = cluster.api.apply(manifest, dry_run=True)
        assert made["metadata"]["name"] == "dry-v1"
        assert cluster.api.get(manifest["apiVersion"], manifest["kind"], "dry-v1") is None
    with pytest.raises(BadData, match="correct the manifest"):
        cluster.api.apply(release_deployment(cluster.target, "Dry_", "v1", "d" * 64, every), dry_run=True)
