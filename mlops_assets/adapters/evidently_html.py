"""Evidently, for its pictures alone: what has drifted is decided in :mod:`mlops_assets.core.drift`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def drift(reference: pd.DataFrame, current: pd.DataFrame, categories: Sequence[str]) -> bytes:
    """Its data drift report of two samples with the same columns, as one self-contained HTML file.

    Importing it takes 7 s and 285 MB, so it is done here.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    # a column without any value on one side has no distribution to draw
    drawn = [name for name in reference.columns if reference[name].notna().any() and current[name].notna().any()]
    words = [name for name in drawn if name in set(categories)]
    definition = DataDefinition(numerical_columns=[name for name in drawn if name not in words], categorical_columns=words)
    sides = [Dataset.from_pandas(rows[drawn], data_definition=definition) for rows in (current, reference)]
    made = Report([DataDriftPreset(method="psi")]).run(*sides)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drift.html"
        made.save_html(str(path))
        return path.read_bytes()
