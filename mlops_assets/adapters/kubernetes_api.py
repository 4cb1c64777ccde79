"""Kubernetes' own interface: objects as it has them, and its errors as ours.

The official client knows whom to ask and how to prove who asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from mlops_assets.adapters.kubernetes_manifests import MANAGER, Manifest, Offer
from mlops_assets.core.errors import BadData, MlopsError, NotFound, Unavailable

PLURALS = {
    "Deployment": "deployments",
    "Service": "services",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
}
"""The kinds that we apply, as paths have them."""

_APPLY = "application/apply-patch+yaml"
_METRICS = "custom.metrics.k8s.io"
_SECONDS = (2.0, 10.0)


class KubernetesApi:
    """The API server that the kubeconfig (``KUBECONFIG``) names, or that of the cluster in which this process runs.

    Args:
        namespace: in which everything is asked for.

    Methods raise :class:`Unavailable` if it does not answer or refuses who asks, and :class:`BadData` if it refuses what is asked.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Make an object as the manifest says (server-side apply); returns what there is then. Nothing changes in a dry run."""
        query = {"fieldManager": MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = f"{self._collection(manifest['apiVersion'], manifest['kind'])}/{manifest['metadata']['name']}"
        made: Mapping[str, Any] = self._json("PATCH", path, query, manifest)
        return made

    def get(self, version: str, kind: str, name: str) -> Mapping[str, Any] | None:
        """An object, or None if there is none."""
        try:
            found: Mapping[str, Any] = self._json("GET", f"{self._collection(version, kind)}/{name}")
        except NotFound:
            return None
        return found

    def listed(self, version: str, kind: str, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """The objects with all these labels."""
        found: Sequence[Mapping[str, Any]] = self._json("GET", self._collection(version, kind), _selector(labels))["items"]
        return found

    def pods(self, labels: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """The pods with all these labels."""
        found: Sequence[Mapping[str, Any]] = self._json("GET", f"/api/v1/namespaces/{self._namespace}/pods", _selector(labels))["items"]
        return found

    def delete(self, version: str, kind: str, name: str) -> None:
        """Delete an object and, later, what it owns; harmless if there is none."""
        try:
            self._json("DELETE", f"{self._collection(version, kind)}/{name}", {"propagationPolicy": "Background"})
        except NotFound:
            return

    def log_end(self, pod: str, lines: int = 15) -> str:
        """The last lines of a pod's log: of the container that ended, if there was one and the present one has said nothing."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{pod}/log"
        for previous in ("false", "true"):
            try:
                found = self._text("GET", path, {"tailLines": str(lines), "previous": previous}).strip()
            except (NotFound, BadData):  # it has not started, or has no previous one
                continue
            if found:
                return found
        return "(no log)"

    def offer(self) -> Offer:
        """What of our manifests this API server understands. Metrics of whoever is installed to serve them, and is away, are not offered:
        a release starts without them."""
        groups = self._json("GET", "/apis")["groups"]
        versions = {version["groupVersion"] for group in groups for version in group["versions"]}
        metrics = [version for version in versions if version.startswith(_METRICS)]
        offered: Sequence[Mapping[str, Any]] = []
        with suppress(Unavailable, NotFound):
            offered = self._json("GET", f"/apis/{metrics[0]}").get("resources", []) if metrics else []
        return Offer(
            frozenset(versions), frozenset(one["name"].removeprefix("pods/") for one in offered if one["name"].startswith("pods/"))
        )

    def _collection(self, version: str, kind: str) -> str:
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return f"{root}/namespaces/{self._namespace}/{PLURALS[kind]}"

    def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Manifest | None = None) -> Any:
        return json.loads(self._text(method, path, query, body))

    def _text(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Manifest | None = None) -> str:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json, */*", **({"Content-Type": _APPLY} if body is not None else {})}
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=_SECONDS,
            )
            return str(answer.data.decode(errors="replace"))
        except ApiException as error:
            raise self._translated(error, method, path) from error
        except HTTPError as error:
            raise Unavailable(
                f"Kubernetes does not answer at {self._client.configuration.host} ({error}): see that its API runs"
            ) from error

    @cached_property
    def _client(self) -> Any:
        """Imported and connected at the first call: it takes a second, which a rollback to a warm release does not need."""
        from kubernetes import client, config

        loaded = client.Configuration()
        loaded.retries = 1
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
                config.load_incluster_config(client_configuration=loaded)
            else:
                # by name: the client has read the variable when it was imported
                config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=loaded)
        except config.ConfigException as error:
            raise Unavailable(
                f"no cluster is known ({error}): set KUBECONFIG to a kubeconfig, or run this in a pod with a service account"
            ) from error
        return client.ApiClient(loaded)

    def _translated(self, error: Any, method: str, path: str) -> MlopsError:
        try:
            said = str(json.loads(error.body)["message"])
        except (ValueError, KeyError, TypeError):
            said = str(error.body or error.reason)[:500]
        asked = f"Kubernetes: {method} {path}"
        if error.status == 404:
            return NotFound(f"{asked}: {said}")
        if error.status in (401, 403):
            return Unavailable(f"{asked} is refused ({said}): the Role of this service account must allow it, see deploy/kubernetes")
        if error.status in (409, 429) or error.status >= 500:
            return Unavailable(f"{asked} failed ({error.status}: {said}): try again")
        return BadData(f"{asked}: got {error.status}: {said}: correct the manifest, or serving.pods in defs.yaml")


def _selector(labels: Mapping[str, str]) -> Mapping[str, str]:
    return {"labelSelector": ",".join(f"{name}={value}" for name, value in sorted(labels.items()))}
