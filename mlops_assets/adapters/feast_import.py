"""Feast, imported in a third of its time."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any
from unittest.mock import patch


@cache
def import_feast() -> ModuleType:
    """Import Feast without the type checks that it asks typeguard to write into its code.

    Typeguard parses and compiles a whole module for each method that it checks: six of the eight seconds of CPU time that importing
    Feast 0.67 takes, in every run that joins features. Its own switch is ``python -O``, for all of the process.
    """
    with patch("typeguard.typechecked", _unchecked):
        return importlib.import_module("feast")


def _unchecked(target: Any = None, **_: Any) -> Any:
    return _unchecked if target is None else target
