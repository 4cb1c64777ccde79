"""Evidently's HTML report beside a drift report: a bounded sample of what was served, and of what the release was judged on."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from mlops_assets.adapters import evidently_html, hours, tables
from mlops_assets.adapters.prediction_log import FEATURE_PREFIX
from mlops_assets.adapters.pseudonyms import readable
from mlops_assets.assets.baseline import SCORE
from mlops_assets.core.errors import NotFound
from mlops_assets.core.hourly import HOUR
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

ROWS, HOURS = 2000, 24
"""At most so many rows, from so many hours spread over the window."""

_SEED = 7


def write(platform: Platform, spec: ModelSpec, release: str, until: datetime) -> str:
    """Draw the samples, and keep the report; returns its key."""
    holdout = tables.read_set(platform.objects, spec.name, platform.registry.release(spec.name, release).tags["holdout"])
    reference = _columns(spec, _sample(holdout))
    words = [feature.name for feature in spec.features.inputs if feature.categories]
    found = evidently_html.drift(reference, served_sample(platform, spec, release, until), words)
    key = hours.report_key(spec.name, release, until)
    platform.objects.put(key, found)
    return key


def served_sample(platform: Platform, spec: ModelSpec, release: str, until: datetime) -> pd.DataFrame:
    """Some live answers of a release in the drift window, with the names of its features.

    Raises:
        NotFound: if there are none.
    """
    window = max(spec.drift.window, HOUR)
    listed = hours.profiled_hours(platform.objects, spec.name, release, until - window, until)
    chosen = _spread(listed)
    columns = ["release", "role", SCORE, *(FEATURE_PREFIX + name for name in spec.features.names)]
    parts = []
    for hour in chosen:
        rows = hours.rows_of(platform.objects, spec.name, hour, columns)
        parts.append(_sample(rows[(rows["release"] == release) & (rows["role"] == hours.LIVE)], ROWS // len(chosen) + 1))
    if not parts:
        raise NotFound(f"{release} of {spec.name} answered nothing in the {window} up to {until}: there is nothing to draw")
    served = readable(pd.concat(parts, ignore_index=True), spec, platform.pii_key)
    return _columns(spec, served.rename(columns=lambda name: str(name).removeprefix(FEATURE_PREFIX)))


def _columns(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The features as Evidently takes them: words or numbers, missing ones as its NaN."""
    words = {feature.name for feature in spec.features.inputs if feature.categories}
    return pd.DataFrame(
        {name: rows[name].astype(object if name in words else float) if name in rows else np.nan for name in spec.features.names}
    )


def _sample(rows: pd.DataFrame, most: int = ROWS) -> pd.DataFrame:
    return rows if len(rows) <= most else rows.sample(most, random_state=_SEED).sort_index()


def _spread(listed: Sequence[datetime]) -> list[datetime]:
    places = np.unique(np.linspace(0, len(listed) - 1, min(HOURS, len(listed))).round().astype(int)) if listed else ()
    return [listed[place] for place in places]
