"""All adapters of the stack on this machine, together; releases may be a cluster's (``MLOPS_TARGET=kubernetes`` or ``ray``)."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from mlops_assets import credentials
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.pii import KEY_VARIABLE
from mlops_assets.ports import Deployments, FeatureStore, Gateway, NoPager, Pager, Platform, PredictionLog, Registry
from mlops_assets.settings import Settings

FEATURE_REPO = Path(__file__).resolve().parents[2] / "feature_repo"

_TOLD = ("AWS_DEFAULT_REGION", "MLOPS_REPLAY", "MLOPS_LOG_ROTATE_SECONDS", "MLOPS_LOG_MAX_BYTES")
"""What pods and replicas of Ray are told as this process was; processes of this machine are by supervisord, whose environment they have."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


class _Later:
    """What is made when it is first asked for something: a rollback imports neither pandas for features nor what reads a log."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def local_platform(settings: Settings | None = None) -> Platform:
    """The adapters of the stack that ``mlops up`` starts on this machine, or of whatever systems the environment names instead.

    Nothing is connected before it is used.
    """
    from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore

    settings = settings or Settings.from_environment()
    # The stack's own S3 knows only the stack's own key, whatever AWS identity the caller has.
    secret = credentials.read(settings.home) if settings.has_own_s3 else None
    objects = S3ObjectStore(settings.s3_url, secret)

    deployments, gateway = {"processes": _machine, "kubernetes": _cluster, "ray": _ray}[settings.target](settings)

    def features() -> FeatureStore:
        from mlops_assets.adapters.feast import FeastFeatureStore

        return FeastFeatureStore(FEATURE_REPO, settings.home / "feast", objects, settings.online_url)

    def registry() -> Registry:
        from mlops_assets.adapters.mlflow import MlflowRegistry

        return MlflowRegistry(settings.mlflow_url)

    def predictions() -> PredictionLog:
        from mlops_assets.adapters.prediction_log import S3PredictionLog

        return S3PredictionLog(objects)

    return Platform(
        clock=wall_clock,
        objects=objects,
        policies=S3PolicyStore(settings.s3_url, secret),
        registry=_Later(registry),
        features=_Later(features),
        deployments=deployments,
        gateway=gateway,
        predictions=_Later(predictions),
        pace=settings.pace,
        pager=_pager(settings.alertmanager_url) if settings.alertmanager_url else NoPager(),
        pii_key=os.environ.get(KEY_VARIABLE, ""),
    )


def _pager(url: str) -> Pager:
    from mlops_assets.adapters.alertmanager import AlertmanagerPager

    return AlertmanagerPager(url)


def _machine(settings: Settings) -> tuple[Deployments, Gateway]:
    """Processes behind one Envoy, all of this machine."""
    from mlops_assets.adapters.processes import SupervisedDeployments

    return SupervisedDeployments(settings, [sys.executable, "-m", "serving", "--port", "{port}"]), _envoy(settings)


def _ray(settings: Settings) -> tuple[Deployments, Gateway]:
    """Applications of Ray Serve behind the one Envoy of this machine."""

    def deployments() -> Deployments:
        try:
            from mlops_assets.adapters.ray_serve import RayServeDeployments
        except ModuleNotFoundError as error:
            raise MlopsError(f"MLOPS_TARGET=ray needs Ray ({error}): pip install 'mlops-assets[ray]'") from error
        told = {"MLOPS_HOME": str(settings.home), "MLOPS_S3_URL": settings.s3_url, **_told()}
        return RayServeDeployments(settings.ray_address, settings.ray_proxy, told)

    return cast(Deployments, _Later(deployments)), _envoy(settings)


def _envoy(settings: Settings) -> Gateway:
    from mlops_assets.adapters.envoy import EnvoyGateway

    return EnvoyGateway(settings.home / "envoy", {"local": f"http://127.0.0.1:{settings.gateway_admin_port}"})


def _told() -> dict[str, str]:
    return {name: value for name in _TOLD if (value := os.environ.get(name))}


def _cluster(settings: Settings) -> tuple[Deployments, Gateway]:
    """Pods behind the Envoys of a cluster. The cluster is not asked before it is needed: a rollback to a warm release does without."""
    from mlops_assets.adapters.gateway_sidecars import SidecarGateway
    from mlops_assets.adapters.kubernetes import KubernetesDeployments
    from mlops_assets.adapters.kubernetes_api import KubernetesApi
    from mlops_assets.adapters.kubernetes_manifests import Target

    target = Target(
        settings.namespace,
        settings.serving_image,
        settings.s3_url,
        secret=os.environ.get("MLOPS_SERVING_SECRET", Target.secret),
        online_port=urlsplit(settings.online_url).port or Target.online_port,
        domain=settings.cluster_domain,
        environment=_told(),
    )
    gateway = SidecarGateway(settings.gateways, os.environ.get("MLOPS_GATEWAY_TOKEN", ""))
    return KubernetesDeployments(target, KubernetesApi(settings.namespace)), gateway
