"""Checks that no materialization makes, because they look at what did not happen."""

from collections.abc import Sequence

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.core.model_spec import ModelSpec


def build_checks(spec: ModelSpec) -> Sequence[dg.AssetChecksDefinition]:
    """``freshness`` of events and labels: they were ingested within the declared time."""
    watched = [keys.key(spec, name) for name in ("events", "labels")]
    return dg.build_last_update_freshness_checks(assets=watched, lower_bound_delta=spec.data.freshness)
