"""The in-memory twins of object store, policy store and registry: the same answers and the same errors, without a server.

Those of deployments, gateway and prediction log lie in modules beside this one, and are named here too.
"""

import hashlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice, takewhile

from mlops_assets.adapters.memory_deployments import MemoryDeployments, Predictor, SignedPredictor, onnx_predictors
from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.adapters.memory_log import MemoryPredictionLog
from mlops_assets.core.errors import AlreadyExists, BadData, NotFound, StalePolicy
from mlops_assets.core.policy import Policy
from mlops_assets.ports import Clock, ObjectInfo, ReleaseInfo, TrainingRun, model_key

__all__ = [
    "MemoryDeployments",
    "MemoryGateway",
    "MemoryObjectStore",
    "MemoryPolicyStore",
    "MemoryPredictionLog",
    "MemoryRegistry",
    "Predictor",
    "SignedPredictor",
    "onnx_predictors",
]


@dataclass(frozen=True)
class _Object:
    data: bytes
    modified: datetime
    etag: str


class MemoryObjectStore:
    """A :class:`mlops_assets.ports.ObjectStore` in a dictionary; several threads may use it at once."""

    def __init__(self, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []  # ascending
        self._clock = clock
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        found = self._objects.get(_checked(key))
        if found is None:
            raise NotFound(f"there is no object {key!r}: check the key, or write the object first")
        return found.data

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._write(key, data)

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            there = self._objects.get(key)
            if there is None:
                self._write(key, data)
        if there is not None and there.data != data:
            raise AlreadyExists(
                f"object {key!r} exists with {len(there.data)} other bytes, got {len(data)}: it is immutable, so write under a new key"
            )

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        _checked(prefix)
        with self._lock:
            first = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
            found = [(key, self._objects[key]) for key in takewhile(lambda key: key.startswith(prefix), islice(self._keys, first, None))]
        return [ObjectInfo(key, entry.etag, entry.modified, len(entry.data)) for key, entry in found]

    def delete(self, key: str) -> None:
        with self._lock:
            if self._objects.pop(_checked(key), None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def _write(self, key: str, data: bytes) -> None:
        if _checked(key) not in self._objects:
            insort(self._keys, key)
        self._objects[key] = _Object(bytes(data), self._clock(), hashlib.sha256(data).hexdigest())


def _checked(key: str) -> str:
    bucket, slash, _ = key.partition("/")
    if not bucket or not slash:
        raise BadData(f"key {key!r} has no bucket: expected '<bucket>/<path>', such as 'landing/flight-delay/'")
    return key


class MemoryPolicyStore:
    """A :class:`mlops_assets.ports.PolicyStore` in a dictionary; several threads may use it at once."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._lock = threading.Lock()

    def read(self, model: str) -> Policy:
        return self._policies.get(model, Policy(model))

    def write(self, policy: Policy, expected_generation: int) -> None:
        with self._lock:
            stored = self.read(policy.model).generation
            if stored != expected_generation:
                raise StalePolicy(
                    f"the policy of {policy.model} is of generation {stored}, expected {expected_generation}: read it again, decide again"
                )
            self._policies[policy.model] = policy

    def models(self) -> tuple[str, ...]:
        return tuple(sorted(self._policies))


@dataclass(frozen=True)
class LoggedRun:
    """A training run and its artifacts, as the registry keeps them."""

    run: TrainingRun
    artifacts: Mapping[str, bytes]


@dataclass
class _Model:
    releases: dict[str, ReleaseInfo] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


class MemoryRegistry:
    """A :class:`mlops_assets.ports.Registry` in dictionaries. ``runs`` holds what was logged, by run id."""

    def __init__(self) -> None:
        self.runs: dict[str, LoggedRun] = {}
        self._models: dict[str, _Model] = {}
        self._lock = threading.Lock()

    def log_run(self, run: TrainingRun, artifacts: Mapping[str, bytes]) -> str:
        key = run.tags.get("training_key")
        with self._lock:
            for run_id, logged in self.runs.items():
                if key is not None and logged.run.model == run.model and logged.run.tags.get("training_key") == key:
                    return run_id
            run_id = f"run-{len(self.runs) + 1}"
            self.runs[run_id] = LoggedRun(run, dict(artifacts))
        return run_id

    def register(self, model: str, run_id: str, digest: str, tags: Mapping[str, str]) -> ReleaseInfo:
        if run_id not in self.runs:
            raise NotFound(f"there is no training run {run_id!r} to register {model} from: log the run first")
        with self._lock:
            releases = self._models.setdefault(model, _Model()).releases
            for info in releases.values():
                if (info.run_id, info.digest) == (run_id, digest):
                    return info
            release = f"v{len(releases) + 1}"
            info = ReleaseInfo(model, release, run_id, digest, model_key(model, release), dict(tags))
            releases[release] = info
        return info

    def release(self, model: str, release: str) -> ReleaseInfo:
        found = self._models.get(model, _Model()).releases.get(release)
        if found is None:
            raise NotFound(f"{model} has no release {release!r} in the registry: check the name, releases are called v1, v2, ...")
        return found

    def annotate(self, model: str, release: str, tags: Mapping[str, str]) -> None:
        with self._lock:
            info = self.release(model, release)
            self._models[model].releases[release] = replace(info, tags={**info.tags, **tags})

    def set_aliases(self, model: str, aliases: Mapping[str, str | None]) -> None:
        with self._lock:
            for alias, release in aliases.items():
                if release is not None:
                    self.release(model, release)
                    self._models[model].aliases[alias] = release
                elif model in self._models:
                    self._models[model].aliases.pop(alias, None)

    def aliases(self, model: str) -> Mapping[str, str]:
        return dict(self._models.get(model, _Model()).aliases)
