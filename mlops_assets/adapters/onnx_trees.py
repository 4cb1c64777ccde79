"""Tree ensembles read out of their libraries without loss, and written as one ONNX node that compares as they do.

The converters of onnxmltools and skl2onnx round thresholds to the nearest float32, which flips rows on a boundary, and guess or
drop where a missing value goes. Here thresholds and leaves stay float64: a float32 ``x`` is compared with the same ``t``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlops_assets.core.errors import TrainingFailed

LEQ, EQ, LEAF = "BRANCH_LEQ", "BRANCH_EQ", "LEAF"

_LIGHTGBM_ZERO = float(np.float32(1e-35))
"""LightGBM reads what is not further from zero as zero."""


@dataclass(frozen=True)
class Node:
    """One node: a leaf of ``value``, or a split that goes to ``yes`` if ``feature`` compares to ``value``, else to ``no``.

    ``missing`` says whether a missing value goes to ``yes``.
    """

    mode: str
    value: float
    feature: int = 0
    yes: int = 0
    no: int = 0
    missing: bool = False


@dataclass(frozen=True)
class Ensemble:
    """Trees whose leaves add up to ``base`` plus a sum, and whether that is a logit or the probability itself."""

    trees: tuple[tuple[Node, ...], ...]
    base: float
    logit: bool


def read_ensemble(estimator: Any) -> Ensemble | None:
    """The trees of a fitted classifier; ``None`` if it is not of a kind that is known here.

    Raises:
        TrainingFailed: if it was fitted in a way that ONNX cannot say.
    """
    readers = {
        "LGBMClassifier": _lightgbm,
        "DecisionTreeClassifier": _averaged,
        "ExtraTreeClassifier": _averaged,
        "RandomForestClassifier": _averaged,
        "ExtraTreesClassifier": _averaged,
        "GradientBoostingClassifier": _gradient_boosting,
        "HistGradientBoostingClassifier": _hist_gradient_boosting,
    }
    reader = readers.get(type(estimator).__name__)
    return reader(estimator) if reader is not None else None


def ensemble_node(ensemble: Ensemble, features: str, output: str) -> Any:
    """The ONNX node. ``features`` names a float64 tensor (rows, features), ``output`` a float32 one (rows, 1)."""
    from onnx import helper, numpy_helper

    nodes = [(tree, place, node) for tree, every in enumerate(ensemble.trees) for place, node in enumerate(every)]
    leaves = [entry for entry in nodes if entry[2].mode == LEAF]

    def tensor(name: str, values: list[float]) -> Any:
        return numpy_helper.from_array(np.asarray(values, dtype=np.float64), name)

    return helper.make_node(
        "TreeEnsembleRegressor",
        [features],
        [output],
        name="trees",
        domain="ai.onnx.ml",
        aggregate_function="SUM",
        post_transform="NONE",
        n_targets=1,
        base_values_as_tensor=tensor("base_values", [ensemble.base]),
        nodes_treeids=[tree for tree, _, _ in nodes],
        nodes_nodeids=[place for _, place, _ in nodes],
        nodes_featureids=[node.feature for _, _, node in nodes],
        nodes_modes=[node.mode for _, _, node in nodes],
        nodes_values_as_tensor=tensor("nodes_values", [0.0 if node.mode == LEAF else node.value for _, _, node in nodes]),
        nodes_truenodeids=[node.yes for _, _, node in nodes],
        nodes_falsenodeids=[node.no for _, _, node in nodes],
        nodes_missing_value_tracks_true=[int(node.missing) for _, _, node in nodes],
        target_treeids=[tree for tree, _, _ in leaves],
        target_nodeids=[place for _, place, _ in leaves],
        target_ids=[0] * len(leaves),
        target_weights_as_tensor=tensor("target_weights", [node.value for _, _, node in leaves]),
    )


def _lightgbm(estimator: Any) -> Ensemble:
    # the JSON has 17 digits, so that no threshold changes; None means up to the best iteration, as in predict_proba
    dump = estimator.booster_.dump_model(num_iteration=None)
    objective, *options = dump["objective"].split()
    if objective != "binary":
        raise TrainingFailed(f"the LightGBM model has objective {objective!r}, expected 'binary': its score must be a probability")
    slope = next((float(option.removeprefix("sigmoid:")) for option in options if option.startswith("sigmoid:")), 1.0)
    scale = slope / (len(dump["tree_info"]) if dump["average_output"] else 1)
    trees = tuple(tuple(_lightgbm_nodes(tree["tree_structure"], scale)) for tree in dump["tree_info"])
    return Ensemble(trees, 0.0, logit=True)


def _lightgbm_nodes(root: Mapping[str, Any], scale: float) -> list[Node]:
    nodes: list[Node] = []

    def add(part: Mapping[str, Any]) -> int:
        place = len(nodes)
        if "leaf_coeff" in part:
            raise TrainingFailed("the LightGBM model has linear leaves, which ONNX trees cannot say: train with linear_tree=False")
        if "split_feature" not in part:
            nodes.append(Node(LEAF, float(part["leaf_value"]) * scale))
            return place
        tests = list(_lightgbm_tests(part))
        nodes.extend(tests)
        yes, no = add(part["left_child"]), add(part["right_child"])
        for index, test in enumerate(tests):
            following = place + index + 1 if index + 1 < len(tests) else no
            nodes[place + index] = Node(test.mode, test.value, test.feature, yes, following, test.missing)
        return place

    add(root)
    return nodes


def _lightgbm_tests(part: Mapping[str, Any]) -> Iterator[Node]:
    """One comparison, or for a set of categories one each, of which any goes to the left."""
    feature, missing_type = int(part["split_feature"]), part["missing_type"]
    if part["decision_type"] == "==":
        for category in str(part["threshold"]).split("||"):
            yield Node(EQ, float(category), feature)
        return
    if missing_type == "Zero":
        raise TrainingFailed("the LightGBM model takes zero for missing, which ONNX trees cannot say: train with zero_as_missing=False")
    threshold = float(part["threshold"])
    # without a missing type LightGBM takes a missing value for zero
    missing = bool(part["default_left"]) if missing_type == "NaN" else threshold >= 0
    yield Node(LEQ, _beside_zero(threshold), feature, missing=missing)


def _beside_zero(threshold: float) -> float:
    """The threshold that separates the values as they are as LightGBM's separates them after making the tiny ones zero.

    ``x <= -1e-35`` is false for -1e-35 itself, which is read as 0; ``x <= 0`` is true for 1e-35.
    """
    if -_LIGHTGBM_ZERO <= threshold < 0:
        return math.nextafter(-_LIGHTGBM_ZERO, -math.inf)
    if 0 <= threshold < _LIGHTGBM_ZERO:
        return _LIGHTGBM_ZERO
    return threshold


def _averaged(estimator: Any) -> Ensemble:
    fitted = getattr(estimator, "estimators_", [estimator])
    trees = []
    for each in fitted:
        votes = each.tree_.value[:, 0, :]
        trees.append(_sklearn_nodes(each.tree_, votes[:, 1] / votes.sum(axis=1) / len(fitted)))
    return Ensemble(tuple(trees), 0.0, logit=False)


def _gradient_boosting(estimator: Any) -> Ensemble:
    first = getattr(estimator, "init_", "zero")
    if not isinstance(first, str) and type(first).__name__ != "DummyClassifier":
        raise TrainingFailed(f"the boosting starts from a {type(first).__name__}, which cannot be exported: leave 'init' out")
    # exponential loss has half the logit
    scale = 2.0 if estimator.loss == "exponential" else 1.0
    base = float(np.ravel(estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32)))[0]) * scale
    stages = [stage.tree_ for stage in estimator.estimators_[:, 0]]
    trees = tuple(_sklearn_nodes(tree, tree.value[:, 0, 0] * estimator.learning_rate * scale) for tree in stages)
    return Ensemble(trees, base, logit=True)


def _sklearn_nodes(tree: Any, values: np.ndarray) -> tuple[Node, ...]:
    return tuple(
        Node(LEAF, float(values[place]))
        if left < 0
        else Node(LEQ, float(tree.threshold[place]), int(tree.feature[place]), int(left), int(right), bool(tree.missing_go_to_left[place]))
        for place, (left, right) in enumerate(zip(tree.children_left, tree.children_right, strict=True))
    )


def _hist_gradient_boosting(estimator: Any) -> Ensemble:
    predictors = [stage[0].nodes for stage in estimator._predictors]
    if any(nodes["is_categorical"].any() for nodes in predictors):
        raise TrainingFailed(
            "the HistGradientBoostingClassifier has categorical splits, which cannot be exported: leave categorical_features out"
        )
    base = float(np.ravel(estimator._baseline_prediction)[0])
    return Ensemble(tuple(tuple(_hist_node(node) for node in nodes) for nodes in predictors), base, logit=True)


def _hist_node(node: Any) -> Node:
    if node["is_leaf"]:
        return Node(LEAF, float(node["value"]))
    missing = bool(node["missing_go_to_left"])
    return Node(LEQ, float(node["num_threshold"]), int(node["feature_idx"]), int(node["left"]), int(node["right"]), missing)
