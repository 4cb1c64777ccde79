"""A tiny model with a signature: its score is the logistic function of the sum of its inputs."""

import hashlib
import math
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from mlops_assets.core.model_spec import Feature
from mlops_assets.core.signature import INPUT_NAME, METADATA_KEY, SCORE_NAME, Signature

INPUTS = (Feature("hour"), Feature("distance"), Feature("carrier", ("AA", "UA")))
SIGNATURE = Signature("tiny", INPUTS, "tail_number", 0.5, "tiny_v1", "f" * 8, "t" * 8)
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
