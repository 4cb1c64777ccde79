"""What the platform asks of other systems, as Protocols. :mod:`mlops_assets.adapters` holds one module a system, and
``adapters.memory`` the in-memory twin of every port.

Adapters raise :class:`Unavailable` when their system does not answer, and otherwise the errors named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a rollback waits neither for pandas nor for what it needs nothing of
    import numpy as np
    import pandas as pd

    from mlops_assets.core.alert import Alert, Firing
    from mlops_assets.core.evidence import GatewaySample
    from mlops_assets.core.feature_spec import Features
    from mlops_assets.core.feature_views import FeatureVersion, View
    from mlops_assets.core.policy import Policy
    from mlops_assets.core.routing import Route
    from mlops_assets.core.serving_spec import Serving

Clock = Callable[[], datetime]
"""The present time, with its zone. Production passes the wall clock, a test one that it moves."""


class PolicyStore(Protocol):
    """The policy documents. A write is a compare-and-swap."""

    def read(self, model: str) -> Policy:
        """The policy of ``model``; one of generation 0 if none was written yet."""
        ...

    def write(self, policy: Policy, expected_generation: int) -> None:
        """Write ``policy`` if the stored one is still of ``expected_generation``, else raise :class:`StalePolicy`."""
        ...

    def models(self) -> tuple[str, ...]:
        """The models that have a policy, sorted."""
        ...


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    etag: str
    modified: datetime
    size: int


class ObjectStore(Protocol):
    """Bytes by key, as S3 keeps them. Keys begin with the bucket: ``landing/...``, ``models/...``."""

    def get(self, key: str) -> bytes:
        """The object's bytes; :class:`NotFound` if there is none."""
        ...

    def put(self, key: str, data: bytes) -> None: ...

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist. The same bytes again are fine, other bytes raise :class:`AlreadyExists`."""
        ...

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        """The objects under ``prefix`` in the order of their keys, from the first key greater than ``after``."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        ...


@dataclass(frozen=True)
class TrainingRun:
    """What is logged of one training."""

    model: str
    training_set: str
    hyperparameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class ReleaseInfo:
    """What a release is, as the registry has it. ``uri`` is the key of its immutable ONNX file in the object store."""

    model: str
    release: str
    run_id: str
    digest: str
    uri: str
    tags: Mapping[str, str]


def model_key(model: str, release: str) -> str:
    """Where a release's ONNX file lies in the object store, never to be overwritten.

    >>> model_key("fraud-detector", "v12")
    'models/fraud-detector/v12/model.onnx'
    """
    return f"models/{model}/{release}/model.onnx"


