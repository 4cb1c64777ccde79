"""Policies, observations and the evidence of decisions as JSON documents, which say of what version they are.

Written for the standard library alone: pydantic would do it in fewer lines, and takes a quarter of a second to import, which is
too much of the second that a rollback has.
"""

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlops_assets.core.errors import BadData

VERSION = 1

_KINDS = {
    "Policy": "policy",
    "Observation": "observation",
    "Evidence": "evidence",
    "GateEvidence": "gate_evidence",
    "History": "slo_history",
    "Progress": "progress",
    "Judged": "judged",
    "Margins": "margins",
    "Serving": "serving",
}
"""What a document says it is, by the name of its class: who reads a policy must not import all that decides and watches."""

_MAY_BE_INFINITE = ("Evidence", "GateEvidence")
"""A figure that should not be infinite must not keep a release from being rolled back."""

Kept = TypeVar("Kept")


def encode(value: object) -> bytes:
    """The document of an object of one of the classes above."""
    name = type(value).__name__
    document = {"version": VERSION, _KINDS[name]: _plain(value)}
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=name in _MAY_BE_INFINITE).encode()


def decode(wanted: type[Kept], data: bytes, source: str) -> Kept:
    """An object from its document; ``source`` names that in errors.

    Raises:
        BadData: if the document is unreadable, of another version, or says something that this program would lose.
    """
    kind = _KINDS[wanted.__name__]
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise ValueError(f"it is of version {document['version']!r}, this program reads {VERSION}: use the program that wrote it")
        found: Kept = _typed(wanted, document[kind], kind)
        return found
    except KeyError as error:
        raise _unreadable(kind, source, f"it lacks {error}") from error
    except (ValueError, TypeError) as error:
        raise _unreadable(kind, source, str(error)) from error


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{_seconds(value):f}s"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _unreadable(kind: str, source: str, why: str) -> BadData:
    return BadData(
        f"{source} is not a readable {kind}: {why}. It was left as it is: restore an earlier version of the object, or correct it"
    )


def _typed(wanted: Any, value: Any, path: str) -> Any:
    """``value`` from JSON as what an annotation wants, else :class:`ValueError`. Nothing is converted that is not exact."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        inner = next(part for part in arguments if part is not type(None))
        return None if value is None else _typed(inner, value, path)
    if origin is Literal:
        return _require(value in arguments, value, path, wanted) and value
    if origin is tuple:
        _require(isinstance(value, list), value, path, "a list")
        return tuple(_typed(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is not None:
        _require(isinstance(value, dict), value, path, "an object")
        return {key: _typed(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if is_dataclass(wanted):
        return _instance(wanted, value, path)
    if wanted is datetime:
        _require(isinstance(value, str), value, path, "a time")
        return _time(value, path)
    if wanted is timedelta:
        return _duration(value, path)
    if issubclass(wanted, Enum):
        _require(value in [member.value for member in wanted], value, path, f"one of {', '.join(member.value for member in wanted)}")
        return wanted(value)
    # Where a person wrote 2 for 2.0 it stays 2, or it would read otherwise in what is made of it.
    accepted = (int, float) if wanted is float else (wanted,)
    _require(type(value) in accepted, value, path, wanted.__name__)
    return value


def _instance(wanted: Any, value: Any, path: str) -> Any:
    _require(isinstance(value, dict), value, path, "an object")
    known = _hints(wanted)
    unknown = sorted(value.keys() - known.keys())
    if unknown:
        raise ValueError(f"it has {', '.join(f'{path}.{name}' for name in unknown)}, which this program does not know")
    return wanted(**{name: _typed(known[name], item, f"{path}.{name}") for name, item in value.items()})


@cache
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted)


def _time(value: str, path: str) -> datetime:
    time = datetime.fromisoformat(value)
    _require(time.tzinfo is not None, value, path, "a time with its zone")
    return time


def _seconds(value: timedelta) -> Decimal:
    """The exact seconds: a float has not digits enough for the microseconds of a few centuries."""
    return Decimal(value // timedelta(microseconds=1)).scaleb(-6).normalize()


def _duration(value: Any, path: str) -> timedelta:
    _require(isinstance(value, str) and value.endswith("s"), value, path, "seconds such as '90s'")
    return timedelta(microseconds=int(Decimal(value[:-1]).scaleb(6)))


def _require(condition: bool, value: Any, path: str, expected: object) -> bool:
    if not condition:
        raise ValueError(f"{path}: got {value!r}, expected {expected}")
    return True
