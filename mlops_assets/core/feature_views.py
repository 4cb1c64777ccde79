"""What a feature view is, said once and without Feast: both feature stores, Feast's and the one in memory, are built from it.

A model's feature module (that of ``features.transform``) declares ``VIEWS``, ``SERVICES`` and, if anything is computed from the request,
``ON_DEMAND`` in these classes and in :class:`mlops_assets.core.on_demand.OnDemandView`.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

from mlops_assets.core.errors import NotFound, SpecError
from mlops_assets.core.on_demand import OnDemandView

FieldType = Literal["float", "string"]
DECLARED_BESIDE = ("SERVICES", "ON_DEMAND")
"""What a feature module declares that has no part in computing its views."""

Named = TypeVar("Named", "View", OnDemandView)

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
class FeatureVersion:
    """What a feature service is made of: it goes with training sets, models and the online store, so that they can be compared.

    Args:
        service: its name.
        views: its projection.
        transform: a sha256 of the code that computes the views, in hexadecimal.
        on_demand: what it takes of the on-demand views.
    """

    service: str
    views: tuple[View, ...]
    transform: str
    on_demand: tuple[OnDemandView, ...] = ()

    @property
    def hash(self) -> str:
        """A sha256 over all of it, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_document(), sort_keys=True).encode()).hexdigest()

    def to_document(self) -> dict[str, Any]:
        views = [{**asdict(view), "ttl": view.ttl.total_seconds()} for view in self.views]
        computed = {"on_demand": [view.to_document() for view in self.on_demand]} if self.on_demand else {}
        return {"service": self.service, "views": views, "transform": self.transform, **computed}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "FeatureVersion":
        views = tuple(
            View(view["name"], view["entity"], tuple(Field(**field) for field in view["fields"]), timedelta(seconds=view["ttl"]))
            for view in document["views"]
        )
        on_demand = tuple(OnDemandView.from_document(view) for view in document.get("on_demand", ()))
        return cls(document["service"], views, document["transform"], on_demand)

    def differences(self, other: "FeatureVersion") -> tuple[str, ...]:
        """What is otherwise in ``other``, field by field; nothing if the two are the same.

        >>> told = FeatureVersion("v1", (View("weather", "origin", (Field("wind"),), timedelta(hours=3)),), "a")
        >>> told.differences(FeatureVersion("v1", (View("weather", "origin", (Field("rain"),), timedelta(hours=2)),), "a"))
        ('weather: ttl 3:00:00 is 2:00:00', 'weather:wind is missing', 'weather:rain is new')
        """
        found = _differences(self.views, other.views, _view_differences)
        found += _differences(self.on_demand, other.on_demand, OnDemandView.differences)
        if self.service != other.service:
            found.append(f"service {self.service} is {other.service}")
        if not found and (self.views != other.views or self.on_demand != other.on_demand):
            found.append("views or fields are in another order")
        if not found and self.transform != other.transform:
            found.append("the code that computes the views is another")
        return tuple(found)


def _differences(before: Sequence[Named], after: Sequence[Named], compare: Callable[[Named, Named], list[str]]) -> list[str]:
    here, there = ({view.name: view for view in views} for views in (before, after))
    found = [f"view {name} is missing" for name in here if name not in there]
    found += [f"view {name} is new" for name in there if name not in here]
    return found + [told for name in here if name in there for told in compare(here[name], there[name])]


def _view_differences(here: View, there: View) -> list[str]:
    found = [
        f"{here.name}: {what} {getattr(here, what)} is {getattr(there, what)}"
        for what in ("entity", "ttl")
        if getattr(here, what) != getattr(there, what)
    ]
    before, after = ({field.name: field.type for field in view.fields} for view in (here, there))
    found += [f"{here.name}:{name} is missing" for name in before if name not in after]
    found += [f"{here.name}:{name} is new" for name in after if name not in before]
    return found + [
        f"{here.name}:{name} {before[name]} is {after[name]}" for name in before if after.get(name, before[name]) != before[name]
    ]


