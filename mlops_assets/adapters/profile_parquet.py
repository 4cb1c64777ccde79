"""Rows of a Parquet file counted over a baseline, one column of one row group at a time: memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.core.errors import BadData
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.profile import Profile, Tally

if TYPE_CHECKING:
    import pyarrow as pa


def profile_parquet(base: Profile, path: Path, inputs: Sequence[Feature]) -> Profile:
    """The profile of the file's rows over the cells of ``base``.

    Args:
        base: with one column an input, in their order.
        inputs: the file's columns of these names are read as a model reads them: a category as its place, a missing number as NaN.

    Raises:
        BadData: if the file is no Parquet file, or a column is missing or not what its input is.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tallies = [Tally(column) for column in base.columns]
    try:
        with pq.ParquetFile(path) as file:
            missing = [feature.name for feature in inputs if feature.name not in file.schema_arrow.names]
            if missing:
                raise BadData(f"{path}: got no column {', '.join(missing)}, expected every input of the model: add it")
            for group in range(file.num_row_groups):
                for tally, feature in zip(tallies, inputs, strict=True):
                    for chunk in file.read_row_group(group, columns=[feature.name], use_threads=False).column(0).chunks:
                        tally.add(numbers(chunk, feature, str(path)))
    except (OSError, pa.ArrowException) as error:
        raise BadData(f"{path} cannot be read as Parquet: {error}") from error
    return Profile(tuple(tally.profile() for tally in tallies))


def numbers(values: pa.Array, feature: Feature, source: str) -> np.ndarray:
    """A column's values as a model reads them, float32 of shape (rows,): a category as its place, a missing number as NaN.

    Raises:
        BadData: if they are no such values; ``source`` says of what.
    """
    import pyarrow as pa

    if feature.categories:
        import pyarrow.compute as pc

        places = pc.index_in(values.cast(pa.string()), value_set=pa.array(feature.categories, pa.string()))
        return np.asarray(places.fill_null(-1).to_numpy(), dtype=np.float32)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_integer(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.float64(), safe=False)
    if pa.types.is_string(values.type):  # a category of another release, which is in the same file
        try:
            values = values.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise BadData(f"{source}: column {feature.name!r} holds words ({error}), expected numbers") from error
    if not pa.types.is_floating(values.type):
        raise BadData(f"{source}: column {feature.name!r} holds {values.type}, expected numbers")
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)  # nulls are NaN
