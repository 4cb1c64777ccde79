"""What a feature view is, said once and without Feast: both feature stores, Feast's and the one in memory, are built from it.

A model's feature module (that of ``features.transform``) declares ``VIEWS`` and ``SERVICES`` in these classes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal

from mlops_assets.core.errors import NotFound, SpecError

FieldType = Literal["float", "string"]

EVENT_TIMESTAMP = "event_timestamp"
"""From when on a row's values are valid."""

CREATED_TIMESTAMP = "created_timestamp"
"""When a row was written. A row is never seen by a question asked before either of the two."""


@dataclass(frozen=True)
class Field:
    name: str
    type: FieldType = "float"


@dataclass(frozen=True)
class View:
    """Values of one entity that change with time.

    Args:
        name: of the view, a plain word.
        entity: the column that holds the entity, in the view's rows and in the events.
        fields: what the view knows about it.
        ttl: how long a value stands; older ones are as good as none.
    """

    name: str
    entity: str
    fields: tuple[Field, ...]
    ttl: timedelta

    def __post_init__(self) -> None:
        if self.ttl <= timedelta(0):
            raise SpecError(f"view {self.name!r}: got a ttl of {self.ttl}, expected how long a value stands, e.g. timedelta(hours=3)")
        reserved = {self.entity, EVENT_TIMESTAMP, CREATED_TIMESTAMP}
        clash = sorted(reserved & {field.name for field in self.fields})
        if clash:
            raise SpecError(f"view {self.name!r}: {', '.join(clash)} is the entity or a timestamp: name the field otherwise")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the view's rows, in order."""
        return (self.entity, EVENT_TIMESTAMP, CREATED_TIMESTAMP, *(field.name for field in self.fields))


@dataclass(frozen=True)
class FeatureService:
    """A named choice of fields, as ``view:field``."""

    name: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class FeatureDefinitions:
    """The views and services of one feature module. ``transform`` is the source of the code that computes the views."""

    views: tuple[View, ...]
    services: tuple[FeatureService, ...]
    transform: str

    def view(self, name: str) -> View:
        """The view of this name, else :class:`NotFound`."""
        for view in self.views:
            if view.name == name:
                return view
        raise NotFound(f"feature view {name!r} is not declared, there are {', '.join(v.name for v in self.views)}: add it to VIEWS")

    def projection(self, service: str) -> tuple[View, ...]:
        """The views behind a service, each with the fields that the service takes of it, in the service's order.

        Raises:
            NotFound: if the service, one of its views or one of its fields is not declared.
            SpecError: if two of its fields have the same name.
        """
        chosen: dict[str, list[Field]] = {}
        for reference in self._service(service).features:
            view_name, _, field_name = reference.partition(":")
            view = self.view(view_name)
            field = next((field for field in view.fields if field.name == field_name), None)
            if field is None:
                names = ", ".join(field.name for field in view.fields)
                raise NotFound(f"service {service!r} takes {reference!r}, but view {view_name!r} has {names}: correct the one or the other")
            chosen.setdefault(view_name, []).append(field)
        taken = [field.name for fields in chosen.values() for field in fields]
        twice = sorted({name for name in taken if taken.count(name) > 1})
        if twice:
            raise SpecError(f"service {service!r}: {', '.join(twice)} comes from two views: rename one, since inputs are known by name")
        return tuple(View(view.name, view.entity, tuple(chosen[view.name]), view.ttl) for view in map(self.view, chosen))

    def service_hash(self, service: str) -> str:
        """A sha256 over the service's projection and the code behind it, in hexadecimal.

        A field added to a view does not change the hash of a service that does not take it, unless the code changed as well.
        """
        views = [{**asdict(view), "ttl": view.ttl.total_seconds()} for view in self.projection(service)]
        document: Mapping[str, object] = {"service": service, "views": views, "transform": self.transform}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def _service(self, name: str) -> FeatureService:
        for service in self.services:
            if service.name == name:
                return service
        known = ", ".join(service.name for service in self.services)
        raise NotFound(f"feature service {name!r} is not declared, there are {known or 'none'}: add it to SERVICES")
