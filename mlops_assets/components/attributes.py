"""The schema of a ``defs.yaml``, made from :class:`ModelSpec` itself: unknown fields are refused, durations read as people write them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from mlops_assets.core.errors import SpecError
from mlops_assets.core.model_spec import ModelSpec

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_Duration = Annotated[timedelta, WithJsonSchema({"type": "string", "pattern": rf"^\s*{_DURATION.pattern}\s*$"})]
"""What editors and ``dg check yaml``, which go by the JSON schema, are told of a duration."""

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(field: str, value: Any) -> timedelta:
    """``24h`` as a ``timedelta``. A bare number is refused: nobody can see whether it means seconds or days.

    Raises:
        ValueError: if ``value`` is anything else.

    >>> duration("bake", "24h")
    datetime.timedelta(days=1)
    """
    if isinstance(value, timedelta):
        return value
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{field}: got {value!r}, expected a duration such as 90s, 30m, 24h, 14d or 2w")
    try:
        return timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError as error:
        raise ValueError(f"{field}: {value!r} is longer than the calendar: make it shorter") from error


def check_known(data: Mapping[Any, Any], known: Collection[str]) -> None:
    """See that every field of ``data`` exists, else raise a :class:`ValueError` that names what does."""
    for field in data:
        if field not in known:
            near = get_close_matches(str(field), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it."
            raise ValueError(f"there is no field {field!r}: {hint} There are {', '.join(known)}")


def model_of(cls: type) -> type[BaseModel]:
    """A pydantic model with the fields of a dataclass, nested ones included, that builds the dataclass."""
    hints = _hints(cls)
    definitions: dict[str, Any] = {}
    for item in fields(cls):
        annotation = _translated(hints[item.name])
        if item.default is not MISSING:
            definitions[item.name] = (annotation, item.default)
        elif item.default_factory is not MISSING:
            factory = item.default_factory
            definitions[item.name] = (annotation | None, None) if is_dataclass(factory) else (annotation, Field(default_factory=factory))
        else:
            definitions[item.name] = (annotation, ...)
    durations = {item.name for item in fields(cls) if hints[item.name] is timedelta}

    # Of nested lists Dagster's report names the list alone: these messages name the field.
    def read(data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        check_known(data, definitions)
        return {name: duration(name, value) if name in durations else value for name, value in data.items()}

    def check(self: BaseModel) -> BaseModel:
        try:
            build(cls, self)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return self

    validators: dict[str, Any] = {
        "read": model_validator(mode="before")(read),
        "check": model_validator(mode="after")(check),
    }
    config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_name_what_exists)
    return create_model(f"{cls.__name__}Attributes", __config__=config, __validators__=validators, __doc__=cls.__doc__, **definitions)


def _name_what_exists(schema: dict[str, Any]) -> None:
    """Have ``dg check yaml`` say of an unknown field which ones there are, not only that it was unexpected."""
    schema["propertyNames"] = {"enum": list(schema["properties"])}
    del schema["additionalProperties"]


def build(cls: type, attributes: BaseModel) -> Any:
    """The dataclass that the validated attributes describe."""
    hints = _hints(cls)
    given = {item.name: getattr(attributes, item.name) for item in fields(cls)}
    return cls(**{name: _built(hints[name], value) for name, value in given.items() if not (value is None and is_dataclass(hints[name]))})


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _translated(annotation: Any) -> Any:
    if annotation is timedelta:
        return _Duration
    if is_dataclass(annotation) and isinstance(annotation, type):
        return _cached_model(annotation)
    if (inner := _optional_dataclass(annotation)) is not None:
        return _cached_model(inner) | None
    if get_origin(annotation) in (dict, tuple):
        return get_origin(annotation)[tuple(_translated(part) for part in get_args(annotation))]
    return annotation


def _optional_dataclass(annotation: Any) -> type | None:
    """The dataclass of ``Dataclass | None``; None of anything else."""
    parts = [part for part in get_args(annotation) if part is not type(None)] if get_origin(annotation) in (Union, UnionType) else []
    return parts[0] if len(parts) == 1 and is_dataclass(parts[0]) and isinstance(parts[0], type) else None


_models: dict[type, type[BaseModel]] = {}


def _cached_model(cls: type) -> type[BaseModel]:
    if cls not in _models:
        _models[cls] = model_of(cls)
    return _models[cls]


def _built(annotation: Any, value: Any) -> Any:
    if is_dataclass(annotation) and isinstance(annotation, type):
        return build(annotation, value)
    if value is not None and (inner := _optional_dataclass(annotation)) is not None:
        return build(inner, value)
    if get_origin(annotation) is dict:
        return {key: _built(get_args(annotation)[1], item) for key, item in value.items()}
    if get_origin(annotation) is tuple:
        return tuple(_built(get_args(annotation)[0], item) for item in value)
    return value


ModelAttributes = _cached_model(ModelSpec)
