"""What a model expects as input, travelling inside its ONNX file, so that one digest covers both."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mlops_assets.core.errors import BadData
from mlops_assets.core.feature_spec import Feature, Online
from mlops_assets.core.feature_views import FeatureVersion
from mlops_assets.core.pii import Pii

METADATA_KEY = "mlops_signature"
"""The entry of the ONNX file's ``metadata_props`` that holds the signature as JSON."""

INPUT_NAME = "features"
"""The one ONNX input: float32 of shape (rows, features)."""

SCORE_NAME = "score"
"""The one ONNX output: float32 of shape (rows,), the probability of a yes."""


@dataclass(frozen=True)
class Signature:
    """Inputs in order, what splits the traffic, and from which score on the answer is yes.

    Args:
        features: what the inputs were computed by; None in files made before they said so.
        online: what stands in for values that the online store does not have.
        ranges: the least and the greatest value of each number in the training data; empty in files made before they said so.
        pii: what becomes of marked fields before an answer is logged, by name: of the unit, entities, inputs and request fields.
    """

    model: str
    inputs: tuple[Feature, ...]
    unit: str
    decision_threshold: float
    training_set: str
    features: FeatureVersion | None = None
    online: Online = field(default_factory=Online)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    pii: Mapping[str, Pii] = field(default_factory=dict)

    def to_json(self) -> str:
        document = {**asdict(self), "features": self.features.to_document() if self.features else None}
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Signature":
        document = json.loads(text)
        features = document.get("features")
        return cls(
            model=document["model"],
            inputs=tuple(
                Feature(item["name"], tuple(item["categories"]), item.get("default"), item.get("pii")) for item in document["inputs"]
            ),
            unit=document["unit"],
            decision_threshold=document["decision_threshold"],
            training_set=document["training_set"],
            features=FeatureVersion.from_document(features) if features else None,
            online=Online(**document.get("online", {})),
            ranges={name: (low, high) for name, (low, high) in document.get("ranges", {}).items()},
            pii=document.get("pii", {}),
        )


def ranges_of(inputs: Sequence[Feature], matrix: np.ndarray) -> dict[str, tuple[float, float]]:
    """The least and the greatest value of each number; columns without any, and categories, are left out.

    Args:
        matrix: float32 of shape (rows, features), as :func:`encode` makes it.

    >>> ranges_of([Feature("hour"), Feature("carrier", ("AA",))], np.asarray([[7, 0], [np.nan, 0], [5, -1]], dtype=np.float32))
    {'hour': (5.0, 7.0)}
    """
    found = {}
    for feature, column in zip(inputs, matrix.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) and not feature.categories:
            found[feature.name] = (float(known.min()), float(known.max()))
    return found


def encode(inputs: Sequence[Feature], columns: Mapping[str, Sequence[Any] | np.ndarray]) -> np.ndarray:
    """Columns of values as the float32 matrix that the model takes, shape (rows, features).

    A category becomes its place in the feature's list, an unknown or missing one -1; a missing number becomes NaN.

    Raises:
        BadData: if a column is missing, or a number is not one.

    >>> encode([Feature("hour"), Feature("carrier", ("AA", "UA"))], {"hour": [7, None], "carrier": ["UA", "??"]}).tolist()
    [[7.0, 1.0], [nan, -1.0]]
    """
    missing = [feature.name for feature in inputs if feature.name not in columns]
    if missing:
        raise BadData(f"features {', '.join(missing)} are missing, got {', '.join(columns)}: send every input of the model")
    encoded = [_encode_column(feature, columns[feature.name]) for feature in inputs]
    return np.stack(encoded, axis=1) if encoded else np.empty((0, 0), dtype=np.float32)


def _encode_column(feature: Feature, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    if feature.categories:
        places = {category: place for place, category in enumerate(feature.categories)}
        return np.asarray([places.get(value, -1) for value in values], dtype=np.float32)
    try:
        return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        wrong = next((value for value in values if value is not None and not isinstance(value, int | float)), values)
        raise BadData(f"feature {feature.name!r}: got {wrong!r}, expected a number or null") from error
