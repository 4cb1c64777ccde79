"""A code location with flight-delay alone, asking for so little of a node that Dagster, MLflow and two releases fit on one with two cores.

``test_kubernetes_platform`` puts this file into the code server's pod, and into those of its runs.
"""

from dataclasses import replace

import dagster as dg

from mlops_assets.components.model import model_definitions
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.serving_spec import Pods
from mlops_assets.core.training_resources import Resources
from mlops_assets.definitions import load_specs, shared_definitions


def small_spec() -> ModelSpec:
    """flight-delay as it is declared, but for what it asks of Kubernetes, and for how slow it may be where all of this shares two cores."""
    spec = next(spec for spec in load_specs() if spec.name == "flight-delay")
    pods = Pods(cpu="25m", memory="112Mi", memory_limit="384Mi", max_replicas=3)
    return replace(
        spec,
        serving=replace(spec.serving, pods=pods, ready_within=spec.serving.ready_within * 4),
        slo=replace(spec.slo, latency=spec.serving.timeout),
        training=replace(spec.training, resources=Resources(cpu="100m", memory="1Gi")),
    )


@dg.definitions
def defs() -> dg.Definitions:
    specs = [small_spec()]
    return dg.Definitions.merge(*(model_definitions(spec) for spec in specs), shared_definitions(specs))
