"""What Kubernetes is told of a release: every manifest is what the schemas of old and new API servers allow."""

import json
from dataclasses import replace

import kubernetes_validate
import pytest

from mlops_assets.adapters import kubernetes_manifests as manifests
from mlops_assets.adapters.kubernetes_manifests import Offer, Target
from mlops_assets.core.serving_spec import Pods, Serving

TARGET = Target("models", "registry.example/mlops-serving:1", "http://s3.models:8333", environment={"AWS_DEFAULT_REGION": "eu-west-1"})
MODEL, RELEASE, DIGEST = "fraud-detector", "v12", "d" * 64
CURRENT = Offer({"policy/v1", "autoscaling/v2", "autoscaling/v1"})
OLD = Offer({"policy/v1beta1", "autoscaling/v1", "autoscaling/v2beta2"})
METERED = replace(CURRENT, pod_metrics={"mlops_requests_in_flight", "other"})
SERVINGS = {
    "defaults": Serving(),
    "all that can be said": Serving(threads=2, workers=3, pods=Pods(5, 9, "1.5", "2", "1Gi", "2Gi", 50, 8)),
}


def made(offer: Offer = CURRENT, serving: Serving | None = None, model: str = MODEL, owner: str = "uid-1") -> dict:
    """Every manifest of a release, by its kind."""
    serving = serving or Serving()
    every = (
        manifests.release_deployment(TARGET, model, RELEASE, DIGEST, serving),
        *manifests.release_companions(TARGET, model, RELEASE, serving, offer, owner),
    )
    return {manifest["kind"]: manifest for manifest in every}


def pod_of(every: dict) -> dict:
    return every["Deployment"]["spec"]["template"]["spec"]


def container_of(every: dict) -> dict:
    return pod_of(every)["containers"][0]


@pytest.mark.parametrize("serving", SERVINGS.values(), ids=SERVINGS)
@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("offer", [CURRENT, METERED], ids=["current", "with metrics of pods"])
def test_every_manifest_is_valid_to_the_letter(serving, version, offer):
    for manifest in made(offer, serving).values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_not_pass_that_test():
    deployment = json.loads(json.dumps(made()["Deployment"]))
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.30", strict=True)


@pytest.mark.parametrize(
    ("offer", "autoscaler", "budget"),
    [
        (CURRENT, "autoscaling/v2", "policy/v1"),
        (OLD, "autoscaling/v2beta2", "policy/v1beta1"),
        (Offer({"autoscaling/v1"}), "autoscaling/v1", None),
        (Offer(()), None, None),
    ],
)
def test_a_kind_of_several_versions_is_of_the_newest_that_is_offered_or_left_out(offer, autoscaler, budget):
    every = made(offer)
    assert every.get("HorizontalPodAutoscaler", {}).get("apiVersion") == autoscaler
    assert every.get("PodDisruptionBudget", {}).get("apiVersion") == budget
    assert {"Deployment", "Service", "NetworkPolicy"} <= every.keys()


def test_it_is_scaled_by_cpu_and_by_requests_in_flight_where_those_are_known():
    pods = Pods(replicas=2, max_replicas=7, cpu_percent=60, in_flight=9)
    spec = made(METERED, Serving(pods=pods))["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 7)
    cpu, in_flight = spec["metrics"]
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 60}
    assert in_flight["pods"]["metric"]["name"] == "mlops_requests_in_flight"
    assert in_flight["pods"]["target"]["averageValue"] == "9"
    assert len(made(CURRENT)["HorizontalPodAutoscaler"]["spec"]["metrics"]) == 1
    assert made(Offer({"autoscaling/v1"}))["HorizontalPodAutoscaler"]["spec"]["targetCPUUtilizationPercentage"] == 70


def test_a_pod_can_do_no_more_than_it_needs():
    every = made()
    pod, container = pod_of(every), container_of(every)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/mlops", "/tmp"}
    assert all("emptyDir" in volume for volume in pod["volumes"])


def test_secrets_are_named_and_never_shown():
    env = {entry["name"]: entry for entry in container_of(made())["env"]}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLOPS_ONLINE_URL", "MLOPS_PII_KEY"):
        assert env[name]["valueFrom"]["secretKeyRef"] == {"name": "mlops-serving", "key": name, "optional": True}
        assert "value" not in env[name]
    assert env["AWS_DEFAULT_REGION"]["value"] == "eu-west-1"


