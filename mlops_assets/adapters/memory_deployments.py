"""The in-memory twin of :mod:`mlops_assets.adapters.processes`: a release is a callable in this process."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from mlops_assets.core.errors import DigestMismatch, NotFound, NotReady, Unavailable
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.serving_spec import Serving
from mlops_assets.core.signature import Signature, encode
from mlops_assets.ports import Deployment, ObjectStore, model_key

Predictor = Callable[[np.ndarray], np.ndarray]
"""A loaded model: a float32 matrix of shape (rows, features) to scores of shape (rows,)."""

StartRelease = Callable[[str, str, str], Predictor]
"""Loads model, release and digest. When it raises, the release is never ready."""


@dataclass(frozen=True)
class SignedPredictor:
    """A predictor that knows the order, categories and decision threshold of its inputs."""

    signature: Signature
    score: Predictor

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        return self.score(matrix)


def onnx_predictors(objects: ObjectStore) -> StartRelease:
    """Releases that run the ONNX files of the object store, verified by their digest."""

    def start(model: str, release: str, digest: str) -> Predictor:
        from mlops_assets.adapters.onnx_model import OnnxModel

        data = objects.get(model_key(model, release))
        got = hashlib.sha256(data).hexdigest()
        if got != digest:
            raise DigestMismatch(f"{model_key(model, release)}: got sha256 {got}, expected {digest}: restore it, or register a new release")
        loaded = OnnxModel.load(data)
        return SignedPredictor(loaded.signature, loaded.score)

    return start


@dataclass(frozen=True)
class _Running:
    deployment: Deployment
    predictor: Predictor | None
    log: str = ""


class MemoryDeployments:
    """A :class:`mlops_assets.ports.Deployments` in this process.

    Args:
        start: loads a release. What it raises stands in the release's log; a later ``start`` of the release tries again.
    """

    def __init__(self, start: StartRelease) -> None:
        self._start = start
        self._running: dict[tuple[str, str], _Running] = {}
        self._ports = count(1)

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        there = self._running.get((model, release))
        if there is not None and there.predictor is not None:
            return
        endpoint = there.deployment.endpoint if there else f"memory:{next(self._ports)}"
        try:
            started = _Running(Deployment(model, release, endpoint, True), self._start(model, release, digest))
        except Exception as error:
            started = _Running(Deployment(model, release, endpoint, False), None, f"{type(error).__name__}: {error}")
        self._running[model, release] = started

    def stop(self, model: str, release: str) -> None:
        self._running.pop((model, release), None)

    def running(self, model: str) -> Sequence[Deployment]:
        return [self._running[key].deployment for key in sorted(key for key in self._running if key[0] == model)]

    def wait_ready(self, model: str, release: str, within: float) -> Deployment:
        found = self._running.get((model, release))
        if found is None:
            raise NotFound(f"{release} of {model} was not started: start it first")
        if found.predictor is None:
            raise NotReady(f"{release} of {model} did not become ready within {within:g} s; its log ends:\n{found.log}")
        return found.deployment

    def predict(self, deployment: Deployment, rows: Sequence[Mapping[str, Any]]) -> Sequence[float]:
        predictor = self.predictor(deployment.endpoint)
        if predictor is None:
            raise Unavailable(f"{deployment.release} of {deployment.model} does not answer: see its log")
        inputs = predictor.signature.inputs if isinstance(predictor, SignedPredictor) else tuple(Feature(name) for name in rows[0])
        columns = {feature.name: [row.get(feature.name) for row in rows] for feature in inputs}
        return [float(score) for score in predictor(encode(inputs, columns))]

    def predictor(self, endpoint: str) -> Predictor | None:
        """What answers at this endpoint; ``None`` if nothing does."""
        return next((entry.predictor for entry in self._running.values() if entry.deployment.endpoint == endpoint), None)