class Registry(Protocol):
    """MLflow's part: training runs, versions, and what people see of their stages."""

    def log_run(self, run: TrainingRun, artifacts: Mapping[str, bytes]) -> str:
        """Log a training run with its artifacts (file name to bytes); returns the run's id.

        A run with the same model and tag ``training_key`` that was logged before is returned, not doubled.
        """
        ...

    def register(self, model: str, run_id: str, digest: str, tags: Mapping[str, str]) -> ReleaseInfo:
        """Make a version for this training run and digest; the version that was made for them before is returned, not doubled."""
        ...

    def release(self, model: str, release: str) -> ReleaseInfo:
        """Read one version; :class:`NotFound` if there is none."""
        ...

    def annotate(self, model: str, release: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        ...

    def set_aliases(self, model: str, aliases: Mapping[str, str | None]) -> None:
        """Point each alias (``champion``) to its release, or remove it where the release is ``None``."""
        ...

    def aliases(self, model: str) -> Mapping[str, str]:
        """The aliases of the model and the releases they point to."""
        ...


class FeatureStore(Protocol):
    """Feast's part: the values of a feature service as of a time."""

    def write(self, view: View, day: date, rows: pd.DataFrame, written_at: datetime, transform: str = "") -> None:
        """Keep all that is known of one day of a view. Rows carry ``view.columns``, or at least the entity and the two timestamps.

        The first rows of a day count from their own timestamps on. When it is written again, no answer about a time before ``written_at``
        changes: what is new or otherwise counts from then on, a row that is gone is null from then on, and equal rows write nothing.
        Only rows that another ``transform`` computed (a hash of its code) are replaced: they are no history of these.
        One day is written by one run at a time; of two that do so at once, one may be as if it had not.
        """
        ...

    def as_of(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        """The feature values of each entity row at its ``event_timestamp``, in the order and number of the rows given.

        Nothing that became known later is seen. Values are null where nothing was known.
        """
        ...

    def newest(self, features: Features, until: datetime, entities: Mapping[str, str] | None = None) -> Mapping[str, datetime | None]:
        """Of each view behind the service, since when its newest value has been valid that is known by ``until``; ``None`` without any.

        With ``entities`` it is the newest value of that entity alone, by the entity's name; a view whose entity is not named has none.
        """
        ...

    def materialize(self, features: Features, until: datetime) -> int:
        """Bring the online store to the values as of ``until``; returns the number of entity rows written.

        All views of the feature module are: a champion may still need one that the service of its challenger does not take.
        """
        ...

    def online(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        """The values that the online store holds for these entities now, in their order."""
        ...

    def version(self, features: Features) -> FeatureVersion:
        """The definitions behind the feature service: its hash changes when one of them does."""
        ...


@dataclass(frozen=True)
class Deployment:
    """A release that runs. ``endpoint`` is ``host:port``, with a path where several share one: ``host:port/flight-delay.v12``."""

    model: str
    release: str
    endpoint: str
    ready: bool


class Deployments(Protocol):
    """Where releases run: each in a process or Deployment of its own."""

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        """Run this release; harmless if it runs. ``serving`` None keeps what it was started with, or the defaults."""
        ...

    def stop(self, model: str, release: str) -> None:
        """Drain and end this release; harmless if it does not run."""
        ...

    def running(self, model: str) -> Sequence[Deployment]:
        """What runs of this model, ready or not."""
        ...

    def predict(self, deployment: Deployment, rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        """The scores that this very release answers to rows of inputs, outside of production traffic; used by the smoke test."""
        ...

    def wait_ready(self, model: str, release: str, within: float) -> Deployment:
        """Wait until the release is ready, for ``within`` seconds; else raise :class:`NotReady` with the end of its log."""
        ...


class Gateway(Protocol):
    """Where traffic is split. Envoy, one or many.

    ``follows_policies`` says that gateways read the policies themselves: a change of a policy is in force without whoever made it, as long
    as the releases that it names run.
    """

    @property
    def follows_policies(self) -> bool: ...

    def apply(self, route: Route) -> None:
        """Make every gateway follow this route and return when each reports it. An older generation than the one in force is ignored."""
        ...

    def applied(self, model: str) -> Mapping[str, int]:
        """The generation of the model's policy that each gateway follows, by gateway; -1 for one that knows no route."""
        ...

    def sample(self, model: str) -> Sequence[GatewaySample]:
        """What each gateway has counted of the model's releases."""
        ...


@dataclass(frozen=True)
class Predictions:
    """Logged answers and the position up to which the log was read."""

    rows: pd.DataFrame
    position: str


class PredictionLog(Protocol):
    """What was served: one row an answer.

    Columns: ``request_id``, ``release``, ``role`` (``live`` or ``shadow``), ``unit``, ``score``, ``decision``, ``latency_ms``,
    ``logged_at``, ``event_time`` (UTC) and one per feature, prefixed ``feature__``.
    """

    def read(self, model: str, after: str = "", columns: Sequence[str] | None = None, limit: int | None = None) -> Predictions:
        """The answers logged after ``after``, in the order of the log; once ``limit`` rows are reached, no more of them."""
        ...

    def position(self, model: str, at: datetime | None = None) -> str:
        """The present end of the log, or the position from which on everything is read that was logged since ``at``."""
        ...

    def newest(self, model: str, since: datetime) -> datetime | None:
        """When the newest answers came into the log; None if there are none since ``since``."""
        ...

    def find(self, model: str, request_id: str, since: datetime) -> pd.DataFrame:
        """The answers to a request that were logged since a time: one row for each release and role, of the newest time it was asked."""
        ...


class Pager(Protocol):
    """The way to a person. Alertmanager groups, inhibits and routes; the same alert again is not told again."""

    def fire(self, alerts: Sequence[Alert], until: datetime) -> None:
        """These are going on. One that is not told of again is over at ``until``."""
        ...

    def resolve(self, alerts: Sequence[Alert]) -> None:
        """These are over."""
        ...

    def firing(self, model: str) -> Sequence[Firing]:
        """What is going on with a model, whoever told of it."""
        ...


class NoPager:
    """The :class:`Pager` where none is configured: nobody is told, and nothing is known."""

    def fire(self, alerts: Sequence[Alert], until: datetime) -> None:
        """Tell nobody."""

    def resolve(self, alerts: Sequence[Alert]) -> None:
        """Tell nobody."""

    def firing(self, model: str) -> Sequence[Firing]:
        return ()


class Estimator(Protocol):
    """A fitted binary classifier in scikit-learn's manner. ``predict_proba`` returns an array of shape (rows, 2)."""

    def predict_proba(self, features: Any) -> np.ndarray: ...


class Trainer(Protocol):
    """The user's training code.

    Args:
        features: float32 of shape (rows, features), columns as in ``features.inputs``; missing values are NaN.
        label: int of shape (rows,), 0 or 1.
        seed: to be used wherever chance is.
        hyperparameters: those of ``defs.yaml``.

    Returns a fitted classifier that :mod:`mlops_assets.adapters.onnx_export` can export.
    """

    def __call__(self, features: pd.DataFrame, label: np.ndarray, *, seed: int, **hyperparameters: Any) -> Estimator: ...


@dataclass(frozen=True)
class Platform:
    """All ports together: what an asset, a sensor or a command gets to work with.

    ``pace`` is how many seconds of a model's declared waiting (bake, deadline, cooldown) pass in one second of the clock: 1 in
    production, more in the demo. ``pii_key`` is what fields that are marked ``pii: hash`` are logged with.
    """

    clock: Clock
    objects: ObjectStore
    policies: PolicyStore
    registry: Registry
    features: FeatureStore
    deployments: Deployments
    gateway: Gateway
    predictions: PredictionLog
    pace: float = 1.0
    pager: Pager = field(default_factory=NoPager)
    pii_key: str = field(default="", repr=False)