def code_hash(source: str) -> str:
    r"""A sha256 of a feature module's code, in hexadecimal: without comments, docstrings, layout, and what ``DECLARED_BESIDE`` names.

    >>> code_hash("def f():\n  'says'\n  return 1  # one\nSERVICES = ()") == code_hash("def f(): return 1")
    True
    """
    tree = ast.parse(source)
    tree.body = [statement for statement in tree.body if not _is_declared_beside(statement)]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body and _is_text(body[0]):
            node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_declared_beside(statement: ast.stmt) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id in DECLARED_BESIDE for target in targets)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)


@dataclass(frozen=True)
class FeatureDefinitions:
    """What one feature module declares. ``transform`` is the :func:`code_hash` of the code that computes the views."""

    views: tuple[View, ...]
    services: tuple[FeatureService, ...]
    transform: str
    on_demand: tuple[OnDemandView, ...] = ()

    def __post_init__(self) -> None:
        names = [*(view.name for view in self.views), *(view.name for view in self.on_demand)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"{', '.join(twice)} is declared twice among VIEWS and ON_DEMAND: rename one")

    def view(self, name: str) -> View:
        """The view of this name, else :class:`NotFound`."""
        for view in self.views:
            if view.name == name:
                return view
        known = ", ".join([*(view.name for view in self.views), *(view.name for view in self.on_demand)])
        raise NotFound(f"feature view {name!r} is not declared, there are {known}: add it to VIEWS")

    def projection(self, service: str) -> tuple[View, ...]:
        """The views behind a service, each with the fields that the service takes of it, in the service's order.

        Raises:
            NotFound: if the service, one of its views or one of its fields is not declared.
            SpecError: if two of its fields have the same name.
        """
        computed = {view.name for view in self.on_demand}
        chosen: dict[str, list[Field]] = {}
        for view_name, field_name in self._taken(service):
            if view_name not in computed:
                chosen.setdefault(view_name, []).append(_field(service, self.view(view_name), field_name))
        return tuple(View(view.name, view.entity, tuple(chosen[view.name]), view.ttl) for view in map(self.view, chosen))

    def computed(self, service: str) -> tuple[OnDemandView, ...]:
        """What a service takes of the on-demand views, as :meth:`projection` does of the others."""
        found = {view.name: view for view in self.on_demand}
        taken = [(found[view], field) for view, field in self._taken(service) if view in found]
        for view, field in taken:
            _field(service, view, field)
        return tuple(view.only(frozenset(field for of, field in taken if of is view)) for view in dict.fromkeys(view for view, _ in taken))

    def _taken(self, service: str) -> list[tuple[str, str]]:
        """The views and fields that a service names, in its order."""
        taken = [(view, field) for view, _, field in (reference.partition(":") for reference in self._service(service).features)]
        names = [field for _, field in taken]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"service {service!r}: {', '.join(twice)} comes from two views: rename one, since inputs are known by name")
        return taken

    def version(self, service: str) -> FeatureVersion:
        """What the service is made of.

        A field added to a view changes nothing for a service that does not take it, unless the code changed as well.
        """
        return FeatureVersion(service, self.projection(service), self.transform, self.computed(service))

    def _service(self, name: str) -> FeatureService:
        for service in self.services:
            if service.name == name:
                return service
        known = ", ".join(service.name for service in self.services)
        raise NotFound(f"feature service {name!r} is not declared, there are {known or 'none'}: add it to SERVICES")


def _field(service: str, view: View | OnDemandView, name: str) -> Any:
    """The field of this name, else :class:`NotFound`."""
    for field in view.fields:
        if field.name == name:
            return field
    names = ", ".join(field.name for field in view.fields)
    raise NotFound(f"service {service!r} takes '{view.name}:{name}', but view {view.name!r} has {names}: correct the one or the other")
