"""Where the steps of a run are executed."""

import os

import dagster as dg

from mlops_assets.core.errors import MlopsError

VARIABLE = "MLOPS_EXECUTOR"
ON_KUBERNETES = "kubernetes"


def executor() -> dg.ExecutorDefinition:
    """What ``MLOPS_EXECUTOR`` says; by default every step is executed in the process of its run.

    Steps are small: a process for each would cost 4 s where the step takes a tenth of one, and a pod some 10 s.

    Raises:
        MlopsError: if it says something else than ``kubernetes``.
    """
    said = os.environ.get(VARIABLE)
    if said not in (None, "", ON_KUBERNETES):
        raise MlopsError(f"{VARIABLE}: got {said!r}, expected {ON_KUBERNETES!r}, or unset it")
    if not said:
        return dg.in_process_executor
    from mlops_assets.own_pods import own_pods  # Kubernetes' client is 50 MB that one machine does without

    return own_pods
