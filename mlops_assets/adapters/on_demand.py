"""On-demand views over rows, as a training sees them. A serving process does the same, row by row (:mod:`serving.inputs`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlops_assets.adapters.expressions import Expression
from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.on_demand import OnDemandView, RequestType


def check_names(views: Sequence[OnDemandView], looked_up: frozenset[str]) -> None:
    """See that expressions are CEL and name nothing but request fields of their view and features that are looked up.

    Raises:
        SpecError: with what they may name.
    """
    for view in views:
        allowed = {field.name for field in view.request} | looked_up
        for field in view.fields:
            unknown = [name for name in Expression(field.expression).names if name not in allowed]
            if unknown:
                raise SpecError(
                    f"{view.name}:{field.name} names {', '.join(unknown)}, expected request fields or features that are looked up "
                    f"({', '.join(sorted(allowed))}): declare it under request, or correct the expression"
                )


def computed(views: Sequence[OnDemandView], rows: pd.DataFrame) -> pd.DataFrame:
    """The features of on-demand views, a column each.

    A row that brings a feature instead of what it is computed from, as one of the prediction log, keeps it.

    Args:
        rows: a column for each request field and each feature that is looked up.

    Raises:
        BadData: if a column is missing, of another type, or an expression fails.
    """
    found = {}
    for view in views:
        types = {field.name: field.type for field in view.request}
        for field in view.fields:
            expression = Expression(field.expression)
            missing = [name for name in expression.names if name not in rows]
            if missing and field.name in rows:
                found[field.name] = rows[field.name]
                continue
            if missing:
                told = f"got columns {', '.join(rows.columns)}: add {', '.join(missing)} to the events, or mend the expression"
                raise BadData(f"{view.name}:{field.name} is computed from {', '.join(missing)}, {told}")
            columns = [_values(name, rows[name], types.get(name) or _type(rows[name])) for name in expression.names]
            found[field.name] = _evaluated(expression, columns, len(rows), rows.index)
    return pd.DataFrame(found, index=rows.index)


def _evaluated(expression: Expression, columns: list[list[Any]], rows: int, index: pd.Index) -> "pd.Series[Any]":
    known: dict[tuple[Any, ...], float | str | None] = {}
    values = []
    for row in zip(*columns, strict=True) if columns else [()] * rows:
        if row not in known:
            known[row] = expression(dict(zip(expression.names, row, strict=True)))
        values.append(known[row])
    is_text = any(isinstance(value, str) for value in known.values())
    return pd.Series(values, index=index, dtype=object if is_text else "float64")


def _type(column: "pd.Series[Any]") -> RequestType:
    return "float" if pd.api.types.is_numeric_dtype(column) else "string"


def _values(name: str, column: "pd.Series[Any]", kind: RequestType) -> list[Any]:
    """A column as a request would say it: floats, strings, times with their zone, and None."""
    if kind == "timestamp" and not isinstance(column.dtype, pd.DatetimeTZDtype):
        raise BadData(f"request field {name!r}: got {column.dtype}, expected times with their zone: localize the column")
    if kind == "float":
        try:
            numbers = column.astype("float64")
        except (TypeError, ValueError) as error:
            raise BadData(f"request field {name!r}: {error}; declare it as 'string', or mend the column") from error
        return [None if np.isnan(value) else value for value in numbers.tolist()]
    told = [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]
    return [value and value.to_pydatetime() for value in told] if kind == "timestamp" else told
