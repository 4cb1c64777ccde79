"""Releases on Kubernetes: each a Deployment of its own, so that a bad one cannot hurt the pods of another.

What runs is what is there with our labels; nothing is remembered here. A release's other objects belong to its Deployment, so that a
release is ended by one call, and what a crash left half made is not ready until the next ``start`` completes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.adapters.kubernetes_api import KubernetesApi
from mlops_assets.adapters.kubernetes_manifests import (
    DIGEST,
    MANAGER,
    MODEL,
    PORT,
    RELEASE,
    Manifest,
    Offer,
    Target,
    endpoint,
    label_of,
    object_name,
    release_companions,
    release_deployment,
)
from mlops_assets.adapters.release_client import scores
from mlops_assets.core.errors import BadData, MlopsError, NotFound, NotReady, Unavailable
from mlops_assets.core.serving_spec import Serving
from mlops_assets.ports import Deployment

_POLL_SECONDS = 0.25
_GONE_SECONDS = 60.0
_ENDS_BEFORE_GIVING_UP = 3


class KubernetesDeployments:
    """Deployments of a cluster as the :class:`~mlops_assets.ports.Deployments`.

    Args:
        target: where releases run, and what they are told of other systems.
        api: of the cluster.
    """

    def __init__(self, target: Target, api: KubernetesApi) -> None:
        self._target, self._api = target, api

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        """Run this release; harmless if it runs. Other ``serving`` is taken up by new pods before the old ones end.

        Raises:
            BadData: if it runs with another digest, or Kubernetes refuses what the spec asks for.
            MlopsError: if it does not run, and no image is known.
            Unavailable: if Kubernetes does not answer or does not allow it.
        """
        there = self._wait_while_leaving(model, release)
        if there is not None:
            self._require_digest(there, model, release, digest)
        if there is not None and serving is None:
            self._complete(there, model, release)
            return
        if not self._target.image:
            raise MlopsError("MLOPS_SERVING_IMAGE is not set, expected the serving image as the cluster pulls it: 'make images' builds one")
        told = serving or Serving()
        # a Deployment that is there has the number of pods that its autoscaler gave it
        replicas = int(there["spec"]["replicas"]) if there is not None else None
        offer = self._api.offer()  # first: a server that does not say leaves nothing half made
        made = self._api.apply(release_deployment(self._target, model, release, digest, told, replicas))
        for manifest in self._companions(model, release, told, offer, made["metadata"]["uid"]):
            self._api.apply(manifest)

    def stop(self, model: str, release: str) -> None:
        """Drain and end this release; harmless if it does not run. Its pods answer what is under way and ship their log meanwhile.

        Raises:
            Unavailable: if Kubernetes does not answer or does not allow it.
        """
        self._api.delete("apps/v1", "Deployment", object_name(model, release))

    def running(self, model: str) -> Sequence[Deployment]:
        """What runs of this model, or is meant to. It is ready once a pod of it is and all that stands beside it was made.

        Raises:
            Unavailable: if Kubernetes does not answer or does not allow it.
        """
        listed = self._api.listed("apps/v1", "Deployment", {MODEL: label_of(model), "app.kubernetes.io/managed-by": MANAGER})
        found = [(one["metadata"]["annotations"][RELEASE], one) for one in listed if "deletionTimestamp" not in one["metadata"]]
        return [
            Deployment(
                model, release, endpoint(self._target, model, release), _count(one, "readyReplicas") > 0 and self._is_whole(model, release)
            )
            for release, one in sorted(found, key=lambda pair: pair[0])
        ]

    def wait_ready(self, model: str, release: str, within: float) -> Deployment:
        """Wait until every pod of the release is ready.

        Raises:
            NotReady: after ``within`` seconds, or earlier if pods keep ending; with what Kubernetes says of a pod and the end of its log.
            NotFound: if the release was not started.
            Unavailable: if Kubernetes does not answer or does not allow it.
        """
        deadline = time.monotonic() + within
        while True:
            there = self._api.get("apps/v1", "Deployment", object_name(model, release))
            if there is None:
                raise NotFound(
                    f"{release} of {model} was not started, expected the Deployment {object_name(model, release)}: start it first"
                )
            if _is_settled(there):
                return Deployment(model, release, endpoint(self._target, model, release), True)
            if _ends(pods := self._pods(model, release)) >= _ENDS_BEFORE_GIVING_UP:
                raise NotReady(f"{release} of {model} keeps ending while it starts; {self._told(pods)}")
            if time.monotonic() >= deadline:
                ready, wanted = _count(there, "readyReplicas"), there["spec"]["replicas"]
                raise NotReady(f"{release} of {model} has {ready} of {wanted} pods ready after {within:g} s; {self._told(pods)}")
            time.sleep(_POLL_SECONDS)

    def predict(self, deployment: Deployment, rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        """The scores that a pod of this very release answers to rows of inputs. It logs them as a shadow's.

        Raises:
            BadData: if the release refuses the rows.
            Unavailable: if no pod is ready, or the one asked does not answer or fails.
        """
        ready = [pod for pod in self._pods(deployment.model, deployment.release) if _is_ready(pod)]
        if not ready:
            raise Unavailable(f"no pod of {deployment.release} of {deployment.model} is ready: 'kubectl describe' one of them")
        return scores(f"{ready[0]['status']['podIP']}:{PORT}", deployment.model, rows)

    def _companions(self, model: str, release: str, serving: Serving, offer: Offer, owner: str) -> Sequence[Manifest]:
        """What stands beside a Deployment, which has to be there first since it owns them; its Service comes last, see ``_is_whole``."""
        built = release_companions(self._target, model, release, serving, offer, owner)
        return sorted(built, key=lambda one: one["kind"] == "Service")

    def _is_whole(self, model: str, release: str) -> bool:
        """Whether a start came to its end. Else the release is not ready, so that who needs it starts it again; without a Service no
        gateway finds it anyway."""
        return self._api.get("v1", "Service", object_name(model, release)) is not None

    def _complete(self, there: Mapping[str, Any], model: str, release: str) -> None:
        """Make what is missing beside a Deployment, since whoever began may have been killed in between: all but its autoscaler, which
        only those who know the spec can."""
        for one in self._companions(model, release, Serving(), self._api.offer(), there["metadata"]["uid"]):
            is_missing = self._api.get(one["apiVersion"], one["kind"], one["metadata"]["name"]) is None
            if is_missing and one["kind"] != "HorizontalPodAutoscaler":
                self._api.apply(one)

    def _wait_while_leaving(self, model: str, release: str) -> Mapping[str, Any] | None:
        """The release's Deployment; one that is being deleted is waited for, since what is applied to it would go with it."""
        deadline = time.monotonic() + _GONE_SECONDS
        while True:
            there = self._api.get("apps/v1", "Deployment", object_name(model, release))
            if there is None or "deletionTimestamp" not in there["metadata"]:
                return there
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"{release} of {model} is still being deleted after {_GONE_SECONDS:g} s: see what its finalizers wait for"
                )
            time.sleep(_POLL_SECONDS)

    def _require_digest(self, there: Mapping[str, Any], model: str, release: str, digest: str) -> None:
        runs = there["metadata"].get("annotations", {}).get(DIGEST)
        if runs != digest:
            raise BadData(
                f"{release} of {model} runs with digest {runs}, got {digest}: a release is immutable. Stop it first if the policy is right"
            )

    def _pods(self, model: str, release: str) -> Sequence[Mapping[str, Any]]:
        return self._api.pods({MODEL: label_of(model), RELEASE: release})

    def _told(self, pods: Sequence[Mapping[str, Any]]) -> str:
        """What is known of a pod that is not ready, for an error."""
        late = [pod for pod in pods if not _is_ready(pod)]
        if not late:
            return "there is no pod yet: 'kubectl describe' the Deployment, a quota may refuse it"
        name = late[0]["metadata"]["name"]
        return f"pod {name}: {_reason(late[0])}; its log ends:\n{self._api.log_end(name)}"


