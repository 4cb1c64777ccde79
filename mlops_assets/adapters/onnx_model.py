"""An exported model, opened to be scored outside of serving: in checks, evaluations and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.core.errors import BadData
from mlops_assets.core.signature import INPUT_NAME, METADATA_KEY, SCORE_NAME, Signature

if TYPE_CHECKING:
    import onnxruntime as ort


@dataclass(frozen=True)
class OnnxModel:
    """A loaded model and the signature inside it."""

    signature: Signature
    session: ort.InferenceSession

    @classmethod
    def load(cls, model: bytes) -> OnnxModel:
        """Open an ONNX file.

        Raises:
            BadData: if it is no ONNX file, or carries no signature.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no common parent
            raise BadData(f"model file: onnxruntime cannot open it ({error}): export it anew") from error
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if text is None:
            raise BadData(f"model file: metadata_props has no {METADATA_KEY!r}: export it with its signature")
        return cls(Signature.from_json(text), session)

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """The probability of a yes, float32 of shape (rows,); ``matrix`` is (rows, features), columns as in the signature.

        Raises:
            BadData: if the matrix is of another width.
        """
        wanted = len(self.signature.inputs)
        if matrix.ndim != 2 or matrix.shape[1] != wanted:
            raise BadData(f"{self.signature.model}: got a matrix of shape {matrix.shape}, expected (rows, {wanted})")
        return np.asarray(self.session.run([SCORE_NAME], {INPUT_NAME: np.ascontiguousarray(matrix, dtype=np.float32)})[0])


def score(model: bytes, matrix: np.ndarray) -> np.ndarray:
    """Open a model and score a matrix with it, as :meth:`OnnxModel.score` does."""
    return OnnxModel.load(model).score(matrix)
