"""What Kubernetes is told of a release, as pure functions: what the release is goes in, manifests come out.

All of them belong to the release's Deployment: when that is deleted, Kubernetes deletes the others.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mlops_assets.adapters.release_environment import release_environment
from mlops_assets.core.pii import KEY_VARIABLE
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT, Serving, leaving_file

Manifest = Mapping[str, Any]

PORT = 8080
MANAGER = "mlops-assets"
"""The field manager of what we apply, and the value of ``app.kubernetes.io/managed-by``."""

MODEL, RELEASE, DIGEST = "mlops-assets/model", "mlops-assets/release", "mlops-assets/digest"
ASKS_RELEASES = {"mlops-assets/asks-releases": "true"}
"""The label of pods that may ask a release past the gateway: those that run smoke tests, and operators'."""

GATEWAY_LABELS = {"app.kubernetes.io/name": "mlops-gateway"}
HOME = "/var/lib/mlops"
IN_FLIGHT = "mlops_requests_in_flight"

DRAIN_SECONDS = 5
"""How long a pod that ends goes on answering, not ready: the gateways look once a second, and need three looks at most."""

_SHIP_SECONDS = 7
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLOPS_ONLINE_URL", KEY_VARIABLE)
_LONGEST = 63
_USER = 10001


@dataclass(frozen=True)
class Offer:
    """What an API server offers of that of which there are several versions.

    Args:
        versions: groups with their versions, such as ``policy/v1``.
        pod_metrics: the metrics of pods that an autoscaler may go by.
    """

    versions: Collection[str]
    pod_metrics: Collection[str] = ()

    def first(self, *wanted: str) -> str | None:
        """The first of the wanted versions that is offered."""
        return next((version for version in wanted if version in self.versions), None)


@dataclass(frozen=True)
class Target:
    """Where releases run, the same for all.

    Args:
        namespace: of all releases.
        image: the serving image; its own command serves on port 8080.
        s3_url: of the object store, as pods reach it.
        secret: the Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLOPS_ONLINE_URL and MLOPS_PII_KEY, as far as needed.
        online_port: of the online store, which pods may reach.
        domain: of the cluster.
        environment: what else the pods are told; no secrets.
    """

    namespace: str
    image: str
    s3_url: str
    secret: str = "mlops-serving"  # noqa: S105 : a name
    online_port: int = 6379
    domain: str = "cluster.local"
    environment: Mapping[str, str] = field(default_factory=dict)


def object_name(model: str, release: str) -> str:
    """What a release's objects are called; a long name is cut, and told from others by a hash.

    >>> object_name("fraud-detector", "v12"), object_name("a" * 80, "v1")
    ('fraud-detector-v12', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-0f45e8-v1')
    """
    name = f"{model}-{release}"
    if len(name) <= _LONGEST:
        return name
    tail = f"-{hashlib.sha256(model.encode()).hexdigest()[:6]}-{release}"
    return model[: _LONGEST - len(tail)].rstrip("-") + tail


def label_of(model: str) -> str:
    """A model's name as the value of a label."""
    return model if len(model) <= _LONGEST else object_name(model, "v0").removesuffix("-v0")


def endpoint(target: Target, model: str, release: str) -> str:
    """Where a release answers."""
    return endpoint_in(target.namespace, target.domain, model, release)


def endpoint_in(namespace: str, domain: str, model: str, release: str) -> str:
    """Where a release answers: known from its name, so that a gateway need not ask Kubernetes.

    >>> endpoint_in("mlops", "cluster.local", "fraud-detector", "v12")
    'fraud-detector-v12.mlops.svc.cluster.local:8080'
    """
    return f"{object_name(model, release)}.{namespace}.svc.{domain}:{PORT}"


def release_deployment(target: Target, model: str, release: str, digest: str, serving: Serving, replicas: int | None = None) -> Manifest:
    """The Deployment of a release; ``replicas`` is how many pods there are to be now, by default as many as at the start."""
    wanted = serving.pods.replicas if replicas is None else min(max(replicas, serving.pods.replicas), serving.pods.max_replicas)
    spec = {
        "replicas": wanted,
        "revisionHistoryLimit": 1,
        "selector": {"matchLabels": _identity(model, release)},
        # a pod more, and never one less, than there are to be
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": _labels(model, release), "annotations": _scraped()},
            "spec": _pod(target, model, release, digest, serving),
        },
    }
    annotations = {MODEL: model, RELEASE: release, DIGEST: digest}
    return _object("apps/v1", "Deployment", target, model, release, spec, annotations)


