"""From a training set to a registered release: the ``training`` group of a model."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
from pydantic import Field

from mlops_assets.adapters import onnx_export, tables, triton
from mlops_assets.assets import keys
from mlops_assets.assets.baseline import baseline_key, training_baseline
from mlops_assets.assets.documents import TrainedModel, TrainingSet
from mlops_assets.assets.reading import blocks_of, load, matrix_of, training_code_version, views_of
from mlops_assets.assets.verdicts import check_result
from mlops_assets.changes import change
from mlops_assets.core import parity
from mlops_assets.core.certificate import trained_because
from mlops_assets.core.comparison import auc
from mlops_assets.core.errors import MlopsError, SpecError, TrainingFailed
from mlops_assets.core.history import added_by_history, without_history
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author
from mlops_assets.core.policy_changes import register
from mlops_assets.core.signature import Signature, ranges_of
from mlops_assets.core.training_resources import op_tags
from mlops_assets.core.verdict import Verdict
from mlops_assets.ports import Estimator, Platform, TrainingRun, model_key
from mlops_assets.provenance import provenance

HISTORY_TAG = "history"
"""The tag of a release that tells what the features of the views add to it."""

TRIGGER_TAG, CAUSE_TAG = "trigger", "cause"
"""The tags of a release, and of its training run, that tell why it was trained, and where a person finds that."""

MOST_OF_A_TAG = 1000
"""Characters: an error of user code may be of any length."""


class TrainConfig(dg.Config):
    """What an engineer may change for one training in the launchpad: hyperparameters that replace those of the file."""

    hyperparameters: dict[str, Any] = Field(default_factory=dict)


def build_training_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    return [_model_asset(spec), _registered_model_asset(spec)]


def export_key(model: str, digest: str) -> str:
    """Where an export waits until it is registered."""
    return f"tables/{model}/exports/{digest}.onnx"


def triton_repository(model: str, release: str) -> str:
    """Where a release lies as a Triton model repository of its own, in the object store."""
    return f"models/{model}/{release}/triton/"


def _model_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    model, onnx_model = keys.key(spec, "model"), keys.key(spec, "onnx_model")

    @dg.multi_asset(
        name=f"{spec.slug}_train_and_export",
        outs={"model": _out(spec, model, "mlflow", dg.Nothing), "onnx_model": _out(spec, onnx_model, "onnx", dg.Any)},
        ins={"training_set": dg.AssetIn(key=keys.key(spec, "training_set"))},
        internal_asset_deps={"model": {keys.key(spec, "training_set")}, "onnx_model": {model}},
        check_specs=[dg.AssetCheckSpec("parity", asset=onnx_model, blocking=True)],
        op_tags=op_tags(spec.training.resources),
        pool=keys.training_pool(spec),
    )
    def train_and_export(
        context: dg.AssetExecutionContext, config: TrainConfig, platform: dg.ResourceParam[Platform], training_set: TrainingSet
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        hyperparameters = {**spec.training.hyperparameters, **config.hyperparameters}
        training = tables.read_set(platform.objects, spec.name, training_set.training)
        holdout = tables.read_set(platform.objects, spec.name, training_set.holdout)
        expected, started = signature(platform, spec, training_set), time.monotonic()
        # The least and the greatest value of a marked field may be somebody's.
        ranges = {n: r for n, r in ranges_of(spec.features.inputs, matrix_of(spec, training)).items() if n not in expected.pii}
        expected = replace(expected, ranges=ranges)
        estimator = fit(spec, training, hyperparameters)
        seconds = time.monotonic() - started
        exported = onnx_export.export(estimator, expected)
        digest = hashlib.sha256(exported).hexdigest()
        platform.objects.put(export_key(spec.name, digest), exported)
        verdict = check_parity(spec, estimator, exported, holdout)
        history = value_of_history(spec, training, holdout, exported, hyperparameters)
        metrics = holdout_metrics(spec, exported, holdout) | history.metrics
        metrics |= {"training_seconds": seconds, "training_rows": float(len(training))}
        made_by = provenance()
        run_id = platform.registry.log_run(
            training_run(spec, training_set, hyperparameters, digest, metrics, context.run.run_id, made_by), {"model.onnx": exported}
        )
        yield dg.MaterializeResult(asset_key=model, metadata={"mlflow_run": run_id, **history.shown, **metrics})
        yield dg.MaterializeResult(
            asset_key=onnx_model,
            value=TrainedModel(run_id, digest, training_set, history.told, made_by),
            data_version=dg.DataVersion(digest),
            metadata={"sha256": digest, "bytes": len(exported), "mlflow_run": run_id},
        )
        yield check_result("parity", onnx_model, verdict)

    return train_and_export


def _out(spec: ModelSpec, key: dg.AssetKey, kind: str, dagster_type: Any) -> dg.AssetOut:
    group, code_version = keys.group(spec, "training"), training_code_version(spec)
    return dg.AssetOut(
        key=key, group_name=group, kinds={kind}, owners=list(spec.owners), dagster_type=dagster_type, code_version=code_version
    )


def _registered_model_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    key = keys.key(spec, "registered_model")

    @dg.asset(
        key=key,
        ins={"onnx_model": dg.AssetIn(key=keys.key(spec, "onnx_model"))},
        group_name=keys.group(spec, "training"),
        owners=list(spec.owners),
        kinds={"mlflow"},
        description="The model as a release: an MLflow version, and an immutable file whose digest every loader checks.",
        check_specs=[dg.AssetCheckSpec("artifact_digest", asset=key, blocking=True)],
    )
    def registered_model(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], onnx_model: TrainedModel
    ) -> dg.MaterializeResult:
        exported = platform.objects.get(export_key(spec.name, onnx_model.digest))
        info = platform.registry.register(spec.name, onnx_model.run_id, onnx_model.digest, release_tags(onnx_model))
        platform.objects.create(model_key(spec.name, info.release), exported)
        platform.objects.create(baseline_key(spec.name, info.release), training_baseline(platform, spec, onnx_model, exported))
        repository = triton_repository(spec.name, info.release)
        entry = triton.entry(spec.name, info.release, onnx_model.digest, exported, spec.triton, spec.serving.threads)
        for place, content in entry.items():
            platform.objects.put(repository + place, content)
        stored = hashlib.sha256(platform.objects.get(model_key(spec.name, info.release))).hexdigest()
        author = Author(
            "registered_model", trained_because(onnx_model.training_set.trigger, onnx_model.training_set.cause), context.run.run_id
        )
        if stored == info.digest:
            announce(context, spec, info.release, onnx_model)
            change(platform, spec.name, lambda policy: register(policy, info.release, info.digest, author, platform.clock()))
        return dg.MaterializeResult(
            metadata={
                "release": info.release,
                "sha256": info.digest,
                "uri": f"s3://{info.uri}",
                "mlflow_run": info.run_id,
                "triton": f"s3://{repository}",
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="artifact_digest", passed=stored == info.digest, metadata={"stored": stored, "registered": info.digest}
                )
            ],
        )

    return registered_model


def fit(spec: ModelSpec, training: pd.DataFrame, hyperparameters: Mapping[str, Any]) -> Estimator:
    """Run the user's training code.

    Raises:
        TrainingFailed: with the user's own error as its cause.
    """
    trainer = load(spec.training.trainer)
    features = pd.DataFrame(matrix_of(spec, training), columns=list(spec.features.names))
    label = training[spec.label.column].to_numpy(dtype=np.int64)
    try:
        estimator: Estimator = trainer(features, label, seed=spec.training.seed, **hyperparameters)
    except MlopsError:
        raise
    except Exception as error:  # user code may raise anything, and whatever it is belongs to this model
        raise TrainingFailed(
            f"{spec.training.trainer} raised {type(error).__name__}: {error}. The champion still serves; mend the training code or the "
            f"data, then materialize {spec.slug}/training_set and what follows"
        ) from error
    if not hasattr(estimator, "predict_proba"):
        raise TrainingFailed(
            f"{spec.training.trainer} returned a {type(estimator).__name__}, expected a fitted classifier with predict_proba"
        )
    return estimator


def signature(platform: Platform, spec: ModelSpec, training_set: TrainingSet) -> Signature:
    """What the model expects.

    Raises:
        TrainingFailed: if the definitions of the features are not those of the training set any more.
        SpecError: if a default is to stand in for an input that has none, or a number that a request says is to be hashed.
    """
    version = platform.features.version(spec.features)
    if version.hash != training_set.feature_hash:
        raise TrainingFailed(
            f"the definitions behind {version.service} changed since {spec.slug}/training_set was made (its hash is "
            f"{training_set.feature_hash[:12]}, theirs is {version.hash[:12]}): materialize features and training_set again"
        )
    looked_up = {item.name for view in version.views for item in view.fields}
    without = [item.name for item in spec.features.inputs if item.name in looked_up and item.default is None]
    if spec.features.online.uses_defaults and without:
        raise SpecError(
            f"features.online: a default is to stand in, and {', '.join(without)} has none: give each a default under features.inputs, "
            'or write "null" or refuse'
        )
    numbers = [
        item.name for view in version.on_demand for item in view.request if item.type == "float" and spec.pii.get(item.name) == "hash"
    ]
    if numbers:
        raise SpecError(f"the request field {numbers[0]!r} is a number and marked pii: hash: write pii: drop at its column of events")
    return Signature(
        model=spec.name,
        inputs=spec.features.inputs,
        unit=spec.features.unit,
        decision_threshold=spec.label.decision_threshold,
        training_set=training_set.digest,
        features=version,
        online=spec.features.online,
        pii=spec.pii,
    )


def check_parity(spec: ModelSpec, estimator: Estimator, exported: bytes, holdout: pd.DataFrame) -> Verdict:
    """The same decisions from both, on every holdout row and on rows around every split threshold."""
    base = matrix_of(spec, holdout)
    rows = np.vstack([base, parity.boundary_rows(base, onnx_export.split_thresholds(exported))])
    native = estimator.predict_proba(pd.DataFrame(rows, columns=list(spec.features.names)))[:, 1]
    return parity.compare(native, onnx_export.score(exported, rows), spec.label.decision_threshold)


def holdout_metrics(spec: ModelSpec, exported: bytes, holdout: pd.DataFrame) -> dict[str, float]:
    label = holdout[spec.label.column].to_numpy(dtype=int)
    if not 0 < label.sum() < len(label):
        return {"holdout_rows": float(len(label))}
    return {"holdout_auc": auc(label, onnx_export.score(exported, matrix_of(spec, holdout))), "holdout_rows": float(len(label))}


@dataclass(frozen=True)
class ValueOfHistory:
    """What the features of the views add, told to a person, and the figures that are logged; neither where there is nothing to tell."""

    told: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def shown(self) -> dict[str, str]:
        return {"history": self.told} if self.told else {}


def value_of_history(
    spec: ModelSpec, training: pd.DataFrame, holdout: pd.DataFrame, exported: bytes, hyperparameters: Mapping[str, Any]
) -> ValueOfHistory:
    """Train once more without the features of the views, and compare on the holdout.

    A training that fails without them, as one may that counts on a column, is told where the comparison would be, and harms nothing.
    """
    label, started = holdout[spec.label.column].to_numpy(dtype=int), time.monotonic()
    try:
        history = frozenset(field.name for view in views_of(spec) for field in view.fields) & frozenset(spec.features.names)
        if not history or not 0 < label.sum() < len(label):
            return ValueOfHistory()
        alone = without_history(spec, history)
        without = score_natively(alone, fit(alone, training, hyperparameters), holdout) if alone else np.zeros(len(label))
        verdict = added_by_history(label, onnx_export.score(exported, matrix_of(spec, holdout)), without, blocks_of(spec, holdout))
    except MlopsError as error:
        why = error.__cause__ or error
        told = f"what the features of the views add is not known, since without them: {type(why).__name__}: {why}"
        dg.get_dagster_logger().warning(told)
        return ValueOfHistory(" ".join(told.split())[:MOST_OF_A_TAG])
    metrics = {"holdout_auc_without_history": auc(label, without), "training_seconds_without_history": time.monotonic() - started}
    return ValueOfHistory(verdict.reason, metrics)


def score_natively(spec: ModelSpec, estimator: Estimator, rows: pd.DataFrame) -> np.ndarray:
    """What an estimator answers, as precisely as its export would.

    Raises:
        TrainingFailed: with the estimator's own error as its cause.
    """
    features = pd.DataFrame(matrix_of(spec, rows), columns=list(spec.features.names))
    try:
        return np.asarray(estimator.predict_proba(features))[:, 1].astype(np.float32)
    except Exception as error:  # of user code, as in fit
        raise TrainingFailed(f"the estimator of {spec.training.trainer} does not answer: {error}") from error


def training_run(
    spec: ModelSpec,
    training_set: TrainingSet,
    hyperparameters: Mapping[str, Any],
    digest: str,
    metrics: dict[str, float],
    dagster_run: str,
    made_by: Mapping[str, str],
) -> TrainingRun:
    """What MLflow keeps of a training. Its key makes a second log of the same training find the first."""
    identity = json.dumps([training_set.digest, digest, spec.training.trainer, hyperparameters, dagster_run], sort_keys=True)
    tags = {
        "training_key": hashlib.sha256(identity.encode()).hexdigest(),
        "training_set": training_set.digest,
        "trainer": spec.training.trainer,
        "dagster_run": dagster_run,
        "feature_hash": training_set.feature_hash,
        TRIGGER_TAG: training_set.trigger,
        **_cause(training_set),
        **made_by,
    }
    return TrainingRun(spec.name, training_set.digest, {**hyperparameters, "seed": spec.training.seed}, metrics, tags)


def release_tags(trained: TrainedModel) -> dict[str, str]:
    """What a release's version says of its origin; the evaluation reads holdout and gate from here."""
    training_set = trained.training_set
    return {
        **({HISTORY_TAG: trained.history} if trained.history else {}),
        "training_set": training_set.digest,
        "holdout": training_set.holdout,
        "gate": training_set.gate,
        TRIGGER_TAG: training_set.trigger,
        **_cause(training_set),
        "as_of": training_set.as_of.isoformat(),
        "feature_hash": training_set.feature_hash,
        **trained.provenance,
    }


def _cause(training_set: TrainingSet) -> dict[str, str]:
    return {CAUSE_TAG: training_set.cause[:MOST_OF_A_TAG]} if training_set.cause else {}


def announce(context: dg.AssetExecutionContext, spec: ModelSpec, release: str, trained: TrainedModel) -> None:
    """Make the release visible in Dagster: a partition, and one materialization of the external asset ``release``."""
    name = keys.releases_name(spec)
    if release not in context.instance.get_dynamic_partitions(name):
        context.instance.add_dynamic_partitions(name, [release])
    metadata = {"mlflow_run": trained.run_id, "sha256": trained.digest, **{k: str(v) for k, v in asdict(trained.training_set).items()}}
    context.instance.report_runless_asset_event(dg.AssetMaterialization(keys.key(spec, "release"), partition=release, metadata=metadata))
