"""The objects of a cluster without the cluster: what a KubernetesApi answers, with pods that do as they are told."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.adapters.kubernetes_manifests import Manifest, Offer

READY = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "127.0.0.1"}
CRASHING = {
    "conditions": [{"type": "Ready", "status": "False"}],
    "containerStatuses": [
        {
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 2}},
        }
    ],
}
HOMELESS = {
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: Insufficient cpu"}]
}


class MemoryKubernetes:
    """Stands for a :class:`~mlops_assets.adapters.kubernetes_api.KubernetesApi`. ``pod_status`` is that of all pods made from now on."""

    def __init__(self, offer: Offer) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.pod_status: Mapping[str, Any] = READY
        self.applied: list[str] = []
        self.dies_after = -1
        self._offer = offer

    def offer(self) -> Offer:
        return self._offer

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Mapping[str, Any]:
        if self.dies_after == len(self.applied):
            raise KeyboardInterrupt
        key = manifest["kind"], manifest["metadata"]["name"]
        self.applied.append(key[0])
        there = self.objects.get(key, {"metadata": {"uid": f"uid-{len(self.applied)}", "generation": 0}})
        metadata = {**there["metadata"], **manifest["metadata"]}
        metadata["generation"] += there.get("spec") != manifest["spec"]
        self.objects[key] = {**manifest, "metadata": metadata, "status": self._status(manifest, metadata["generation"])}
        return self.objects[key]

    def get(self, version: str, kind: str, name: str) -> Mapping[str, Any] | None:
        return self.objects.get((kind, name))

    def listed(self, version: str, kind: str, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        return [one for (of, _), one in self.objects.items() if of == kind and labels.items() <= one["metadata"]["labels"].items()]

    def pods(self, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        return [
            {"metadata": {"name": f"{one['metadata']['name']}-{number}"}, "status": self.pod_status}
            for one in self.listed("apps/v1", "Deployment", labels)
            for number in range(one["spec"]["replicas"])
        ]

    def delete(self, version: str, kind: str, name: str) -> None:
        gone = self.objects.pop((kind, name), None)
        if gone is not None:
            uid = gone["metadata"]["uid"]
            owned = [key for key, one in self.objects.items() if uid in [o["uid"] for o in one["metadata"].get("ownerReferences", ())]]
            for key in owned:
                del self.objects[key]

    def log_end(self, pod: str, lines: int = 15) -> str:
        return f"what {pod} said last"

    def _status(self, manifest: Manifest, generation: int) -> Mapping[str, Any]:
        if manifest["kind"] != "Deployment":
            return {}
        count = manifest["spec"]["replicas"]
        ready = {"readyReplicas": count} if self.pod_status is READY else {}
        return {"observedGeneration": generation, "updatedReplicas": count, **ready}