def release_companions(target: Target, model: str, release: str, serving: Serving, offer: Offer, owner: str = "") -> tuple[Manifest, ...]:
    """What stands beside the Deployment of a release; ``owner`` is its uid. Where the API server offers no version, one is left out."""
    built = (
        _service(target, model, release),
        _autoscaler(target, model, release, serving, offer),
        _budget(target, model, release, offer),
        _network_policy(target, model, release),
    )
    name = object_name(model, release)
    owners = [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": owner, "controller": True, "blockOwnerDeletion": False}]
    owned = {"ownerReferences": owners} if owner else {}
    return tuple({**manifest, "metadata": {**manifest["metadata"], **owned}} for manifest in built if manifest is not None)


def _object(
    version: str, kind: str, target: Target, model: str, release: str, spec: Manifest, annotations: Mapping[str, str] | None = None
) -> Manifest:
    metadata = {"name": object_name(model, release), "namespace": target.namespace, "labels": _labels(model, release)}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _identity(model: str, release: str) -> dict[str, str]:
    return {MODEL: label_of(model), RELEASE: release}


def _labels(model: str, release: str) -> dict[str, str]:
    return {
        **_identity(model, release),
        "app.kubernetes.io/name": "mlops-release",
        "app.kubernetes.io/version": release,
        "app.kubernetes.io/managed-by": MANAGER,
    }


def _scraped() -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}


def _pod(target: Target, model: str, release: str, digest: str, serving: Serving) -> dict[str, Any]:
    selector = {"matchLabels": _identity(model, release)}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        # TERM comes after the drain; then what is under way may be answered, and the prediction log is shipped
        "terminationGracePeriodSeconds": DRAIN_SECONDS + int(GATEWAY_TIMEOUT.total_seconds()) + _SHIP_SECONDS,
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [_container(target, model, release, digest, serving)],
        "volumes": [{"name": "home", "emptyDir": {"sizeLimit": "3Gi"}}, {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }


def _container(target: Target, model: str, release: str, digest: str, serving: Serving) -> dict[str, Any]:
    told = {
        **target.environment,
        **release_environment(model, release, digest, serving),
        "MLOPS_HOME": HOME,
        "MLOPS_S3_URL": target.s3_url,
    }
    leaving = f"{HOME}/{leaving_file(model, release)}"
    references = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": target.secret, "key": name, "optional": True}}} for name in _SECRETS
    ]
    return {
        "name": "release",
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [*({"name": name, "value": value} for name, value in sorted(told.items())), *references],
        "resources": _resources(serving),
        # alive at all, at first within a minute, later at every look of three; what /ready says of the model is the gateways' business
        "startupProbe": _probe("/health", 1, 60),
        "livenessProbe": _probe("/health", 10, 3),
        "readinessProbe": _probe("/ready", 2, 2),
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", f"touch {leaving} && sleep {DRAIN_SECONDS}"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 : of a pod's own
    }


def _probe(path: str, seconds: int, failures: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": seconds, "failureThreshold": failures, "timeoutSeconds": 2}


def _resources(serving: Serving) -> dict[str, Any]:
    pods = serving.pods
    limits = {"memory": pods.memory_limit, **({"cpu": pods.cpu_limit} if pods.cpu_limit else {})}
    return {"requests": {"cpu": pods.cpu, "memory": pods.memory}, "limits": limits}


def _service(target: Target, model: str, release: str) -> Manifest:
    """The pods' own addresses by one name. Gateways look after each pod's health themselves, more often than Kubernetes does."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _identity(model, release),
        "ports": [{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return _object("v1", "Service", target, model, release, spec)


def _autoscaler(target: Target, model: str, release: str, serving: Serving, offer: Offer) -> Manifest | None:
    version = offer.first("autoscaling/v2", "autoscaling/v2beta2", "autoscaling/v1")
    if version is None:
        return None
    pods, name = serving.pods, object_name(model, release)
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": pods.replicas,
        "maxReplicas": pods.max_replicas,
    }
    if version == "autoscaling/v1":
        return _object(
            version, "HorizontalPodAutoscaler", target, model, release, {**spec, "targetCPUUtilizationPercentage": pods.cpu_percent}
        )
    used = {"type": "Utilization", "averageUtilization": pods.cpu_percent}
    spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": used}}]
    if IN_FLIGHT in offer.pod_metrics:
        each = {"metric": {"name": IN_FLIGHT}, "target": {"type": "AverageValue", "averageValue": str(pods.in_flight)}}
        spec["metrics"].append({"type": "Pods", "pods": each})
    return _object(version, "HorizontalPodAutoscaler", target, model, release, spec)


def _budget(target: Target, model: str, release: str, offer: Offer) -> Manifest | None:
    version = offer.first("policy/v1", "policy/v1beta1")
    if version is None:
        return None
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _identity(model, release)}}
    return _object(version, "PodDisruptionBudget", target, model, release, spec)


def _network_policy(target: Target, model: str, release: str) -> Manifest:
    """Gateways, those who test releases and Prometheus may come in; out goes it to names, the object store and the online store."""
    asked = [
        {"podSelector": {"matchLabels": GATEWAY_LABELS}},
        {"podSelector": {"matchLabels": ASKS_RELEASES}},
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}},
    ]
    ports = sorted({_port_of(target.s3_url), target.online_port})
    outward = [*({"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")), *({"port": port, "protocol": "TCP"} for port in ports)]
    spec = {
        "podSelector": {"matchLabels": _identity(model, release)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": asked, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        "egress": [{"ports": outward}],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", target, model, release, spec)


def _port_of(url: str) -> int:
    split = urlsplit(url)
    return split.port or (443 if split.scheme == "https" else 80)
