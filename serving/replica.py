"""One process that serves one release: it loads the model, answers, and logs what it answered."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET

from mlops_assets.adapters.online_layout import read_version
from mlops_assets.adapters.prediction_log import ENTITY_PREFIX, REQUEST_PREFIX, Answer, LoggedInput
from mlops_assets.core.errors import BadData, DigestMismatch, MlopsError, NotReady, SpecError
from mlops_assets.core.feature_views import View
from mlops_assets.core.serving_spec import leaving_file
from mlops_assets.core.signature import Signature
from mlops_assets.ports import ObjectStore
from serving import model_file, oip, openapi, runtime
from serving.configuration import Configuration
from serving.errors import BadRequest
from serving.exchange import EXCHANGES, InferExchange, PredictExchange
from serving.group_commit import GroupCommit
from serving.inputs import Inputs
from serving.metrics import Metrics, Role
from serving.online_features import OnlineFeatures, OnlineStore
from serving.pace import measure
from serving.pii import Concealment
from serving.prediction_log import PredictionLog
from serving.protocol import PredictRequest, Question
from serving.runtime import Runtime
from serving.scoring import ScoringQueue

RETRY_SECONDS = (0.5, 15.0)
"""The first wait when the model cannot be had yet, and the longest."""

PUBLISH_SECONDS = 0.25
"""How often a worker shows what it has to do: on the way of a request it would be a cost, and nobody scrapes more often."""

_log = logging.getLogger(__name__)

Answers = Callable[[PredictRequest, Role, Sequence[float], Sequence[bool], float], list[Answer]]
"""The answers to a request, which took so many seconds, as they are logged."""


@dataclass(frozen=True)
class Loaded:
    """A verified and warmed model, and all that is made of its signature once."""

    runtime: Runtime
    queue: ScoringQueue
    exchanges: Mapping[str, PredictExchange | InferExchange]
    online: OnlineFeatures | None
    threshold: float
    metadata: bytes
    openapi: bytes
    page: bytes
    log: PredictionLog
    commits: GroupCommit
    answers: Answers
    concealment: Concealment | None


class Replica:
    """A release in service, or on its way there.

    A model that cannot be loaded does not end the process: ``/ready`` tells why, where whoever waits for it looks anyway. An exit would be
    turned into a loop of restarts by any process manager, with the reason in the log of one of them. What time can mend (the object
    store is down, the object is not there yet) is tried again; a wrong digest or model is not.
    """

    def __init__(self, configuration: Configuration, objects: ObjectStore, metrics: Metrics) -> None:
        self.configuration = configuration
        self.metrics = metrics
        self._objects = objects
        self._loaded: Loaded | None = None
        self._reason = "the model is being loaded"
        self._leaving = configuration.home / leaving_file(configuration.model, configuration.release)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        self._publisher = threading.Thread(target=self._publish, name="publish-load", daemon=True)

    @property
    def is_leaving(self) -> bool:
        """Whether whoever runs it is about to end it: it answers, but is not ready, so that gateways ask others before it is gone."""
        return self._leaving.exists()

    def start(self) -> None:
        """Begin to load the model; harmless if that was done."""
        if self._thread.ident is None:
            self._leaving.unlink(missing_ok=True)  # of the container before this one
            self._thread.start()
            self._publisher.start()

    def wait_loaded(self, within: float | None = None) -> None:
        """Wait until the model is loaded, or never will be, for at most ``within`` seconds."""
        self._thread.join(within)

    def stop(self, within: float = 5.0) -> None:
        """Write and ship what was answered, for at most ``within`` seconds."""
        deadline = time.monotonic() + within
        self._stop.set()
        self._thread.join(within)
        if self._loaded is not None:
            self._loaded.log.close(deadline - time.monotonic())

    def require_ready(self) -> Loaded:
        """What answers; :class:`NotReady` with the reason if there is nothing yet."""
        if self._loaded is None:
            raise NotReady(f"{self.configuration.model} {self.configuration.release}: {self._reason}")
        return self._loaded

    def _publish(self) -> None:
        while not self._stop.wait(PUBLISH_SECONDS):
            self.metrics.load.publish(self._loaded.queue.rows if self._loaded is not None else 0)

    def told(self, error: BadRequest) -> BadRequest:
        """What a caller is told is wrong: not the value of a field that the model marks ``pii``, since errors are kept in many places."""
        return error if self._loaded is None or self._loaded.concealment is None else self._loaded.concealment.refusal(error)

    def log_failure(self, error: Exception) -> None:
        """Log a request that failed. Of a model with marked fields without what the error says, in which a value may stand."""
        if self._loaded is None or self._loaded.concealment is None:
            _log.error("a request failed", exc_info=error)
        else:
            _log.error("a request failed: %s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))

    def _load(self) -> None:
        began, delay = time.monotonic(), RETRY_SECONDS[0]
        while not self._stop.is_set():
            try:
                self._loaded = self._try_load()
            except (DigestMismatch, BadData, SpecError) as error:
                self._reason = str(error)
                _log.error("not ready, for good: %s", error)
                return
            except (MlopsError, OSError) as error:
                self._reason = str(error)
                _log.warning("not ready, trying again in %.1f s: %s", delay, error)
                self._stop.wait(delay)
                delay = min(2 * delay, RETRY_SECONDS[1])
            else:
                self.metrics.workers.loaded()
                _log.info("%s %s is ready after %.1f s", self.configuration.model, self.configuration.release, time.monotonic() - began)
                return

    def _try_load(self) -> Loaded:
        told = self.configuration
        data = model_file.fetch(self._objects, told.home, told.model, told.release, told.digest, told.model_folder)
        model = runtime.load(data, told.digest, told.threads)
        signature = model.signature
        self._require_version(signature)
        if signature.model != told.model:
            raise BadData(
                f"model file: it is of the model {signature.model!r}, expected {told.model!r}: check what was registered as {told.release}"
            )
        pace = measure(model.raw_score, len(signature.inputs))
        _log.info("%s %s: %s", told.model, told.release, pace.reason)
        inputs = Inputs.of(signature)
        logged = tuple(LoggedInput(feature.name, bool(feature.categories)) for feature in signature.inputs)
        logged += tuple(LoggedInput(name, True, ENTITY_PREFIX) for name in inputs.entities)
        logged += tuple(LoggedInput(field.name, field.type != "float", REQUEST_PREFIX) for field in inputs.request)
        concealment = Concealment(signature, logged, told.pii_key) if signature.pii else None
        log = PredictionLog(
            *(told.home, told.model, told.release, concealment.logged if concealment else logged),
            *(self._objects, self.metrics.log, told.limits),
            durability=told.log_durability,
            on_full=told.on_log_full,
            features=self.metrics.describe(told.digest, signature),
        )
        log.start()
        return Loaded(
            runtime=model,
            queue=ScoringQueue(model.score, pace, self.metrics.batch),
            exchanges={name: kind(signature, told.release) for name, kind in EXCHANGES.items()},
            online=self._online(signature, inputs),
            threshold=signature.decision_threshold,
            metadata=oip.metadata(signature, told.release),
            openapi=msgspec.json.encode(openapi.document(signature, told.release)),
            page=openapi.page(signature, told.release),
            log=log,
            commits=GroupCommit(log),
            answers=_concealing(concealment) if concealment else answers_of,
            concealment=concealment,
        )

    def _require_version(self, signature: Signature) -> None:
        """See that the online store holds what the release was trained on; harmless as long as it holds nothing.

        Raises:
            NotReady: with the fields that differ, or because it is not to be read what the store holds.
        """
        if signature.features is None:
            return
        try:
            found = read_version(self._objects, signature.features.service)
        except BadData as error:  # which is mended by others, and then the release is
            raise NotReady(str(error)) from error
        # what is computed from the request, the release brings itself
        differences = signature.features.differences(replace(found, on_demand=signature.features.on_demand)) if found else ()
        if differences:
            raise NotReady(
                f"the features of {signature.features.service} are not those of the release: {'; '.join(differences)}. Give changed "
                "features a service of their own, or promote a release that was trained on them"
            )

    def _online(self, signature: Signature, inputs: Inputs) -> OnlineFeatures | None:
        told = self.configuration
        if not inputs.entities or not told.online_url:
            return None
        store = online_store(told.online_url, inputs.views, told.online_timeout)
        return OnlineFeatures(inputs, signature.online, store, told.online_timeout, told.on_online_down, self.metrics.online)


def online_store(url: str, views: Sequence[View], timeout: float) -> OnlineStore:
    """The store at an address, as :class:`mlops_assets.adapters.feast_online.OnlineStore` fills it."""
    if url.startswith("sqlite:"):
        from serving.sqlite_store import SqliteStore

        return SqliteStore(Path(unquote(urlsplit(url).path)), views, timeout)
    from serving.redis_store import RedisStore

    return RedisStore(url, views)


def answers_of(request: PredictRequest, role: Role, scores: Sequence[float], decisions: Sequence[bool], seconds: float) -> list[Answer]:
    """The answers to a request, which took ``seconds``, as they are logged."""
    now, took = datetime.now(UTC), 1000 * seconds
    return [
        Answer(
            *(question.request_id, question.unit, role, score, decision, took, now, question.event_time or now),
            features=_logged(question),
        )
        for question, score, decision in zip(request.questions, scores, decisions, strict=True)
    ]


def _logged(question: Question) -> tuple[Any, ...]:
    """The inputs of a row, its entities, and what else it said."""
    if not question.request:
        return (*question.values, *question.entities) if question.entities else question.values
    said = (None if value is UNSET else value.isoformat() if isinstance(value, datetime) else value for value in question.request)
    return (*question.values, *question.entities, *said)


def _concealing(concealment: Concealment) -> Answers:
    return lambda *said: concealment.of(answers_of(*said))
