"""Where the steps of a run are executed: in the run's own process, or, on Kubernetes, those that ask for resources in pods of their own."""

import os

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.executor.base import Executor
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.retries import RetryMode
from dagster_k8s import k8s_job_executor

from mlops_assets.core.errors import MlopsError
from mlops_assets.core.training_resources import K8S_TAG

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
    return own_pods if said else dg.in_process_executor


@dg.executor(name="own_pods", config_schema=k8s_job_executor.config_schema, requirements=multiple_process_executor_requirements())
def own_pods(context: InitExecutorContext) -> Executor:
    """``k8s_job_executor`` for a run with a step that asks for resources; any other run is one pod."""
    if asks_for_a_pod(context.job.get_definition()):
        create = k8s_job_executor.executor_creation_fn
        assert create is not None
        return create(context)
    return InProcessExecutor(retries=RetryMode.from_config(context.executor_config["retries"]))  # type: ignore[arg-type]


def asks_for_a_pod(job: dg.JobDefinition) -> bool:
    """Whether a step of the job, as it was selected, has a tag for Kubernetes."""
    return any(K8S_TAG in node.definition.tags for node in job.nodes)
