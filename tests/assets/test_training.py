"""What the features of the views add to a model is logged with it, and told where it is judged."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.protobuf import text_format
from sklearn.metrics import roc_auc_score
from tritonclient.grpc import model_config_pb2 as triton_pb

from mlops_assets.adapters import tables
from mlops_assets.assets.evaluation import evaluate
from mlops_assets.assets.reading import matrix_of
from mlops_assets.core.feature_spec import Online
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import model_key
from tests.assets.gifts import DAYS, NAME, SLUG, Gifts, train
from tests.assets.test_history import land
from tests.world import World

REQUEST, HISTORY = ("items", "amount", "discount", "channel"), ("customer_return_rate", "customer_outcomes")


def picky(features: pd.DataFrame, label: np.ndarray, *, seed: int, **hyperparameters: Any) -> Any:
    """A trainer that counts on a column."""
    known = features["customer_outcomes"].notna()
    return train(features[known], label[known], seed=seed, **hyperparameters)


class Mute:
    """An estimator that answers only if it sees history."""

    def __init__(self, fitted: Any) -> None:
        self.predict_proba = None if fitted is None else fitted.predict_proba


def mute(features: pd.DataFrame, label: np.ndarray, *, seed: int, **hyperparameters: Any) -> Any:
    """A trainer whose estimator cannot answer without history."""
    return train(features, label, seed=seed, **hyperparameters) if "customer_outcomes" in features else Mute(None)


def with_inputs(spec: ModelSpec, names: tuple[str, ...]) -> ModelSpec:
    inputs = tuple(feature for feature in spec.features.inputs if feature.name in names)
    return replace(spec, features=replace(spec.features, inputs=inputs))


def with_trainer(spec: ModelSpec, name: str) -> ModelSpec:
    return replace(spec, training=replace(spec.training, trainer=f"tests.assets.test_training:{name}"))


def trained(shop: Gifts, spec: ModelSpec) -> tuple[World, dict[str, Any], str]:
    """A world with a first release, the figures that were logged of it, and its certificate."""
    world, _ = shop.world(spec)
    land(shop, world, DAYS)
    assert shop.train(world).success
    metadata = {name: value.value for name, value in world.materializations(NAME, "model")[-1].metadata.items()}
    (logged,) = world.platform.registry.runs.values()  # type: ignore[attr-defined]
    assert {name: metadata[name] for name in logged.run.metrics} == dict(logged.run.metrics)
    return world, metadata, evaluate(world.platform, spec, "v1", None).certificate


def test_the_auc_without_history_is_logged_and_the_difference_is_in_the_certificate(shop: Gifts) -> None:
    world, logged, certificate = trained(shop, shop.spec)
    made = world.materializations(NAME, "training_set")[-1].metadata
    training, holdout = (tables.read_set(world.objects, NAME, str(made[f"{part}_digest"].value)) for part in ("training", "holdout"))
    alone = with_inputs(shop.spec, REQUEST)
    fitted = importlib.import_module(f"mlops_assets.defs.{SLUG}.training").train(
        pd.DataFrame(matrix_of(alone, training), columns=list(REQUEST)), training["returned"].to_numpy(), seed=0, C=1.0
    )
    expected = roc_auc_score(
        holdout["returned"], fitted.predict_proba(pd.DataFrame(matrix_of(alone, holdout), columns=list(REQUEST)))[:, 1]
    )
    assert logged["holdout_auc_without_history"] == pytest.approx(expected, abs=1e-6)
    assert logged["holdout_auc"] > expected
    told = f"the AUC is {logged['holdout_auc']:.4f} with the features of the views, {expected:.4f} with what comes with the request alone"
    assert logged["history"].startswith(told)
    assert "interval" in logged["history"]
    assert f"\n\nHistory: {logged['history']}.\n" in certificate


def test_a_registered_release_is_a_triton_model_repository_too(shop: Gifts) -> None:
    world, _ = shop.world(shop.spec)
    land(shop, world, DAYS)
    assert shop.train(world).success
    root = f"models/{NAME}/v1/triton/"
    assert world.materializations(NAME, "registered_model")[-1].metadata["triton"].value == f"s3://{root}"
    files = {info.key.removeprefix(root): world.objects.get(info.key) for info in world.objects.list(root)}
    assert files.keys() == {f"{NAME}/config.pbtxt", f"{NAME}/1/model.onnx"}
    assert files[f"{NAME}/1/model.onnx"] == world.objects.get(model_key(NAME, "v1"))
    read = text_format.Parse(files[f"{NAME}/config.pbtxt"].decode(), triton_pb.ModelConfig())
    assert (read.name, read.max_batch_size) == (NAME, shop.spec.triton.max_batch)
    assert [tensor.dims for tensor in read.input] == [[len(shop.spec.features.inputs)]]


def test_a_model_without_features_of_views_has_no_such_line(shop: Gifts) -> None:
    _, logged, certificate = trained(shop, with_inputs(shop.spec, REQUEST))
    assert "holdout_auc" in logged
    assert not {"holdout_auc_without_history", "history"} & logged.keys()
    assert "History" not in certificate


def test_a_model_of_features_of_views_alone_is_held_against_a_guess(shop: Gifts) -> None:
    _, logged, certificate = trained(shop, with_inputs(shop.spec, HISTORY))
    assert logged["holdout_auc_without_history"] == 0.5
    assert "0.5000 with what comes with the request alone" in certificate


@pytest.mark.parametrize(
    ("trainer", "why"), [("picky", "KeyError: 'customer_outcomes'"), ("mute", "TypeError: 'NoneType' object is not callable")]
)
def test_a_training_that_fails_without_history_is_told_and_the_model_is_none_the_worse(shop: Gifts, trainer: str, why: str) -> None:
    world, logged, certificate = trained(shop, with_trainer(shop.spec, trainer))
    assert "holdout_auc" in logged
    assert "holdout_auc_without_history" not in logged
    assert logged["history"] == f"what the features of the views add is not known, since without them: {why}"
    assert f"History: {logged['history']}." in certificate
    assert world.platform.registry.release(NAME, "v1").tags["history"] == logged["history"]


def test_a_default_that_is_to_stand_in_must_be_there_before_anything_is_trained(shop: Gifts) -> None:
    features = replace(shop.spec.features, online=Online(missing="default"))
    world, _ = shop.world(replace(shop.spec, features=features))
    land(shop, world, DAYS)
    failed = world.materialize(NAME, "training_set", "model", "onnx_model")
    assert not failed.success
    reason = failed.failure_data_for_node(f"{SLUG}_train_and_export").error.to_string()
    assert "features.online" in reason
    assert "customer_return_rate, customer_outcomes has none" in reason
