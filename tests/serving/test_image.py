"""The serving image, built and run as production would: read-only, without privileges."""

import json
import os
from dataclasses import replace

import pytest

from deploy.docker.build import SERVING, revision
from mlops_assets.adapters.prediction_log import S3PredictionLog
from mlops_assets.core.errors import DigestMismatch
from tests.deploy.locks import components, locked
from tests.images import Images
from tests.servers import free_port
from tests.serving.models import GOOD, SIGNATURE, tiny_model

ASKED = json.dumps({"unit": "u", "request_id": "r1", "inputs": GOOD}).encode()
MOST_MB = 300
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@pytest.fixture(scope="module")
def serving(images: Images) -> str:
    return images.get("serving")


@pytest.mark.timeout(900)
def test_beside_python_it_takes_less_than_300_mb(images, serving):
    code = """if True:
        from pathlib import Path
        print(sum(path.lstat().st_size for top in ("/opt", "/app") for path in Path(top).rglob("*") if path.is_file()))"""
    assert 100e6 < images.python(serving, code) < MOST_MB * 1e6


def test_it_has_neither_dagster_nor_mlflow_nor_feast(images, serving):
    heavy = ["dagster", "mlflow", "feast", "pandas", "bentoml", "pip", "mlops_assets.assets", "mlops_assets.cli"]
    code = f"import json; from importlib.util import find_spec; print(json.dumps([name for name in {heavy} if find_spec(name)]))"
    assert images.python(serving, code) == []


def test_its_labels_and_user_say_what_it_is(images, serving):
    config = images.config(serving)
    assert config["User"] == "10001:10001"
    assert config["Cmd"][-4:] == ["--host", "0.0.0.0", "--port", "8080"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == revision()
    assert labels["org.opencontainers.image.source"] == "https://example.org/mlops-assets"
    assert len(labels["io.mlops-assets.lock.sha256"]) == 64


def test_its_sbom_lists_what_is_installed_which_is_the_lock(images, serving):
    code = """if True:
        import json
        from importlib.metadata import distributions
        from packaging.utils import canonicalize_name
        print(json.dumps({canonicalize_name(one.name): one.version for one in distributions()}))"""
    listed = components(images.run(serving, "cat", "/opt/sbom.cdx.json"))
    assert listed == locked(SERVING.lock)
    assert images.python(serving, code) == listed


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_fetches_a_release_by_its_digest_answers_and_ships_its_log(serving, container, object_store, workers):
    settings, store = object_store
    name = f"in-image-{workers}"
    model = tiny_model(replace(SIGNATURE, model=name))
    store.create(f"models/{name}/v1/model.onnx", model.data)
    release = container(
        serving, MLOPS_MODEL=name, MLOPS_RELEASE="v1", MLOPS_MODEL_DIGEST=model.digest, MLOPS_S3_URL=settings.s3_url,
        MLOPS_WORKERS=workers, **{name: os.environ[name] for name in CREDENTIALS},
    ).start().wait_ready()  # fmt: skip
    answer = release.ask("/predict", body=ASKED)
    assert (answer.status, answer.release) == (200, "v1")
    assert json.loads(answer.body)["score"] == pytest.approx(0.924142, abs=1e-6)
    release.stop()
    assert list(S3PredictionLog(store).read(name).rows["request_id"]) == ["r1"], release.log()
    assert "Traceback" not in release.log()


def test_an_image_of_one_release_answers_without_an_object_store(images, serving, container):
    model = tiny_model()
    image = images.build.release("tiny", "v7", model.digest, model.data, serving)
    assert image == "models/tiny:v7"
    labels = images.config(image)["Labels"]
    assert (labels["io.mlops-assets.release"], labels["io.mlops-assets.model.sha256"]) == ("v7", model.digest)
    release = container(image, MLOPS_S3_URL=f"http://127.0.0.1:{free_port()}").start().wait_ready()
    answer = release.ask("/predict", body=ASKED)
    assert (answer.status, answer.release) == (200, "v7")


def test_a_changed_file_is_not_baked_into_an_image(images, serving):
    with pytest.raises(DigestMismatch, match="v7 of tiny: got sha256"):
        images.build.release("tiny", "v7", tiny_model().digest, b"another", serving)
