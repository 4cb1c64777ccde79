"""What a model's ``defs.yaml`` says of its inputs: where they come from, and what stands in for one that is missing."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

from mlops_assets.core.pii import Pii
from mlops_assets.core.spec_checks import require, require_import_path

OnlinePolicy = Literal["null", "default", "refuse"]


@dataclass(frozen=True)
class Feature:
    """One input of the model. A category is given to the model as its place in ``categories``, an unknown one as -1.

    ``default`` stands in for a value that the online store does not have, where :class:`Online` says so. What is marked ``pii`` is hashed
    or dropped before an answer is logged, and shown nowhere; without a mark that of the column of ``events`` of the same name counts.
    """

    name: str
    categories: tuple[str, ...] = ()
    default: float | str | None = None
    pii: Pii | None = None

    def __post_init__(self) -> None:
        twice = sorted({category for category in self.categories if self.categories.count(category) > 1})
        require(not twice, f"features.inputs: {self.name!r} has the category {', '.join(twice)} twice: remove one")
        kind, expected = (str, "a string") if self.categories else (int | float, "a number")
        fits = self.default is None or (isinstance(self.default, kind) and not isinstance(self.default, bool))
        require(fits, f"features.inputs: {self.name!r} has the default {self.default!r}, expected {expected}")


@dataclass(frozen=True)
class Online:
    """What the model sees of a value that the online store does not have, or has of a time too long ago: ``null``, the ``default`` of
    the input, or nothing, since the request is refused.
    """

    missing: OnlinePolicy = "null"
    stale: OnlinePolicy = "null"

    def __post_init__(self) -> None:
        for name in ("missing", "stale"):
            got = getattr(self, name)
            require(
                got in get_args(OnlinePolicy),
                f"features.online.{name}: got {got!r}, expected one of {', '.join(get_args(OnlinePolicy))} (null in quotes)",
            )

    @property
    def uses_defaults(self) -> bool:
        return "default" in (self.missing, self.stale)


@dataclass(frozen=True)
class Features:
    """Where the inputs come from: a Feast feature service, fed by the views that ``transform`` computes from the datasets."""

    service: str
    entities: tuple[str, ...]
    transform: str
    inputs: tuple[Feature, ...]
    unit: str
    lookback: timedelta = timedelta(days=7)
    online: Online = field(default_factory=Online)

    def __post_init__(self) -> None:
        require_import_path("features.transform", self.transform)
        names = [feature.name for feature in self.inputs]
        require(len(names) > 0, "features.inputs: name at least one feature")
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"features.inputs: {', '.join(twice)} stands there twice: remove one")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.inputs)