def test_a_release_is_told_what_it_is_and_may_use():
    told = Serving(threads=2, workers=3, log_durability="fdatasync")
    every = made(serving=replace(told, pods=Pods(cpu="2", memory="1Gi", memory_limit="2Gi")))
    env = {entry["name"]: entry.get("value") for entry in container_of(every)["env"]}
    wanted = {"MLOPS_MODEL": MODEL, "MLOPS_RELEASE": RELEASE, "MLOPS_MODEL_DIGEST": DIGEST, "MLOPS_THREADS": "2", "MLOPS_WORKERS": "3"}
    wanted |= {"MLOPS_S3_URL": TARGET.s3_url, "MLOPS_HOME": "/var/lib/mlops", "MLOPS_LOG_DURABILITY": "fdatasync"}
    assert {name: env[name] for name in wanted} == wanted
    assert container_of(every)["resources"] == {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}


def test_a_pod_that_ends_is_not_ready_first_and_has_time_to_answer_and_to_ship_its_log():
    every = made()
    assert container_of(every)["lifecycle"]["preStop"]["exec"]["command"] == [
        "sh",
        "-c",
        "touch /var/lib/mlops/fraud-detector.v12.leaving && sleep 5",
    ]
    assert pod_of(every)["terminationGracePeriodSeconds"] == 5 + 10 + 7
    probes = [container_of(every)[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert probes == [{"path": "/health", "port": 8080}, {"path": "/health", "port": 8080}, {"path": "/ready", "port": 8080}]


def test_all_objects_select_the_pods_of_this_release_and_belong_to_its_deployment():
    every = made()
    labels = every["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        every["Deployment"]["spec"]["selector"]["matchLabels"],
        every["Service"]["spec"]["selector"],
        every["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        every["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in pod_of(every)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector == {"mlops-assets/model": MODEL, "mlops-assets/release": RELEASE}
        assert selector.items() <= labels.items()
    for kind in every.keys() - {"Deployment"}:
        [owner] = every[kind]["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Deployment", "fraud-detector-v12", "uid-1")


def test_only_gateways_and_those_who_test_may_come_in_and_it_goes_out_only_where_it_must():
    target = replace(TARGET, s3_url="https://s3.example", online_port=6380)
    [policy] = [one for one in manifests.release_companions(target, MODEL, RELEASE, Serving(), CURRENT) if one["kind"] == "NetworkPolicy"]
    [inward], [outward] = policy["spec"]["ingress"], policy["spec"]["egress"]
    assert [port["port"] for port in inward["ports"]] == [8080]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlops-gateway"}}} in inward["from"]
    assert sorted(port["port"] for port in outward["ports"]) == [53, 53, 443, 6380]


@pytest.mark.parametrize(("now", "wanted"), [(None, 3), (1, 3), (3, 3), (5, 5), (99, 6)])
def test_what_an_autoscaler_did_is_kept_within_the_bounds(now, wanted):
    deployment = manifests.release_deployment(TARGET, MODEL, RELEASE, DIGEST, Serving(), now)
    assert deployment["spec"]["replicas"] == wanted


@pytest.mark.parametrize("model", ["a" * 61, "very-" * 20 + "long", "a" * 200])
def test_a_long_name_is_cut_and_told_from_its_like(model):
    every = made(model=model)
    names = {manifest["metadata"]["name"] for manifest in every.values()}
    assert len(names) == 1
    assert max(map(len, names)) <= 63
    assert every["Deployment"]["metadata"]["annotations"]["mlops-assets/model"] == model
    assert manifests.object_name(model, "v1") != manifests.object_name(model + "x", "v1")
    assert manifests.object_name(model, "v1") != manifests.object_name(model, "v2")
    assert len(every["Deployment"]["metadata"]["labels"]["mlops-assets/model"]) <= 63
    for manifest in every.values():
        kubernetes_validate.validate(manifest, "1.30", strict=True)


def test_where_a_release_answers_follows_from_its_name():
    assert manifests.endpoint(TARGET, MODEL, RELEASE) == "fraud-detector-v12.models.svc.cluster.local:8080"
