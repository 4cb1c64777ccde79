"""What a request may leave out: inputs that the server looks up by the entities that the request names, or computes from what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from mlops_assets.adapters.expressions import Expression
from mlops_assets.core.errors import BadData
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.feature_views import View
from mlops_assets.core.on_demand import RequestField
from mlops_assets.core.signature import Signature
from serving.errors import BadRequest

EXPECTED = {"float": "a number that float32 can hold, or null", "string": "a string or null", "timestamp": "a time with its zone, or null"}
"""What a request may say in a request field, by its type."""


@dataclass(frozen=True)
class ComputedInput:
    """The place of an input, and what computes it."""

    place: int
    expression: Expression


@dataclass(frozen=True)
class Row:
    """A row as far as it is known: ``UNSET`` where an input must be looked up, ``None`` where an entity is not known."""

    values: tuple[Any, ...]
    entities: tuple[str | None, ...]
    request: tuple[Any, ...]


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model, and where each may come from.

    Args:
        features: the inputs, in the model's order.
        views: what the online store has; an input that is a field of theirs may be left out.
        entities: what the views are looked up by. An input that is one itself may be left out where the entity is named.
        request: what a request may say beside the inputs.
        computed: the inputs that are computed from it where they are left out.
    """

    features: tuple[Feature, ...]
    views: tuple[View, ...] = ()
    entities: tuple[str, ...] = ()
    request: tuple[RequestField, ...] = ()
    computed: tuple[ComputedInput, ...] = ()

    @classmethod
    def of(cls, signature: Signature) -> Inputs:
        places = {feature.name: place for place, feature in enumerate(signature.inputs)}
        version = signature.features
        views = tuple(view for view in (version.views if version else ()) if places.keys() & {f.name for f in view.fields})
        on_demand = version.on_demand if version else ()
        computed = tuple(
            ComputedInput(places[field.name], Expression(field.expression))
            for view in on_demand
            for field in view.fields
            if field.name in places
        )
        named = {name for each in computed for name in each.expression.names}
        said = dict.fromkeys(field for view in on_demand for field in view.request if field.name in named - places.keys())
        return cls(signature.inputs, views, tuple(dict.fromkeys(view.entity for view in views)), tuple(said), computed)

    @property
    def are_all_sent(self) -> bool:
        """Whether a request must say every input itself."""
        return not self.entities and not self.computed

    @property
    def optional(self) -> frozenset[str]:
        """The names of those that may be left out."""
        joined = {field.name for view in self.views for field in view.fields}
        own = {feature.name for feature in self.features if feature.categories and feature.name in self.entities}
        computed = {self.features[each.place].name for each in self.computed}
        return frozenset(joined & {feature.name for feature in self.features}) | own | computed

    def resolve(self, values: Sequence[Any], told: Mapping[str, str | None], request: Sequence[Any], path: str) -> Row:
        """The inputs and the entities of a row, each taken from the other where it was left out, and what can be computed by now.

        Args:
            values: the row's inputs, ``UNSET`` where one was left out.
            told: its entities by name.
            request: its request fields, ``UNSET`` where one was left out.
            path: of the row, for the error.

        Raises:
            BadRequest: if an entity is missing by which an input must be looked up, or a request field by which it must be computed.
        """
        given = {feature.name: value for feature, value in zip(self.features, values, strict=True)}
        own = [feature.name for feature in self.features if feature.categories]
        found = {name: told.get(name, given.get(name, UNSET) if name in own else UNSET) for name in self.entities}
        for name in own:
            if given[name] is UNSET and found.get(name, UNSET) is not UNSET:
                given[name] = found[name]
        for view in self.views:
            needed = [field.name for field in view.fields if given.get(field.name) is UNSET]
            if needed and found[view.entity] is UNSET:
                expected = "a string, or null if it is not known"
                mend = f"name the {view.entity}, or send inputs.{needed[0]} and all else that depends on it"
                raise BadRequest(f"{path}entities.{view.entity}", "nothing", expected, mend)
        for name, value in given.items():
            if value is UNSET and name in own and name in self.entities:
                raise BadRequest(f"{path}inputs.{name}", "nothing", "a string or null", f"send it here or as entities.{name}")
        entities = tuple(None if value is UNSET else value for value in found.values())
        return Row(self.compute(tuple(given.values()), request, path), entities, tuple(request))

    def compute(self, values: Sequence[Any], request: Sequence[Any], path: str) -> tuple[Any, ...]:
        """The inputs, with those computed of which all is known that their expressions name.

        Raises:
            BadRequest: if a request field is missing, or an expression does not come to a value.
        """
        if not self.computed:
            return tuple(values)
        filled = list(values)
        known = {feature.name: value for feature, value in zip(self.features, values, strict=True)}
        known |= {field.name: value for field, value in zip(self.request, request, strict=True)}
        for each in self.computed:
            if filled[each.place] is not UNSET:
                continue
            sources = [known[name] for name in each.expression.names]
            if UNSET in sources:
                self._require_said(each, known, path)
                continue
            try:
                filled[each.place] = self._computed(each, known)
            except BadData as error:
                name = self.features[each.place].name
                raise BadRequest(
                    f"{path}inputs.{name}", str(error), "what can be computed", f"correct it, or send inputs.{name}"
                ) from error
        return tuple(filled)

    def _computed(self, each: ComputedInput, known: Mapping[str, Any]) -> float | str | None:
        value, feature = each.expression(known), self.features[each.place]
        if value is not None and isinstance(value, str) != bool(feature.categories):
            raise BadData(f"{each.expression.text!r} is {value!r}, where {'a string' if feature.categories else 'a number'} is needed")
        return value

    def _require_said(self, computed: ComputedInput, known: Mapping[str, Any], path: str) -> None:
        for field in self.request:
            if field.name in computed.expression.names and known[field.name] is UNSET:
                mend = f"send it, or inputs.{self.features[computed.place].name} itself"
                raise BadRequest(f"{path}inputs.{field.name}", "nothing", EXPECTED[field.type], mend)
