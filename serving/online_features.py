"""The inputs that a request left out, from the online store: read, checked against their time to live, or stood in for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
from msgspec import UNSET

from mlops_assets.adapters.online_layout import Held, Value
from mlops_assets.core.errors import BadData, MlopsError, Unavailable
from mlops_assets.core.feature_spec import Online, OnlinePolicy
from mlops_assets.core.feature_views import View
from mlops_assets.core.serving_spec import OnOnlineDown
from serving.errors import BadRequest
from serving.inputs import Inputs
from serving.limits import Overloaded
from serving.metrics import OnlineMetrics
from serving.protocol import PredictRequest, Question, describe

ENTITIES_AT_ONCE = 500
"""More are read in several round trips, so that other requests get their turn between."""

PAUSE_SECONDS = 0.5
"""A store that failed is left alone for so long: to find it out again would cost every request its timeout."""

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""An entity: its kind and its value."""


class OnlineStore(Protocol):
    """Where the newest values are."""

    async def read(self, keys: Sequence[Key]) -> Sequence[Sequence[Held | None]]:
        """What each of these entities has in each view of its kind, in their order; :class:`Unavailable` if that cannot be told."""
        ...

    def give_up(self) -> None:
        """Forget the connection: what was asked last is not waited for any more."""
        ...


class FeaturesDown(MlopsError):
    """The inputs cannot be looked up as the model demands."""


class OnlineFeatures:
    """The way of one process to its online store, from the event loop's thread.

    Args:
        inputs: the model's.
        policy: what the model sees of a value that is missing or stale.
        store: has the values.
        timeout: how long a request waits for them, in seconds.
        on_down: whether a store that does not answer in time has its values count as missing, or the request refused.
        metrics: what was found.
    """

    def __init__(
        self, inputs: Inputs, policy: Online, store: OnlineStore, timeout: float, on_down: OnOnlineDown, metrics: OnlineMetrics
    ) -> None:
        self._inputs, self._store, self._timeout, self._on_down, self._metrics = inputs, store, timeout, on_down, metrics
        self._policies: Mapping[str, OnlinePolicy] = {"missing": policy.missing, "stale": policy.stale}
        self._defaults = [feature.default for feature in inputs.features]
        place_of = {feature.name: place for place, feature in enumerate(inputs.features)}
        entity_of = {name: place for place, name in enumerate(inputs.entities)}
        self._looked_up = [_LookedUp(view, entity_of[view.entity], place_of, inputs.views) for view in inputs.views]
        self._paused_until = 0.0

    async def complete(self, request: PredictRequest, deadline: float) -> PredictRequest:
        """The same request with every input.

        Args:
            deadline: on the clock of ``perf_counter``; what takes longer is not waited for either.

        Raises:
            BadRequest: if an entity is not known and the model refuses that.
            FeaturesDown: if values are stale, or the store does not answer, and the model refuses that.
            Overloaded: if the deadline came before the store had its time.
        """
        needs = [[view for view in self._looked_up if view.is_open(question)] for question in request.questions]
        keys = dict.fromkeys(view.key(question) for question, views in zip(request.questions, needs, strict=True) for view in views)
        found = await self._read([key for key in keys if key is not None], deadline)
        many = len(request.questions) > 1 or request.many
        questions = [
            self._filled(question, views, found, f"rows[{place}]." if many else "") if views else question
            for place, (question, views) in enumerate(zip(request.questions, needs, strict=True))
        ]
        return PredictRequest(tuple(questions), request.many)

    async def _read(self, keys: Sequence[Key], deadline: float) -> Mapping[Key, Sequence[Held | None]] | None:
        """What the store has; None if it does not answer and that is to count as missing."""
        began = time.perf_counter()
        allowed = min(self._timeout, deadline - began)
        reason = "it failed a moment ago"
        if began >= self._paused_until:
            try:
                async with asyncio.timeout(allowed):
                    found = [
                        held
                        for start in range(0, len(keys), ENTITIES_AT_ONCE)
                        for held in await self._store.read(keys[start : start + ENTITIES_AT_ONCE])
                    ]
                self._metrics.seconds.observe(time.perf_counter() - began)
                return dict(zip(keys, found, strict=True))
            except TimeoutError as error:
                if allowed < self._timeout:  # that says nothing of the store, and must not cost the others their connection
                    raise Overloaded("the inputs were not looked up by the deadline") from error
                reason = f"no answer within {allowed:g} s"
            except (Unavailable, BadData) as error:
                reason = str(error)
            self._paused_until = time.perf_counter() + PAUSE_SECONDS
            self._store.give_up()
            _log.warning("online features: %s", reason)
        if self._on_down == "refuse" or self._policies["missing"] == "refuse":
            self._metrics.count("unavailable", 1)
            raise FeaturesDown(f"the online store does not answer ({reason}): try again later, or send every input")
        return None

    def _filled(
        self, question: Question, views: Sequence[_LookedUp], found: Mapping[Key, Sequence[Held | None]] | None, path: str
    ) -> Question:
        values = list(question.values)
        replayed = question.event_time.timestamp() if question.event_time else None
        for view in views:
            key = view.key(question)
            held = found[key][view.number] if found is not None and key is not None else None
            state = "unavailable" if found is None else view.state(held, replayed)
            self._metrics.count(state, 1)
            if state == "fresh" and held is not None:
                view.fill(values, held.values)
            else:
                self._stand_in(values, view, question, "stale" if state == "stale" else "missing", path)
        return msgspec.structs.replace(question, values=self._inputs.compute(values, question.request, path))

    def _stand_in(self, values: list[Any], view: _LookedUp, question: Question, state: Literal["missing", "stale"], path: str) -> None:
        policy = self._policies[state]
        if policy == "refuse":
            if state == "stale":
                raise FeaturesDown(f"{path}entities.{view.view.entity}: what {view.view.name} has of it is older than {view.view.ttl}")
            told = describe(question.entities[view.entity])
            known = f"one that {view.view.name} knows something about"
            raise BadRequest(f"{path}entities.{view.view.entity}", told, known, "correct it, or send the inputs that depend on it")
        for place, _ in view.places:
            if values[place] is UNSET:
                values[place] = self._defaults[place] if policy == "default" else None


class _LookedUp:
    """A view as it is looked up: by which entity, and which of its values are which inputs."""

    def __init__(self, view: View, entity: int, place_of: Mapping[str, int], views: Sequence[View]) -> None:
        self.view, self.entity = view, entity
        self.places = [(place_of[field.name], number) for number, field in enumerate(view.fields) if field.name in place_of]
        self.number = [other.name for other in views if other.entity == view.entity].index(view.name)
        self._ttl = view.ttl.total_seconds()

    def is_open(self, question: Question) -> bool:
        values = question.values
        return any(values[place] is UNSET for place, _ in self.places)

    def key(self, question: Question) -> Key | None:
        value = question.entities[self.entity]
        return None if value is None else (self.view.entity, value)

    def state(self, held: Held | None, replayed: float | None) -> Literal["fresh", "missing", "stale"]:
        """Whether a value stands now, or at the time that is replayed: of what came later nothing was known then."""
        if held is None or (replayed is not None and held.event_time > replayed):
            return "missing"
        return "stale" if held.event_time < (time.time() if replayed is None else replayed) - self._ttl else "fresh"

    def fill(self, values: list[Any], held: Sequence[Value]) -> None:
        for place, number in self.places:
            if values[place] is UNSET:
                values[place] = held[number]
