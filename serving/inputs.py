"""What a request may leave out: inputs that the server looks up itself, by the entities that the request names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from mlops_assets.core.feature_views import View
from mlops_assets.core.model_spec import Feature
from mlops_assets.core.signature import Signature
from serving.errors import BadRequest


@dataclass(frozen=True)
class Inputs:
    """The inputs of a model, and where each may come from.

    Args:
        features: the inputs, in the model's order.
        views: what the online store has; an input that is a field of theirs may be left out.
        entities: what the views are looked up by. An input that is one itself may be left out where the entity is named.
    """

    features: tuple[Feature, ...]
    views: tuple[View, ...] = ()
    entities: tuple[str, ...] = ()

    @classmethod
    def of(cls, signature: Signature) -> Inputs:
        names = {feature.name for feature in signature.inputs}
        views = tuple(view for view in (signature.features.views if signature.features else ()) if names & {f.name for f in view.fields})
        return cls(signature.inputs, views, tuple(dict.fromkeys(view.entity for view in views)))

    @property
    def optional(self) -> frozenset[str]:
        """The names of those that may be left out."""
        joined = {field.name for view in self.views for field in view.fields}
        own = {feature.name for feature in self.features if feature.categories and feature.name in self.entities}
        return frozenset(joined & {feature.name for feature in self.features}) | own

    def resolve(self, values: Sequence[Any], told: Mapping[str, str | None], path: str) -> tuple[tuple[Any, ...], tuple[str | None, ...]]:
        """The inputs and the entities of a row, each taken from the other where it was left out.

        Args:
            values: the row's inputs, ``UNSET`` where one was left out.
            told: its entities by name.
            path: of the row, for the error.

        Returns:
            the inputs, ``UNSET`` where one must be looked up, and the entities, ``None`` where one is not known.

        Raises:
            BadRequest: if an entity is missing by which an input must be looked up.
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
        return tuple(given.values()), tuple(None if value is UNSET else value for value in found.values())
