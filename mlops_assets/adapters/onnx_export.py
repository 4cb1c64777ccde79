"""Fitted classifiers as ONNX files that carry their signature: float32 ``features`` in, float32 ``score`` out.

Trees are written by :mod:`mlops_assets.adapters.onnx_trees`, everything else by skl2onnx.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mlops_assets.adapters.onnx_model import score
from mlops_assets.adapters.onnx_trees import LEQ, Ensemble, ensemble_node, read_ensemble
from mlops_assets.core.errors import BadData, TrainingFailed
from mlops_assets.core.signature import INPUT_NAME, METADATA_KEY, SCORE_NAME, Signature

__all__ = ["export", "score", "split_thresholds"]

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_IR_VERSION = 9


def export(estimator: Any, signature: Signature) -> bytes:
    """A fitted binary classifier as one ONNX file: ``features`` in, ``score`` out, the signature in its metadata.

    The same model gives the same bytes.

    Args:
        estimator: a LightGBM or scikit-learn classifier, or a scikit-learn pipeline that ends in one.
        signature: what the model expects; its inputs are the columns that the estimator was fitted on, in their order.

    Raises:
        TrainingFailed: if it is not binary, was fitted on another number of columns, or cannot be said in ONNX.
    """
    _require_fits(estimator, signature)
    steps, last = _split(estimator)
    ensemble = read_ensemble(last)
    width = len(signature.inputs)
    model = _with_trees(steps, ensemble, width) if ensemble is not None else _converted(estimator, width)
    model.graph.name = signature.model
    _prune(model.graph)
    _declare(model, signature)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def split_thresholds(model: bytes) -> dict[int, list[float]]:
    """Of each feature the values at which the exported trees split, as float64.

    Empty for a model without trees, and for trees behind other steps, which split values that are not the features'.
    """
    import onnx
    from onnx import numpy_helper

    found: dict[int, set[float]] = defaultdict(set)
    graph = _parsed(onnx, model).graph
    sources = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "TreeEnsembleRegressor" or not _reads_features(node, sources):
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        values = numpy_helper.to_array(attributes["nodes_values_as_tensor"].t)
        modes = attributes["nodes_modes"].strings
        for feature, value, mode in zip(attributes["nodes_featureids"].ints, values, modes, strict=True):
            if mode == LEQ.encode():
                found[feature].add(float(value))
    return {feature: sorted(values) for feature, values in sorted(found.items())}


def _parsed(onnx: Any, model: bytes) -> Any:
    try:
        return onnx.load_from_string(model)
    except Exception as error:  # protobuf's own error, whose class depends on its implementation
        raise BadData(f"model file: got no ONNX ({error}): export it anew") from error


def _reads_features(node: Any, sources: dict[str, Any]) -> bool:
    name = node.input[0]
    while name in sources and sources[name].op_type in ("Cast", "Identity"):
        name = sources[name].input[0]
    return bool(name == INPUT_NAME)


def _require_fits(estimator: Any, signature: Signature) -> None:
    kind = type(estimator).__name__
    classes = getattr(estimator, "classes_", None)
    if classes is None or len(classes) != 2:
        got = "none" if classes is None else ", ".join(map(str, classes))
        raise TrainingFailed(f"the {kind} knows the classes {got}, expected two: the trainer must return a fitted binary classifier")
    width, wanted = getattr(estimator, "n_features_in_", None), len(signature.inputs)
    if width is not None and width != wanted:
        raise TrainingFailed(
            f"the {kind} was fitted on {width} columns, expected the {wanted} of features.inputs: fit it on the columns it is given"
        )


def _split(estimator: Any) -> tuple[Any | None, Any]:
    """The steps before the classifier, if there are any, and the classifier."""
    if type(estimator).__name__ != "Pipeline":
        return None, estimator
    before = estimator[:-1]
    return (before if len(before) else None), estimator[-1]


def _with_trees(steps: Any | None, ensemble: Ensemble, width: int) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    if steps is None:
        features = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [None, width])
        model, tree_input = _empty_model(features), INPUT_NAME
    else:
        model = _by_skl2onnx(steps, width)
        tree_input = model.graph.output[0].name
    link = "Sigmoid" if ensemble.logit else "Identity"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1], dtype=np.int64), "score_axis"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", [tree_input], ["exact_features"], to=TensorProto.DOUBLE),
            ensemble_node(ensemble, "exact_features", "tree_sum"),
            helper.make_node(link, ["tree_sum"], ["score_column"]),
            helper.make_node("Squeeze", ["score_column", "score_axis"], [SCORE_NAME]),
        ]
    )
    return model


def _empty_model(features: Any) -> Any:
    from onnx import helper

    return helper.make_model(helper.make_graph([], "model", [features], []))


def _converted(estimator: Any, width: int) -> Any:
    """A classifier without trees: of its two outputs only the probability of the second class is kept."""
    from onnx import TensorProto, helper, numpy_helper

    model = _by_skl2onnx(estimator, width, zipmap=False)
    probabilities = model.graph.output[1].name
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(1, dtype=np.int64), "column_of_yes"))
    model.graph.node.extend(
        [
            helper.make_node("Gather", [probabilities, "column_of_yes"], ["score_of_yes"], axis=1),
            helper.make_node("Cast", ["score_of_yes"], [SCORE_NAME], to=TensorProto.FLOAT),
        ]
    )
    return model


def _by_skl2onnx(estimator: Any, width: int, **options: bool) -> Any:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    types = [(INPUT_NAME, FloatTensorType([None, width]))]
    try:
        return convert_sklearn(estimator, initial_types=types, options=options or None, target_opset=_OPSETS, name="model")
    except Exception as error:  # its errors have no common parent
        raise TrainingFailed(
            f"the {type(estimator).__name__} cannot be exported to ONNX ({type(error).__name__}: {error}): return a LightGBM or "
            f"scikit-learn classifier that skl2onnx knows, with columns chosen by their position"
        ) from error


def _prune(graph: Any) -> None:
    """Make ``score`` the only output and drop what it does not need."""
    from onnx import TensorProto, helper

    needed, kept = {SCORE_NAME}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    initializers = [each for each in graph.initializer if each.name in needed]
    for part in (graph.node, graph.initializer, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
    graph.output.append(helper.make_tensor_value_info(SCORE_NAME, TensorProto.FLOAT, [None]))


def _declare(model: Any, signature: Signature) -> None:
    """The versions that all parts were made for, and the signature."""
    from onnx import helper

    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in _OPSETS.items())
    model.ir_version = _IR_VERSION
    helper.set_model_props(model, {METADATA_KEY: signature.to_json()})
