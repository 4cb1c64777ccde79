"""A tiny model with a signature: its score is the logistic function of the sum of its inputs."""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import INPUT_NAME, METADATA_KEY, SCORE_NAME, Signature

INPUTS = (Feature("hour"), Feature("distance"), Feature("carrier", ("AA", "UA")))
SIGNATURE = Signature("tiny", INPUTS, "tail_number", 0.5, "t" * 8)
GOOD = {"hour": 0.5, "distance": 1, "carrier": "UA"}
"""Inputs whose sum is 2.5."""


@dataclass(frozen=True)
class ModelFile:
    data: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def tiny_model(
    signature: Signature | None = SIGNATURE,
    output: str = SCORE_NAME,
    width: int = len(INPUTS),
    bias: float = 0.0,
    nan_above: float = 3e38,
) -> ModelFile:
    """The model's file. ``nan_above`` makes it a broken one: it answers NaN where the sum of its inputs is above."""
    nodes = [
        helper.make_node("IsNaN", [INPUT_NAME], ["missing"]),
        helper.make_node("Where", ["missing", "zero", INPUT_NAME], ["known"]),
        helper.make_node("ReduceSum", ["known", "axis"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "bias"], ["logit"]),
        helper.make_node("Greater", ["sum", "limit"], ["above"]),
        helper.make_node("Where", ["above", "nan", "logit"], ["checked"]),
        helper.make_node("Sigmoid", ["checked"], [output]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("bias", TensorProto.FLOAT, [], [bias]),
        helper.make_tensor("limit", TensorProto.FLOAT, [], [nan_above]),
        helper.make_tensor("nan", TensorProto.FLOAT, [], [math.nan]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if signature is not None:
        helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
    onnx.checker.check_model(model)
    return ModelFile(model.SerializeToString())


def forest(trees: int = 200, width: int = 20) -> ModelFile:
    """Boosted trees, as LightGBM made and this project exports them."""
    from lightgbm import LGBMClassifier

    from mlops_assets.adapters.onnx_export import export

    chance = np.random.default_rng(7)
    features = chance.normal(size=(5000, width)).astype(np.float32)
    labels = features[:, 0] + features[:, 1] * features[:, 2] + chance.normal(size=len(features)) > 0
    fitted = LGBMClassifier(n_estimators=trees, num_leaves=31, n_jobs=1, verbose=-1).fit(features, labels)
    return ModelFile(export(fitted, replace(SIGNATURE, model="forest", inputs=_numbered(width))))


def network(hidden: int = 512, width: int = 20) -> ModelFile:
    """A neural net of two wide layers."""
    chance = np.random.default_rng(7)
    sizes = [(width, hidden), (hidden, hidden), (hidden, 1)]
    weights = [chance.normal(scale=size[0] ** -0.5, size=size).astype(np.float32) for size in sizes]
    nodes = [
        helper.make_node("MatMul", [INPUT_NAME, "w0"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Squeeze", ["f", "axis"], [SCORE_NAME]),
    ]
    constants = [numpy_helper.from_array(weight, f"w{place}") for place, weight in enumerate(weights)]
    constants.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
    told = [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, width])]
    score = [helper.make_tensor_value_info(SCORE_NAME, TensorProto.FLOAT, [None])]
    model = helper.make_model(
        helper.make_graph(nodes, "network", told, score, constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    helper.set_model_props(model, {METADATA_KEY: replace(SIGNATURE, model="network", inputs=_numbered(width)).to_json()})
    return ModelFile(model.SerializeToString())


def _numbered(width: int) -> tuple[Feature, ...]:
    return tuple(Feature(f"f{place:02}") for place in range(width))
