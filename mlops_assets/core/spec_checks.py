"""What the declarations of a model are checked with."""

import re

from mlops_assets.core.errors import SpecError

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def require(condition: bool, message: str) -> None:
    """See that a declaration holds, else raise :class:`SpecError` with what to write instead."""
    if not condition:
        raise SpecError(message)


def require_import_path(field_name: str, value: str) -> None:
    """See that a field names an object in a module."""
    require(
        bool(_IMPORT_PATH.fullmatch(value)),
        f"{field_name}: got {value!r}, expected an import path such as 'my_package.my_module:my_function'",
    )
