import math

import numpy as np
import pytest

from mlops_assets.core.errors import BadData, DigestMismatch
from serving import runtime
from tests.serving.models import INPUTS, SIGNATURE, ModelFile, tiny_model


def test_a_loaded_model_scores_rows_and_knows_its_signature():
    model = tiny_model()
    loaded = runtime.load(model.data, model.digest, threads=1)
    scores = loaded.score(np.array([[0.0, 0.0, 0.0], [1.0, np.nan, 1.0]], dtype=np.float32))
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert loaded.signature == SIGNATURE
    assert loaded.digest == model.digest


def test_bytes_that_were_not_registered_are_refused_before_they_are_opened():
    with pytest.raises(DigestMismatch, match="expected 0000"):
        runtime.load(tiny_model().data, "0" * 64)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (ModelFile(b"\x80\x04K\x01."), "onnxruntime cannot open it"),
        (tiny_model(signature=None), "no 'mlops_signature'"),
        (tiny_model(output="probability"), "expected the input 'features'"),
        (tiny_model(width=len(INPUTS) + 1), "expected the input 'features'"),
        (tiny_model(bias=math.nan), "roll this release back"),
    ],
    ids=["a pickle", "no signature", "another output", "another width", "scores that are no numbers"],
)
def test_a_file_that_is_no_servable_model_is_refused(model, what):
    with pytest.raises(BadData, match=what):
        runtime.load(model.data, model.digest)
