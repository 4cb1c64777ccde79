"""What the values of features are like, as a table for the UI."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import dagster as dg
import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Summary:
    """The values of one feature. ``std`` is that of a sample; of texts there are ``distinct`` and ``top``, the most frequent, instead."""

    view: str
    feature: str
    rows: int
    null_rate: float | None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    median: float | None = None
    max: float | None = None
    distinct: int | None = None
    top: str | None = None


def summarize(view: str, feature: str, values: pd.Series, is_text: bool, is_hidden: bool = False) -> Summary:
    """What the values of a feature are like; what none of them tells is ``None``. Of a hidden one no value of anybody is told."""
    known = values.dropna()
    null_rate = 1 - len(known) / len(values) if len(values) else None
    if is_text:
        counts = known.astype(str).value_counts()
        first = None if is_hidden else min(counts.index[counts == counts.max()], default=None)
        return Summary(view, feature, len(values), null_rate, distinct=len(counts), top=first)
    numbers = known.to_numpy(dtype=float)
    if is_hidden or not len(numbers):
        return Summary(view, feature, len(values), null_rate)
    with np.errstate(invalid="ignore"):  # of infinite values
        std = np.std(numbers, ddof=1) if len(numbers) > 1 else math.nan
    figures = (_finite(figure) for figure in (np.mean(numbers), std, np.min(numbers), np.median(numbers), np.max(numbers)))
    return Summary(view, feature, len(values), null_rate, *figures)


def table(summaries: Iterable[Summary]) -> dg.TableMetadataValue:
    """One row a feature."""
    kinds = {"view": "string", "feature": "string", "top": "string", "rows": "int", "distinct": "int"}
    schema = dg.TableSchema([dg.TableColumn(field.name, kinds.get(field.name, "float")) for field in fields(Summary)])
    return dg.MetadataValue.table([dg.TableRecord(asdict(summary)) for summary in summaries], schema)


def _finite(figure: float) -> float | None:
    """JSON knows no other."""
    return float(figure) if math.isfinite(figure) else None
