"""What the export promises: the same decisions as the trained model, on real rows and on every split's two sides."""

import lightgbm as lgb
import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from mlops_assets.adapters.onnx_export import export, score, split_thresholds
from mlops_assets.adapters.onnx_model import OnnxModel
from mlops_assets.core.errors import BadData, TrainingFailed
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.parity import boundary_rows, compare
from mlops_assets.core.signature import Signature
from tests.serving.models import tiny_model

NAMES = ("temperature", "hour", "distance", "carrier", "delay")
CARRIERS = tuple("ABCDEFGH")
SIGNATURE = Signature("flight-delay", tuple(Feature(name, CARRIERS if name == "carrier" else ()) for name in NAMES), "tailnum", 0.5, "set")


@pytest.fixture(autouse=True)
def one_thread():
    """Many OpenMP threads on few processors wait for each other."""
    with threadpool_limits(1):
        yield


def rows(n=4_000, missing=True, seed=0):
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "temperature": random.normal(10, 8, n).round(1),
            "hour": random.integers(0, 24, n),
            "distance": np.exp(random.normal(6, 1, n)),
            "carrier": random.integers(-1, len(CARRIERS), n),
            "delay": random.normal(0, 1e-3, n) * (random.random(n) < 0.7),
        }
    ).astype(np.float32)
    logit = 0.1 * frame["temperature"] - 1 + (frame["carrier"] % 3 == 1) + 500 * frame["delay"] + (frame["hour"] > 15)
    label = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(int).to_numpy()
    if missing:
        frame = frame.mask(random.random(frame.shape) < 0.15).astype(np.float32)
        frame["carrier"] = frame["carrier"].fillna(-1)
    return frame, label


FEW = {"n_estimators": 60, "random_state": 0, "n_jobs": 1}
WITH_MISSING = {
    "lightgbm": lgb.LGBMClassifier(**FEW, num_leaves=31, verbose=-1),
    "lightgbm without a missing type": lgb.LGBMClassifier(**FEW, use_missing=False, verbose=-1),
    "lightgbm as a random forest": lgb.LGBMClassifier(**FEW, boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, verbose=-1),
    "lightgbm dart with a slope": lgb.LGBMClassifier(**FEW, boosting_type="dart", sigmoid=1.7, verbose=-1),
    "lightgbm with categories": lgb.LGBMClassifier(**FEW, categorical_feature=[3], verbose=-1),
    "lightgbm behind an imputer": make_pipeline(SimpleImputer(strategy="median"), lgb.LGBMClassifier(**FEW, verbose=-1)),
    "hist gradient boosting": HistGradientBoostingClassifier(max_iter=60, random_state=0),
    "random forest": RandomForestClassifier(**FEW, max_depth=8),
    "decision tree": DecisionTreeClassifier(max_depth=8, random_state=0),
    "extra trees": ExtraTreesClassifier(**FEW, max_depth=8),
    "imputer, scaler, logistic regression": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
}
WITHOUT_MISSING = {
    "gradient boosting": GradientBoostingClassifier(n_estimators=60, random_state=0),
    "gradient boosting with exponential loss": GradientBoostingClassifier(n_estimators=60, random_state=0, loss="exponential"),
    "gradient boosting from zero": GradientBoostingClassifier(n_estimators=60, random_state=0, init="zero"),
    "random forest of pure leaves": RandomForestClassifier(n_estimators=100, random_state=0),
    "logistic regression": LogisticRegression(max_iter=2_000),
    "neural network": make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=60, random_state=0)),
}


def fitted(estimator, missing):
    features, label = rows(missing=missing)
    return estimator.fit(features, label)


@pytest.mark.parametrize(
    ("estimator", "missing"),
    [
        *(pytest.param(each, True, id=name) for name, each in WITH_MISSING.items()),
        *(pytest.param(each, False, id=name) for name, each in WITHOUT_MISSING.items()),
    ],
)
@pytest.mark.long
def test_the_export_decides_as_the_model_on_new_rows_and_beside_every_split(estimator, missing):
    model = fitted(estimator, missing)
    exported = export(model, SIGNATURE)
    base = rows(missing=missing, seed=1)[0].to_numpy()
    asked = np.vstack([base, boundary_rows(base, split_thresholds(exported), per_feature=2_000)])
    native = model.predict_proba(pd.DataFrame(asked, columns=NAMES))[:, 1]
    verdict = compare(native, score(exported, asked), SIGNATURE.decision_threshold)
    assert verdict.passed, verdict.reason
    assert verdict.value < 1e-6


@pytest.mark.parametrize("name", ["lightgbm", "random forest", "hist gradient boosting"])
def test_beside_a_split_each_side_gets_its_own_leaf(name):
    """Otherwise the test above could pass because the boundary rows are no boundary rows."""
    exported = export(fitted(WITH_MISSING[name], True), SIGNATURE)
    thresholds = split_thresholds(exported)
    base = rows(seed=1)[0].to_numpy()
    for feature, values in thresholds.items():
        finite = [value for value in values if abs(value) < 1e30]
        around = boundary_rows(base[:1], {feature: finite}, per_feature=2_000)
        scores = score(exported, around).reshape(-1, 3)
        assert (scores[:, 1] != scores[:, 2]).any()