def _count(deployment: Mapping[str, Any], name: str) -> int:
    return int(deployment.get("status", {}).get(name, 0))


def _is_settled(deployment: Mapping[str, Any]) -> bool:
    """Whether all pods there are to be are of the newest kind and ready."""
    wanted, seen = int(deployment["spec"]["replicas"]), _count(deployment, "observedGeneration")
    is_seen = seen >= deployment["metadata"]["generation"]
    return is_seen and _count(deployment, "updatedReplicas") >= wanted and _count(deployment, "readyReplicas") >= wanted


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _ends(pods: Sequence[Mapping[str, Any]]) -> int:
    """How often the container of a pod has ended that is not ready now; of the worst one."""
    return max((int(one["restartCount"]) for pod in pods if not _is_ready(pod) for one in _containers(pod)), default=0)


def _containers(pod: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = pod.get("status", {}).get("containerStatuses", [])
    return found


def _reason(pod: Mapping[str, Any]) -> str:
    """Why a pod is not ready, in Kubernetes' words."""
    for container in _containers(pod):
        ended = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated")
        after = f", ended before with {ended['reason']} ({ended['exitCode']})" if ended else ""
        if waiting := container.get("state", {}).get("waiting"):
            return f"{waiting['reason']} {waiting.get('message', '')}".strip() + after
        if ended:
            return f"restarted {container['restartCount']} times{after}"
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["status"] != "True" and condition.get("message"):
            return f"{condition.get('reason', condition['type'])}: {condition['message']}"
    return str(pod.get("status", {}).get("phase", "unknown"))
