"""How a deployment of this code gets its adapters. Local, demo, test and production differ here and nowhere else."""

import threading

import dagster as dg

from mlops_assets.adapters.local import local_platform
from mlops_assets.ports import Platform
from mlops_assets.settings import Settings


class LocalPlatform(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The stack on this machine, with the releases and gateways of a cluster where the environment says so (see :class:`Settings`)."""

    def create_resource(self, context: dg.InitResourceContext) -> Platform:  # type: ignore[override]  # assets get the ports, not the wrapper
        return _kept.platform(Settings.from_environment())


class _Kept(threading.local):
    """A platform for each thread: a sensor's tick every second must not connect anew, and connections are not for two threads."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    def platform(self, settings: Settings) -> Platform:
        if settings != self._settings:
            self._settings, self._platform = settings, local_platform(settings)
        return self._platform


_kept = _Kept()