def test_the_same_model_gives_the_same_bytes():
    first, second = (fitted(lgb.LGBMClassifier(**FEW, verbose=-1, deterministic=True), True) for _ in range(2))
    assert export(first, SIGNATURE) == export(first, SIGNATURE) == export(second, SIGNATURE)
    pipeline = fitted(WITH_MISSING["imputer, scaler, logistic regression"], True)
    assert export(pipeline, SIGNATURE) == export(pipeline, SIGNATURE)


@pytest.mark.parametrize("name", ["lightgbm", "imputer, scaler, logistic regression"])
def test_the_file_has_one_input_one_output_and_its_signature(name):
    exported = export(fitted(WITH_MISSING[name], True), SIGNATURE)
    onnx.checker.check_model(onnx.load_from_string(exported))
    loaded = OnnxModel.load(exported)
    (features,), (answer,) = loaded.session.get_inputs(), loaded.session.get_outputs()
    assert (features.name, features.type, features.shape[1]) == ("features", "tensor(float)", len(NAMES))
    assert (answer.name, answer.type) == ("score", "tensor(float)")
    assert loaded.signature == SIGNATURE
    assert loaded.score(rows(7)[0].to_numpy()).shape == (7,)
    assert loaded.score(np.empty((0, 5), dtype=np.float32)).shape == (0,)


def test_the_second_class_is_the_yes_whatever_its_name():
    features, label = rows()
    named = lgb.LGBMClassifier(**FEW, verbose=-1).fit(features, np.where(label, "late", "in time"))
    exported = export(named, SIGNATURE)
    assert list(named.classes_) == ["in time", "late"]
    assert compare(named.predict_proba(features)[:, 1], score(exported, features.to_numpy()), 0.5).passed


def test_the_best_iteration_counts_as_in_the_model():
    features, label = rows()
    stopped = lgb.LGBMClassifier(n_estimators=400, learning_rate=0.3, n_jobs=1, verbose=-1)
    stopped.fit(
        features[:3_000], label[:3_000], eval_set=[(features[3_000:], label[3_000:])], callbacks=[lgb.early_stopping(5, verbose=False)]
    )
    assert stopped.best_iteration_ < 400
    assert compare(stopped.predict_proba(features)[:, 1], score(export(stopped, SIGNATURE), features.to_numpy()), 0.5).passed


def test_thresholds_are_those_of_the_model_and_none_without_trees():
    model = fitted(DecisionTreeClassifier(max_depth=3, random_state=0), True)
    inner = model.tree_.children_left >= 0
    expected = {}
    for feature, value in zip(model.tree_.feature[inner], model.tree_.threshold[inner], strict=True):
        expected.setdefault(int(feature), set()).add(float(value))
    assert split_thresholds(export(model, SIGNATURE)) == {feature: sorted(values) for feature, values in sorted(expected.items())}
    assert split_thresholds(export(fitted(WITHOUT_MISSING["logistic regression"], False), SIGNATURE)) == {}
    assert split_thresholds(export(fitted(WITH_MISSING["lightgbm behind an imputer"], True), SIGNATURE)) == {}


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (lgb.LGBMClassifier(n_estimators=3, n_jobs=1, linear_tree=True, verbose=-1), "linear_tree"),
        (lgb.LGBMClassifier(n_estimators=3, n_jobs=1, zero_as_missing=True, verbose=-1), "zero_as_missing"),
        (lgb.LGBMClassifier(n_estimators=3, n_jobs=1, objective="cross_entropy", verbose=-1), "objective"),
        (HistGradientBoostingClassifier(max_iter=30, categorical_features=[3]), "categorical"),
        (AdaBoostClassifier(DecisionTreeClassifier(max_depth=1), n_estimators=2), None),
    ],
    ids=["linear leaves", "zero as missing", "no probability", "categorical splits", "known to skl2onnx"],
)
def test_what_onnx_cannot_say_is_refused_with_what_to_change(estimator, told):
    features, label = rows(missing=False)
    features["carrier"] += 1
    model = estimator.fit(features, label)
    if told is None:
        assert compare(model.predict_proba(features)[:, 1], score(export(model, SIGNATURE), features.to_numpy()), 0.5).value < 1e-5
        return
    with pytest.raises(TrainingFailed, match=told):
        export(model, SIGNATURE)


def test_what_is_no_binary_classifier_of_these_columns_is_refused():
    features, label = rows(missing=False)
    with pytest.raises(TrainingFailed, match="expected two"):
        export(LinearRegression().fit(features, label), SIGNATURE)
    with pytest.raises(TrainingFailed, match="expected two"):
        export(lgb.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(features, np.arange(len(label)) % 3), SIGNATURE)
    with pytest.raises(TrainingFailed, match="4 columns"):
        export(lgb.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1).fit(features.iloc[:, :4], label), SIGNATURE)


def test_an_estimator_that_nobody_knows_is_refused():
    class Strange:
        classes_ = (0, 1)

    with pytest.raises(TrainingFailed, match="Strange"):
        export(Strange(), SIGNATURE)


def test_a_matrix_of_another_width_and_a_file_that_is_no_model_are_bad_data():
    model = tiny_model()
    assert split_thresholds(model.data) == {}
    with pytest.raises(BadData, match="expected"):
        score(model.data, np.zeros((1, 9), dtype=np.float32))
    for read in (split_thresholds, OnnxModel.load):
        with pytest.raises(BadData):
            read(b"no model")
    with pytest.raises(BadData, match="signature"):
        OnnxModel.load(tiny_model(signature=None).data)
