"""What a quality gate judged: the labels of a holdout and the scores of both models, kept as a content-addressed table."""

import numpy as np
import pandas as pd

from mlops_assets.adapters import tables
from mlops_assets.core.gates import Scored
from mlops_assets.ports import ObjectStore

SLICE = "slice "
"""Begins the name of a column that says which rows belong to a slice."""


def write(objects: ObjectStore, model: str, scored: Scored) -> str:
    """Keep labels and scores; returns the sha256 of the table. Blocks are kept by number, in their order."""
    columns: dict[str, np.ndarray] = {"label": scored.label, "challenger": scored.challenger}
    if scored.champion is not None:
        columns["champion"] = scored.champion
    if scored.blocks is not None:
        columns["block"] = np.unique(scored.blocks, return_inverse=True)[1]
    slices = {f"{SLICE}{name}": rows for name, rows in scored.slices.items()}
    return tables.write_set(objects, model, pd.DataFrame(columns | slices))


def read(objects: ObjectStore, model: str, digest: str, threshold: float) -> Scored:
    """What was kept under ``digest``, to the last bit; blocks have numbers for names.

    Raises:
        DigestMismatch: if the stored bytes are not those that were written.
    """
    frame = tables.read_set(objects, model, digest)
    column = {str(name): frame[name].to_numpy() for name in frame}
    slices = {name.removeprefix(SLICE): rows for name, rows in column.items() if name.startswith(SLICE)}
    return Scored(column["label"], column["challenger"], column.get("champion"), slices, column.get("block"), threshold)
