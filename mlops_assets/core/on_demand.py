"""Features that are computed from the request, declared once: a training evaluates them over its rows, a serving process over each request.

A feature is an expression in CEL, the Common Expression Language of Kubernetes and Envoy (https://cel.dev): text that travels inside a
release, so that a release computes what it was trained on whatever the feature module says by then, and that can do nothing but compute.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mlops_assets.core.errors import SpecError

RequestType = Literal["float", "string", "timestamp"]


@dataclass(frozen=True)
class RequestField:
    """What a request says, and in training a column of the events: a number, a string, or a time with its zone."""

    name: str
    type: RequestType = "float"

    def __post_init__(self) -> None:
        if self.type not in get_args(RequestType):
            raise SpecError(f"request field {self.name!r}: got type {self.type!r}, expected one of {', '.join(get_args(RequestType))}")
        _require_word("request field", self.name)


@dataclass(frozen=True)
class Computed:
    """A feature and its expression, which may name request fields and features that are looked up.

    It is null where anything that it names is. Numbers are doubles: write ``2.0``, not ``2``.
    """

    name: str
    expression: str


@dataclass(frozen=True)
class OnDemandView:
    """Features that are computed from the request, as Feast's on-demand feature views.

    Args:
        name: of the view, a plain word.
        request: what the request says.
        fields: what is computed.
    """

    name: str
    request: tuple[RequestField, ...]
    fields: tuple[Computed, ...]

    def __post_init__(self) -> None:
        _require_word("on-demand view", self.name)
        names = [*(field.name for field in self.request), *(field.name for field in self.fields)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SpecError(f"on-demand view {self.name!r}: {', '.join(twice)} stands there twice: rename one")

    def only(self, names: frozenset[str]) -> "OnDemandView":
        """The view with those of its features that have these names."""
        return OnDemandView(self.name, self.request, tuple(field for field in self.fields if field.name in names))

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "OnDemandView":
        request = tuple(RequestField(**field) for field in document["request"])
        return cls(document["name"], request, tuple(Computed(**field) for field in document["fields"]))

    def differences(self, other: "OnDemandView") -> list[str]:
        """What is otherwise in ``other``, feature by feature.

        >>> told = OnDemandView("schedule", (RequestField("departure", "timestamp"),), (Computed("hour", "departure.getHours()"),))
        >>> told.differences(OnDemandView("schedule", told.request, (Computed("hour", "departure.getMinutes()"),)))
        ['schedule:hour departure.getHours() is departure.getMinutes()']
        """
        here, there = ({field.name: field.expression for field in view.fields} for view in (self, other))
        found = [f"{self.name}:{name} is missing" for name in here if name not in there]
        found += [f"{self.name}:{name} is new" for name in there if name not in here]
        found += [f"{self.name}:{name} {here[name]} is {there[name]}" for name in here if there.get(name, here[name]) != here[name]]
        if not found and self != other:
            found.append(f"{self.name}: the request fields, or the order of its features, are others")
        return found


def _require_word(what: str, name: str) -> None:
    if not name.isidentifier():
        raise SpecError(f"{what} {name!r}: expected a plain word such as 'scheduled_departure', since expressions name it")
