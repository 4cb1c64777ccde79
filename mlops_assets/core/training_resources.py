"""What a training may use where it runs in a pod of its own."""

from dataclasses import dataclass
from typing import Any

from mlops_assets.core.spec_checks import require, require_cpu, require_memory

K8S_TAG = "dagster-k8s/config"
"""Dagster's tag of an op, which dagster-k8s makes its pod by and everybody else ignores."""


@dataclass(frozen=True)
class Resources:
    """What the training step gets on Kubernetes, in a pod of its own. On one machine it is ignored.

    Args:
        cpu: what it asks for, as Kubernetes writes it (``2``, ``500m``). It may use more where nobody else wants it.
        memory: what it asks for, and where it ends (``4Gi``).
        gpu: how many, of the kind ``gpu_kind``.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    gpu: int = 0
    gpu_kind: str = "nvidia.com/gpu"

    def __post_init__(self) -> None:
        require_cpu("training.resources.cpu", self.cpu)
        require_memory("training.resources.memory", self.memory)
        require(self.gpu >= 0, f"training.resources.gpu: got {self.gpu}, expected a number of them, or 0")
        require("/" in self.gpu_kind, f"training.resources.gpu_kind: got {self.gpu_kind!r}, expected such as 'nvidia.com/gpu'")


def op_tags(resources: Resources | None) -> dict[str, Any]:
    """The tags of the op that trains; none where nothing is declared, and then it needs no pod of its own.

    >>> op_tags(Resources("2", "4Gi"))["dagster-k8s/config"]["container_config"]["resources"]
    {'requests': {'cpu': '2', 'memory': '4Gi'}, 'limits': {'memory': '4Gi'}}
    """
    if resources is None:
        return {}
    limits: dict[str, str] = {"memory": resources.memory} | ({resources.gpu_kind: str(resources.gpu)} if resources.gpu else {})
    wanted = {"requests": {"cpu": resources.cpu, "memory": resources.memory}, "limits": limits}
    return {K8S_TAG: {"container_config": {"resources": wanted}}}
