"""A release's ONNX model in memory: verified, opened and warmed. It needs neither BentoML nor the network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from mlops_assets.core.errors import BadData, DigestMismatch
from mlops_assets.core.signature import INPUT_NAME, METADATA_KEY, SCORE_NAME, Signature

WARM_ROWS = (1, 1, 64)
"""The first calls allocate; they are made before the release says it is ready."""


@dataclass(frozen=True)
class Runtime:
    """A loaded model. ``score`` may be called from several threads at once."""

    signature: Signature
    digest: str
    session: ort.InferenceSession

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """The probability of a yes for each row.

        Args:
            matrix: float32 of shape (rows, features), columns in the order of ``signature.inputs``.

        Returns float32 of shape (rows,).

        Raises:
            BadData: if the model answers with anything but one finite number a row.
        """
        scores = self.raw_score(matrix)
        if scores.shape != (len(matrix),) or not np.isfinite(scores).all():
            raise BadData(
                f"model {self.signature.model!r} ({self.digest[:12]}) answered {len(matrix)} rows with shape {scores.shape} and "
                f"{int((~np.isfinite(scores)).sum())} scores that are not finite, expected one finite score a row: roll this release back"
            )
        return scores

    def raw_score(self, matrix: np.ndarray) -> np.ndarray:
        """What the model answers, whether or not it makes sense."""
        scores: np.ndarray = self.session.run([SCORE_NAME], {INPUT_NAME: matrix})[0]
        return scores


def load(model_bytes: bytes, digest: str, threads: int = 1) -> Runtime:
    """Verify, open and warm a model.

    Args:
        model_bytes: the ONNX file. Nothing else is ever read; there is no pickle.
        digest: its SHA-256 as hexadecimal digits.
        threads: how many threads one call may use.

    Raises:
        DigestMismatch: if the bytes are not those that were registered.
        BadData: if they are no ONNX model with a signature, or its input and output are not what the signature says.
    """
    got = hashlib.sha256(model_bytes).hexdigest()
    if got != digest:
        raise DigestMismatch(
            f"model file: got sha256 {got}, expected {digest}: the object was changed or cut off; restore or register it anew"
        )
    session = _open(model_bytes, threads)
    signature = _signature(session)
    _require_shapes(session, signature)
    runtime = Runtime(signature, digest, session)
    for rows in WARM_ROWS:
        runtime.score(np.zeros((rows, len(signature.inputs)), dtype=np.float32))
    return runtime


def _open(model_bytes: bytes, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # idle threads that spin would take the processor away from the other releases of the machine
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no common parent
        raise BadData(f"model file: onnxruntime cannot open it ({error}): export it anew") from error


def _signature(session: ort.InferenceSession) -> Signature:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise BadData(f"model file: metadata_props has no {METADATA_KEY!r}: export it with its signature")
    try:
        return Signature.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(f"model file: its {METADATA_KEY!r} is not a signature ({error!r}): export it anew") from error


def _require_shapes(session: ort.InferenceSession, signature: Signature) -> None:
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    outputs = {node.name: node.type for node in session.get_outputs()}
    kind, shape = inputs.get(INPUT_NAME, ("", []))
    wanted = len(signature.inputs)
    width_fits = len(shape) == 2 and (not isinstance(shape[1], int) or shape[1] == wanted)
    if len(inputs) != 1 or kind != "tensor(float)" or not width_fits or outputs.get(SCORE_NAME) != "tensor(float)":
        raise BadData(
            f"model file: got inputs {inputs} and outputs {outputs}, expected the input {INPUT_NAME!r} tensor(float) [rows, {wanted}] "
            f"and the output {SCORE_NAME!r} tensor(float) [rows]: export it anew"
        )
