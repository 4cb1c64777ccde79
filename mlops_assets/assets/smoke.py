"""What a release is asked before it may serve, or serve again: rows of its holdout, which it must answer as its file does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops_assets.adapters import tables
from mlops_assets.adapters.onnx_model import OnnxModel
from mlops_assets.assets.reading import nullable
from mlops_assets.core.parity import compare
from mlops_assets.core.signature import encode
from mlops_assets.core.verdict import Verdict
from mlops_assets.ports import Deployment, Platform

SMOKE_ROWS = 200
"""How many holdout rows are sent."""


@dataclass(frozen=True, eq=False)
class SmokeTest:
    """Rows of inputs, the scores that the release's file gives them, and from which score on the answer is yes."""

    rows: Sequence[Mapping[str, Any]]
    expected: np.ndarray
    threshold: float

    def ask(self, platform: Platform, deployment: Deployment) -> Verdict:
        """Ask a release that runs, past the gateway."""
        return compare(self.expected, platform.deployments.predict(deployment, self.rows), self.threshold)


def smoke_test_of(platform: Platform, model: str, release: str) -> SmokeTest:
    """The smoke test of a release, by its own signature: the model may be declared otherwise by now."""
    info = platform.registry.release(model, release)
    loaded = OnnxModel.load(platform.objects.get(info.uri))
    inputs, held = loaded.signature.inputs, tables.read_set(platform.objects, model, info.tags["holdout"]).head(SMOKE_ROWS)
    columns = {feature.name: nullable(held[feature.name]) for feature in inputs}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return SmokeTest(rows, loaded.score(encode(inputs, columns)), loaded.signature.decision_threshold)
