"""What ``serving`` of a model's ``defs.yaml`` says."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

from mlops_assets.core.spec_checks import require, require_cpu, require_memory

LogDurability = Literal["write", "fdatasync"]
OnLogFull = Literal["refuse", "count"]
OnOnlineDown = Literal["fill", "refuse"]

GATEWAY_TIMEOUT = timedelta(seconds=10)
"""How long a gateway waits for an answer, of whichever model: what a release never answers is counted as its error then."""


def leaving_file(model: str, release: str) -> str:
    """The file in a release's home for as long as which it is not ready, and answers all the same: it is about to be ended.

    >>> leaving_file("fraud-detector", "v12")
    'fraud-detector.v12.leaving'
    """
    return f"{model}.{release}.leaving"


@dataclass(frozen=True)
class Pods:
    """Where releases run on Kubernetes or Ray: how many pods (replicas) each has, and what one of them may use. One machine's processes
    ignore it.

    ``cpu`` and ``memory`` are what a pod asks for and ``memory_limit`` is where it ends; a pod may use what CPU nobody else wants, unless
    ``cpu_limit`` says otherwise. There are ``replicas`` pods, and up to ``max_replicas`` while they use more than ``cpu_percent`` of what
    CPU they ask for, or answer more than ``in_flight`` requests at once each (where the cluster offers that number). Ray heeds replicas,
    ``cpu``, ``memory`` and ``in_flight``.
    """

    replicas: int = 3
    max_replicas: int = 6
    cpu: str = "250m"
    cpu_limit: str | None = None
    memory: str = "256Mi"
    memory_limit: str = "512Mi"
    cpu_percent: int = 70
    in_flight: int = 20

    def __post_init__(self) -> None:
        require(self.replicas >= 1, f"serving.pods.replicas: got {self.replicas}, expected at least 1")
        require(
            self.max_replicas >= self.replicas,
            f"serving.pods.max_replicas: got {self.max_replicas}, expected at least the {self.replicas} of replicas",
        )
        require(1 <= self.cpu_percent <= 100, f"serving.pods.cpu_percent: got {self.cpu_percent}, expected 1 to 100")
        require(self.in_flight >= 1, f"serving.pods.in_flight: got {self.in_flight}, expected at least 1")
        require_cpu("serving.pods.cpu", self.cpu)
        if self.cpu_limit is not None:
            require_cpu("serving.pods.cpu_limit", self.cpu_limit)
        require_memory("serving.pods.memory", self.memory)
        require_memory("serving.pods.memory_limit", self.memory_limit)


@dataclass(frozen=True)
class Serving:
    """What a release of the model may use, and what it does for the record of its answers.

    ``workers`` processes share its port, one for each core that it may use; ``threads`` is for one prediction of one of them. ``timeout``
    is the deadline of a request that names none itself.

    An answer leaves after it was logged. ``log_durability`` says where it is by then: ``write`` with the kernel, so that it survives the
    process, or ``fdatasync`` on the disk, so that it survives the machine. ``on_log_full`` says what happens to answers that cannot be
    logged: they are given and counted as lost (``count``), or not given, and the release is not ready (``refuse``). Counting is the
    default, since all releases of a machine share its disk and the object store: refusing would end all predictions at once.

    Features that a request leaves out are looked up in the online store, for ``online_timeout`` at most. ``on_online_down`` says what
    happens when it does not answer: its values count as missing (``fill``), or the request is refused.

    ``pods`` counts on Kubernetes and Ray alone.
    """

    threads: int = 1
    workers: int = 1
    timeout: timedelta = timedelta(seconds=5)
    ready_within: timedelta = timedelta(seconds=60)
    log_durability: LogDurability = "write"
    on_log_full: OnLogFull = "count"
    online_timeout: timedelta = timedelta(milliseconds=50)
    on_online_down: OnOnlineDown = "fill"
    pods: Pods = field(default_factory=Pods)

    def __post_init__(self) -> None:
        require(
            timedelta(0) < self.timeout < GATEWAY_TIMEOUT,
            f"serving.timeout: got {self.timeout.total_seconds():g} s, expected more than 0 and less than the "
            f"{GATEWAY_TIMEOUT.total_seconds():g} s that the gateway waits, e.g. '5s'",
        )
        require(
            timedelta(0) < self.online_timeout < self.timeout,
            f"serving.online_timeout: got {self.online_timeout.total_seconds():g} s, expected more than 0 and less than serving.timeout, "
            "e.g. '50ms'",
        )
        for name in ("threads", "workers"):
            require(getattr(self, name) >= 1, f"serving.{name}: got {getattr(self, name)}, expected at least 1")
        for name, got, known in (
            ("log_durability", self.log_durability, get_args(LogDurability)),
            ("on_log_full", self.on_log_full, get_args(OnLogFull)),
            ("on_online_down", self.on_online_down, get_args(OnOnlineDown)),
        ):
            require(got in known, f"serving.{name}: got {got!r}, expected {' or '.join(known)}: correct it")
