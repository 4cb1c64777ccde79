"""All adapters of the stack on this machine, together."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets import credentials
from mlops_assets.core.pii import KEY_VARIABLE
from mlops_assets.ports import FeatureStore, NoPager, Platform
from mlops_assets.settings import Settings

FEATURE_REPO = Path(__file__).resolve().parents[2] / "feature_repo"


def wall_clock() -> datetime:
    return datetime.now(UTC)


class _Later:
    """What is made when it is first asked for something: a rollback needs no features, and pandas is half of what it would import."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def local_platform(settings: Settings | None = None) -> Platform:
    """The adapters of the stack that ``mlops up`` starts on this machine. Nothing is connected before it is used."""
    from mlops_assets.adapters.alertmanager import AlertmanagerPager
    from mlops_assets.adapters.envoy import EnvoyGateway
    from mlops_assets.adapters.mlflow import MlflowRegistry
    from mlops_assets.adapters.prediction_log import S3PredictionLog
    from mlops_assets.adapters.processes import SupervisedDeployments
    from mlops_assets.adapters.s3 import S3ObjectStore, S3PolicyStore

    settings = settings or Settings.from_environment()
    # The stack's own S3 knows only the stack's own key, whatever AWS identity the caller has.
    secret = credentials.read(settings.home) if settings.has_own_s3 else None
    objects = S3ObjectStore(settings.s3_url, secret)

    def features() -> FeatureStore:
        from mlops_assets.adapters.feast import FeastFeatureStore

        return FeastFeatureStore(FEATURE_REPO, settings.home / "feast", objects, settings.online_url)

    return Platform(
        clock=wall_clock,
        objects=objects,
        policies=S3PolicyStore(settings.s3_url, secret),
        registry=MlflowRegistry(settings.mlflow_url),
        features=_Later(features),
        deployments=SupervisedDeployments(settings, [sys.executable, "-m", "serving", "--port", "{port}"]),
        gateway=EnvoyGateway(settings.home / "envoy", {"local": f"http://127.0.0.1:{settings.gateway_admin_port}"}),
        predictions=S3PredictionLog(objects),
        pace=settings.pace,
        pager=AlertmanagerPager(settings.alertmanager_url) if settings.alertmanager_url else NoPager(),
        pii_key=os.environ.get(KEY_VARIABLE, ""),
    )
