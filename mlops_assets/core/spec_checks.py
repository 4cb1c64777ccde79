"""What the declarations of a model are checked with."""

import re

from mlops_assets.core.errors import SpecError

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CPU = re.compile(r"\d+m|\d+(\.\d+)?")
_MEMORY = re.compile(r"[1-9]\d*(Ki|Mi|Gi|Ti)")


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


def require_cpu(field_name: str, value: str) -> None:
    """See that a field has cores as Kubernetes writes them, more than none."""
    known = bool(_CPU.fullmatch(value)) and float(value.rstrip("m")) > 0
    require(known, f"{field_name}: got {value!r}, expected cores such as '2', '0.5' or '250m'")


def require_memory(field_name: str, value: str) -> None:
    """See that a field has memory as Kubernetes writes it, in powers of two."""
    require(bool(_MEMORY.fullmatch(value)), f"{field_name}: got {value!r}, expected memory such as '256Mi' or '2Gi'")
