"""The baseline of a release: kept beside its model when it is trained, and what it is watched by from then on."""

from functools import partial

import numpy as np

from mlops_assets.adapters import onnx_export, tables
from mlops_assets.assets.documents import TrainedModel
from mlops_assets.assets.reading import matrix_of
from mlops_assets.core.baseline import Baseline, importance
from mlops_assets.core.calibration import cut
from mlops_assets.core.comparison import auc
from mlops_assets.core.margins import first_margins
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.outcomes import Figure, Outcomes, figures
from mlops_assets.core.performance import Calibration, calibrate
from mlops_assets.core.profile import baseline
from mlops_assets.ports import Platform

SCORE = "score"
"""The name of the score's column in a baseline, beside the features."""


def baseline_key(model: str, release: str) -> str:
    """The training-time profile of a release, against which drift is measured."""
    return f"models/{model}/{release}/baseline.json"


def baseline_of(platform: Platform, spec: ModelSpec, release: str) -> Baseline:
    """What a release is watched by; :class:`NotFound` if it has none."""
    return Baseline.from_json(platform.objects.get(baseline_key(spec.name, release)).decode())


def training_baseline(platform: Platform, spec: ModelSpec, trained: TrainedModel, exported: bytes) -> bytes:
    """What the release is watched by: the training rows' profile, and what its scores mean on the holdout, which it has not seen."""
    training, holdout = (
        tables.read_set(platform.objects, spec.name, digest) for digest in (trained.training_set.training, trained.training_set.holdout)
    )
    seen, unseen = matrix_of(spec, training), matrix_of(spec, holdout)
    score = partial(onnx_export.score, exported)
    matrix, scored = np.column_stack([seen, score(seen)]), score(unseen)
    profile = baseline([*spec.features.names, SCORE], matrix)
    times, label = training["event_timestamp"].dt.tz_localize(None).to_numpy(), holdout[spec.label.column].to_numpy(dtype=int)
    known, days = calibrate(scored, label), holdout["event_timestamp"].dt.floor("D")
    made = Baseline(
        profile,
        cut(profile, matrix, times, spec.drift.window),
        importance(spec.features.names, score, unseen),
        known,
        auc(label, scored) if 0 < label.sum() < len(label) else None,
        first_margins([_as_expected(spec, scored[rows], label[rows], known) for rows in days.groupby(days).indices.values()]),
    )
    return made.to_json().encode()


def _as_expected(spec: ModelSpec, score: np.ndarray, label: np.ndarray, known: Calibration | None) -> tuple[Figure, ...]:
    limit = spec.label.decision_threshold
    return figures(Outcomes(score, label, score >= limit), known, limit)
