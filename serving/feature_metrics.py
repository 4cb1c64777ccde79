"""How many values of each feature were missing, or out of what the model was trained on.

They are counted where the log is shipped, by its thread and on its columns, and not on the way of a request: a figure is as late as a
segment is long, a minute by default.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import CounterMetricFamily, Metric

from mlops_assets.adapters.prediction_log import LoggedInput
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import Signature
from serving.shared_numbers import Numbers

if TYPE_CHECKING:
    import pyarrow as pa


class FeatureMetrics:
    """Counts of a release's inputs, but those that are marked ``pii``, which are not logged as they are. Any thread may count.

    Args:
        signature: names the features, their categories and the ranges of training.
        numbers: where it is counted: a number for the rows, and two for each feature.
    """

    def __init__(self, signature: Signature, numbers: Numbers) -> None:
        self._inputs = tuple(feature for feature in signature.inputs if feature.name not in signature.pii)
        self._ranges, self._lock = signature.ranges, threading.Lock()
        width = len(self._inputs)
        self._rows, self._nulls, self._outside = numbers.take(1), numbers.take(width), numbers.take(width)

    def count(self, table: pa.Table) -> None:
        """Count the rows of a table of the log. A value that is none is not out of range."""
        found = [self._count_column(feature, table) for feature in self._inputs]
        with self._lock:
            self._rows.mine[0] += table.num_rows
            for place, (nulls, outside) in enumerate(found):
                self._nulls.mine[place] += nulls
                self._outside.mine[place] += outside

    def _count_column(self, feature: Feature, table: pa.Table) -> tuple[int, int]:
        column = table[LoggedInput(feature.name, bool(feature.categories)).column]
        if feature.categories:
            seen = Counter(column.to_pylist())
            nulls = seen.pop(None, 0)
            return nulls, sum(times for value, times in seen.items() if value not in feature.categories)
        values = column.to_numpy().astype(np.float32)  # as the model sees them, and as the ranges were measured
        nulls = int(np.isnan(values).sum())
        low, high = self._ranges.get(feature.name, (-np.inf, np.inf))
        return nulls, int(((values < low) | (values > high)).sum())

    def families(self, model: str, release: str) -> Iterator[Metric]:
        names, who = ("model", "release"), [model, release]
        rows = CounterMetricFamily("mlops_feature_rows", "Answered rows whose features were looked at", labels=names)
        rows.add_metric(who, self._rows.total()[0])
        nulls = CounterMetricFamily("mlops_feature_nulls", "Rows in which the feature was missing", labels=(*names, "feature"))
        outside = CounterMetricFamily(
            "mlops_feature_out_of_range", "Rows in which the feature was out of what training saw", labels=(*names, "feature")
        )
        for family, counts in ((nulls, self._nulls), (outside, self._outside)):
            for feature, value in zip(self._inputs, counts.total(), strict=True):
                family.add_metric([*who, feature.name], value)
        yield from (rows, nulls, outside)
