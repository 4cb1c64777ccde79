"""An executor for Kubernetes: the steps of a run that asks for resources get pods of their own, any other run is one pod."""

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.init import InitExecutorContext
from dagster_k8s import k8s_job_executor

from mlops_assets.core.training_resources import K8S_TAG


@dg.executor(name="own_pods", config_schema=k8s_job_executor.config_schema, requirements=multiple_process_executor_requirements())
def own_pods(context: InitExecutorContext) -> Executor:
    """``k8s_job_executor`` for a run with a step that asks for resources, else the process of the run. Configured as the former."""
    if asks_for_a_pod(context.job.get_definition()):
        create = k8s_job_executor.executor_creation_fn
        assert create is not None
        return create(context)
    return InProcessExecutor(retries=RetryMode.from_config(context.executor_config["retries"]))  # type: ignore[arg-type]


def asks_for_a_pod(job: dg.JobDefinition) -> bool:
    """Whether a step of the job, as it was selected, has a tag for Kubernetes."""
    return any(K8S_TAG in node.definition.tags for node in job.nodes)
