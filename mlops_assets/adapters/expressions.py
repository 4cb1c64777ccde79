"""Expressions in CEL, the Common Expression Language (https://cel.dev), as features are computed from a request with."""

import math
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any
from zoneinfo import ZoneInfo

from mlops_assets.core.errors import BadData, SpecError

FLOAT32_MAX = 3.4028234663852886e38
"""What a model takes at most."""


@cache
def _cel() -> Any:
    """The library's compiled half. Importing the package imports its command line too, which costs a release 32 MB and 0.4 s."""
    package = find_spec("cel")
    found = PathFinder.find_spec("cel", package.submodule_search_locations) if package else None
    if found is None or found.loader is None:
        raise ModuleNotFoundError("the package common-expression-language is not installed: pip install common-expression-language")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Expression:
    """An expression, compiled once. Any thread may evaluate it.

    >>> Expression('departure.getHours("America/New_York")')({"departure": datetime(2013, 7, 1, 14, 30, tzinfo=UTC)})
    10.0

    Raises:
        SpecError: if it is not CEL.
    """

    def __init__(self, text: str) -> None:
        try:
            self._program = _cel().compile(text)
        except ValueError as error:
            raise SpecError(
                f"expression {text[:200]!r}: {_first_line(error)}: write it in CEL (https://cel.dev), numbers as 2.0"
            ) from error
        self.text = text
        self.names: tuple[str, ...] = tuple(self._program.variables())
        self._context, self._lock = _cel().Context(functions=dict(_ACCESSORS)), threading.Lock()

    def __call__(self, values: Mapping[str, Any]) -> float | str | None:
        """What it comes to; None if any of the values that it names is None.

        Args:
            values: numbers, strings, times with their zone, or None, by name; more than those named do no harm.

        Raises:
            BadData: if it fails on these values, or does not come to a number, a string or null.
        """
        named = {name: values[name] for name in self.names}
        if None in named.values():
            return None
        try:
            with self._lock:
                self._context.update({name: _told(value) for name, value in named.items()})
                found = self._program.execute(self._context)
        except (ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise BadData(f"{self.text!r} of {_shown(named)}: {_first_line(error)}") from error
        if found is None or isinstance(found, str):
            return found
        if isinstance(found, bool | int | float) and math.isfinite(found) and abs(found) <= FLOAT32_MAX:
            return float(found)
        raise BadData(f"{self.text!r} of {_shown(named)} is {found!r}, expected a number that float32 can hold, a string or null")


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _accessor(of: Callable[[datetime], int]) -> Callable[..., int]:
    return lambda time, zone="UTC": of(time.astimezone(_zone(zone)))


# CEL's own, which the library has for UTC alone
_ACCESSORS: Mapping[str, Callable[..., int]] = {
    "getFullYear": _accessor(lambda time: time.year),
    "getMonth": _accessor(lambda time: time.month - 1),
    "getDate": _accessor(lambda time: time.day),
    "getDayOfMonth": _accessor(lambda time: time.day - 1),
    "getDayOfWeek": _accessor(lambda time: time.isoweekday() % 7),
    "getDayOfYear": _accessor(lambda time: time.timetuple().tm_yday - 1),
    "getHours": _accessor(lambda time: time.hour),
    "getMinutes": _accessor(lambda time: time.minute),
    "getSeconds": _accessor(lambda time: time.second),
}


def _told(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {str(value)[:60]!r}" for name, value in values.items())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].removeprefix("Failed to parse expression ")[:300] if str(error) else type(error).__name__
