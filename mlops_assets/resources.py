"""How a deployment of this code gets its adapters. Local, demo, test and production differ here and nowhere else."""

import dagster as dg

from mlops_assets.adapters.local import local_platform
from mlops_assets.ports import Platform


class LocalPlatform(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The stack on this machine; ports and folder come from the environment (see :class:`Settings`)."""

    def create_resource(self, context: dg.InitResourceContext) -> Platform:  # type: ignore[override]  # assets get the ports, not the wrapper
        return local_platform()
