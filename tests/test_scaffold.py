"""``mlops new-model``: what it writes runs as it is."""

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

import feature_repo
import mlops_assets.defs
from mlops_assets.adapters import landing, onnx_export, tables
from mlops_assets.adapters.feature_rows import load_definitions
from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.adapters.memory_features import MemoryFeatureStore
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.assets import data, reading, training
from mlops_assets.assets.documents import TrainingSet
from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core.comparison import auc
from mlops_assets.core.errors import SpecError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.signature import Signature
from mlops_assets.core.verdict import Outcome
from mlops_assets.scaffold import new_model

PROJECT = Path(__file__).parent.parent
NAME, SLUG = "shop-returns", "shop_returns"
DAYS = 40


def project(folder: Path) -> Path:
    """A project without models, as ``new_model`` finds it."""
    (folder / "mlops_assets" / "defs").mkdir(parents=True)
    (folder / "feature_repo").mkdir()
    return folder


def attributes(root: Path, slug: str) -> dict:
    return yaml.safe_load((root / "mlops_assets" / "defs" / slug / "defs.yaml").read_text())["attributes"]


def spec_of(root: Path, slug: str) -> ModelSpec:
    return build(ModelSpec, ModelAttributes.model_validate(attributes(root, slug)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one scaffolded model, whose import paths lead to it."""
    root = project(tmp_path_factory.mktemp("project"))
    new_model(NAME, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlops_assets.defs, "__path__", [*mlops_assets.defs.__path__, str(root / "mlops_assets" / "defs")])
        patch.setattr(feature_repo, "__path__", [*feature_repo.__path__, str(root / "feature_repo")])
        importlib.invalidate_caches()
        yield root
    for module in [name for name in sys.modules if SLUG in name]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def spec(root: Path) -> ModelSpec:
    return spec_of(root, SLUG)


@pytest.fixture(scope="module")
def sample(root: Path):
    return importlib.import_module(f"mlops_assets.defs.{SLUG}.sample")


@pytest.fixture(scope="module")
def platform(spec: ModelSpec, sample) -> SimpleNamespace:
    """Object and feature store after sample data was landed, ingested and made into features, a range of days at a time."""
    objects, features = MemoryObjectStore(), MemoryFeatureStore()
    sample.land(objects, DAYS)
    platform = SimpleNamespace(objects=objects, features=features)
    days = [spec.data.start + timedelta(days=n) for n in range(DAYS)]
    for name, dataset in spec.data.datasets.items():
        for day in days:
            landed = landing.read_day(objects, spec.name, name, dataset, day)
            assert landed.quarantined == ()
            assert len(landed.rows) >= dataset.min_rows
            tables.write_day(objects, spec.name, name, day, landed.rows)
    transform, definitions = reading.load(spec.features.transform), load_definitions(spec.features.transform)
    for first in range(0, DAYS, 10):
        datasets = reading.read_datasets(platform, spec, days[first] - spec.features.lookback, days[first + 9])
        views = transform(datasets, midnight(days[first]), midnight(days[first + 9]) + timedelta(days=1))
        for view, rows in views.items():
            for day, of_day in rows.groupby(rows["event_timestamp"].dt.date):
                features.write(definitions.view(view), day, of_day, midnight(day))
    return platform


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def ruff(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ruff on what was written, as configured for the project; what is imported from it lies elsewhere here."""
    ours = "lint.isort.known-first-party = ['mlops_assets', 'feature_repo']"
    configured = ["--config", str(PROJECT / "pyproject.toml"), "--config", ours, "--no-cache"]
    command = [sys.executable, "-m", "ruff", *arguments, *configured, "mlops_assets", "feature_repo"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_it_writes_a_package_and_a_feature_module(tmp_path: Path) -> None:
    written = new_model("fraud-detector", project(tmp_path))
    package = tmp_path / "mlops_assets" / "defs" / "fraud_detector"
    expected = {package / name for name in ("__init__.py", "defs.yaml", "training.py", "sample.py")}
    assert set(written) == expected | {tmp_path / "feature_repo" / "fraud_detector.py"}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(written)


@pytest.mark.parametrize("name", ["a", "x" * 40, "-".join("abcdefghij" * 2), "on", "null"])
def test_what_it_writes_is_tidy_and_valid_whatever_the_name(tmp_path: Path, name: str) -> None:
    new_model(name, project(tmp_path))
    for arguments in (("check",), ("format", "--check")):
        done = ruff(tmp_path, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert spec_of(tmp_path, name.replace("-", "_")).name == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Fraud-Detector", "expected lower-case words joined by hyphens, such as 'fraud-detector'"),
        ("fraud_detector", "lower-case words joined by hyphens"),
        ("fraud detector", "lower-case words joined by hyphens"),
        ("../fraud", "lower-case words joined by hyphens"),
        ("-fraud", "lower-case words joined by hyphens"),
        ("fraud-", "lower-case words joined by hyphens"),
        ("fraud\n", "lower-case words joined by hyphens"),
        ("3d", "lower-case words joined by hyphens"),
        ("", "lower-case words joined by hyphens"),
        ("class", "add a word, such as 'class-model'"),
        ("x" * 41, "has 41 characters, expected at most 40: shorten it"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_written(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(SpecError, match=told.replace("(", r"\(")):
        new_model(name, project(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("taken", ["mlops_assets/defs/fraud/defs.yaml", "feature_repo/fraud.py"])
def test_a_name_that_is_taken_is_refused_and_nothing_touched(tmp_path: Path, taken: str) -> None:
    there = project(tmp_path) / taken
    there.parent.mkdir(exist_ok=True)
    there.write_text("mine")
    with pytest.raises(SpecError, match=r"exists already and was left as it is: take another name than 'fraud'"):
        new_model("fraud", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [there]
    assert there.read_text() == "mine"


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"call this in the project's folder"):
        new_model("fraud", tmp_path)


def test_sample_data_starts_and_becomes_known_when_the_definition_says(spec: ModelSpec, sample) -> None:
    assert spec.data.start == sample.START
    made = sample.orders(spec.data.start)
    assert (made["known_at"] > made["event_time"]).all()
    assert (made["known_at"] - made["event_time"]).max() <= spec.label.horizon


def test_more_days_add_files_and_change_none(sample) -> None:
    fewer, more = dict(sample.files(3)), dict(sample.files(5))
    assert fewer.items() < more.items()
    labels = [pd.read_parquet(io.BytesIO(file)) for key, file in fewer.items() if "/labels/" in key]
    assert max(rows["known_at"].max() for rows in labels) < pd.Timestamp(sample.START, tz="UTC") + timedelta(days=3)


def test_a_file_that_landed_otherwise_lands_anew_and_one_alike_stays(sample) -> None:
    objects = MemoryObjectStore()
    (first, content), (second, _), *_ = sample.files(2)
    for key, there in ((first, content), (second, b"of an earlier version")):
        objects.put(key, there)
    before = objects.list("landing/")[0].modified
    assert sample.land(objects, 2) == len(objects.list("landing/"))
    assert dict(sample.files(2)) == {info.key: objects.get(info.key) for info in objects.list("landing/")}
    assert next(info for info in objects.list("landing/") if info.key == first).modified == before


def test_the_command_lands_sample_data_in_the_running_stack(sample, s3, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(s3.home))
    monkeypatch.setenv("MLOPS_BASE_PORT", str(s3.base_port))
    monkeypatch.setattr(sys, "argv", ["sample", "--days", "2"])
    sample.main()
    store = S3ObjectStore(s3.s3_url)
    assert {info.key: store.get(info.key) for info in store.list(f"landing/{NAME}/")} == dict(sample.files(2))
    assert f"files of 2 days are in landing/{NAME}/" in capsys.readouterr().out


def test_without_a_stack_the_command_says_how_to_start_one(sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["sample"])
    with pytest.raises(SystemExit, match="mlops up"):
        sample.main()


@pytest.mark.long
def test_a_feature_row_does_not_depend_on_how_the_days_are_cut(spec: ModelSpec, platform: SimpleNamespace) -> None:
    transform = reading.load(spec.features.transform)
    day = spec.data.start + timedelta(days=20)
    behind = midnight(day + timedelta(days=1))
    everything = reading.read_datasets(platform, spec, spec.data.start, spec.data.start + timedelta(days=DAYS))
    (whole,) = transform(everything, midnight(day), behind).values()
    (alone,) = transform(reading.read_datasets(platform, spec, day - spec.features.lookback, day), midnight(day), behind).values()
    assert len(alone) > 200
    pd.testing.assert_frame_equal(alone, whole)


def test_a_customer_s_row_counts_the_outcomes_of_seven_days(spec: ModelSpec, platform: SimpleNamespace) -> None:
    transform = reading.load(spec.features.transform)
    datasets = reading.read_datasets(platform, spec, spec.data.start, spec.data.start + timedelta(days=DAYS))
    (rows,) = transform(datasets, midnight(spec.data.start), midnight(spec.data.start + timedelta(days=DAYS))).values()
    row = rows.iloc[len(rows) // 2]
    outcomes = datasets["labels"].merge(datasets["events"][["order_id", "customer_id"]], on="order_id")
    back = row["event_timestamp"] - outcomes["known_at"]
    counted = outcomes[(outcomes["customer_id"] == row["customer_id"]) & (back >= timedelta(0)) & (back < timedelta(days=7))]
    assert row["customer_outcomes"] == len(counted) > 0
    assert row["customer_return_rate"] == pytest.approx(counted["returned"].mean())


def test_days_without_data_have_no_feature_rows(spec: ModelSpec) -> None:
    nothing = {name: landing.empty(dataset) for name, dataset in spec.data.datasets.items()}
    (rows,) = reading.load(spec.features.transform)(
        nothing, midnight(spec.data.start), midnight(spec.data.start) + timedelta(days=1)
    ).values()
    assert len(rows) == 0


def test_the_sample_is_enough_for_a_model_that_passes_its_own_gate(spec: ModelSpec, platform: SimpleNamespace) -> None:
    as_of = reading.data_time(platform, spec)
    train, holdout = data.split_holdout(spec, data.labelled_rows(platform, spec, as_of), as_of)
    assert timedelta(days=DAYS) >= spec.holdout.window + spec.label.horizon + spec.retrain.first_after
    assert not train[list(spec.features.names)].isna().all().any()
    estimator = training.fit(spec, train, spec.training.hyperparameters)
    feature_hash = platform.features.version(spec.features).hash
    document = TrainingSet("d", "t", "h", as_of, len(train), len(holdout), feature_hash, "manual", "improve")
    exported = onnx_export.export(estimator, training.signature(platform, spec, document))
    assert training.check_parity(spec, estimator, exported, holdout).outcome is Outcome.PASS
    label, scores = holdout["returned"].to_numpy(dtype=int), onnx_export.score(exported, training.matrix_of(spec, holdout))
    assert auc(label, scores) > spec.gates.floor + 0.05
    assert label.sum() >= spec.holdout.min_positives
    assert 0.1 < (scores >= spec.label.decision_threshold).mean() < 0.5


def test_the_same_rows_and_seed_give_the_same_model_with_values_missing(spec: ModelSpec) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2000, len(spec.features.names))).astype(np.float32)
    label = (values[:, 0] + rng.normal(size=2000) > 1).astype(int)
    values[::7, 1], values[:, 2] = np.nan, np.nan
    features = pd.DataFrame(values, columns=list(spec.features.names))
    trainer = reading.load(spec.training.trainer)
    once, again = (trainer(features, label, seed=3, **spec.training.hyperparameters) for _ in range(2))
    np.testing.assert_array_equal(once.predict_proba(features), again.predict_proba(features))
    signature = Signature(spec.name, spec.features.inputs, spec.features.unit, 0.5, "t")
    exported = onnx_export.score(onnx_export.export(once, signature), values)
    np.testing.assert_allclose(exported, once.predict_proba(features)[:, 1], atol=1e-6)


def test_each_field_of_a_model_stands_in_its_definition(root: Path, spec: ModelSpec) -> None:
    document = attributes(root, SLUG)
    first = ("label", "features", "training", "holdout", "gates", "canary", "drift")
    for name in (*first, "performance", "retrain", "serving", "drill", "slo", "retention"):
        assert set(document[name]) == set(vars(getattr(spec, name)))
    assert replace(spec, name="other").slug == "other"
