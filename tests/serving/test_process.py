import http.client
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlops_assets.adapters.prediction_log import S3PredictionLog
from tests.servers import ask, eventually, free_port
from tests.serving.models import GOOD, SIGNATURE, ModelFile, tiny_model

ASKED = json.dumps({"unit": "u", "inputs": GOOD}).encode()
NOWHERE = f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def store(object_store):
    return object_store[1]


def register(store, name: str, release: str = "v1") -> ModelFile:
    model = tiny_model(replace(SIGNATURE, model=name))
    store.create(f"models/{name}/{release}/model.onnx", model.data)
    return model


def request_ids(store, name: str) -> list[str]:
    return sorted(S3PredictionLog(store).read(name).rows["request_id"])


def test_a_release_answers_refuses_counts_and_ships_its_log_on_sigterm(served, store):
    model = register(store, "whole-life")
    release = served("whole-life", "v1", model.digest, MLOPS_LOG_ROTATE_SECONDS="3600").start().wait_ready()
    for number in range(20):
        assert release.predict(ASKED, x_request_id=f"r{number:02}").status == 200
    assert release.predict(ASKED, x_request_id="copy", host="whole-life-shadow").release == "v1"
    for body in (b"", b"{", b'{"inputs": {"hour": "x"}}'):
        assert release.predict(body).status == 422
    assert release.predict(ASKED, x_unit="other").status == 422
    metrics = release.get("/metrics").body.decode()
    assert 'mlops_predictions_total{model="whole-life",outcome="answered",release="v1",role="live"} 20.0' in metrics
    assert 'mlops_predictions_total{model="whole-life",outcome="answered",release="v1",role="shadow"} 1.0' in metrics
    assert 'mlops_predictions_total{model="whole-life",outcome="invalid",release="v1",role="live"} 4.0' in metrics
    assert release.get("/livez").status == 200
    assert request_ids(store, "whole-life") == []
    assert release.stop() < 8
    assert release.process.returncode == 0
    assert request_ids(store, "whole-life") == ["copy", *(f"r{number:02}" for number in range(20))]
    assert "Traceback" not in release.log()


def test_bentoml_serve_runs_the_same_service(served, store, tmp_path):
    model = register(store, "bento")
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    told = {"BENTOML_HOME": str(tmp_path / "bento"), "BENTOML_DO_NOT_TRACK": "True"}
    release = served("bento", "v1", model.digest, **told).start(bentoml, "serve", "serving.service:Release", "-p", "{port}").wait_ready()
    assert release.predict(ASKED, x_request_id="r").status == 200
    assert 'mlops_predictions_total{model="bento",outcome="answered",release="v1",role="live"} 1.0' in release.get("/metrics").body.decode()
    for path in ("/livez", "/readyz", "/v2/health/live", "/openapi.json", "/docs.json", "/"):
        assert release.get(path).status == 200, path
    release.stop()
    assert request_ids(store, "bento") == ["r"]


@pytest.mark.long
def test_a_bento_is_built_without_an_environment_and_serves_the_release_that_one_names(served, store, tmp_path):
    model = register(store, "packed")
    bentoml, told = str(Path(sys.executable).with_name("bentoml")), {"BENTOML_HOME": str(tmp_path / "b"), "BENTOML_DO_NOT_TRACK": "True"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_")} | told
    root = Path(__file__).parents[2]
    built = subprocess.run(
        [bentoml, "build", "--output", "tag", str(root)], cwd=root, env=clean, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    tag = built.stdout.strip().removeprefix("__tag__:")
    # the packages of the Bento come before those of this folder: what it lacks is missed
    release = served("packed", "v1", model.digest, PYTHONPATH="", **told)
    release.start(bentoml, "serve", tag, "-p", "{port}", "--working-dir", str(tmp_path)).wait_ready()
    assert release.predict(ASKED, x_request_id="r").status == 200
    release.stop()
    assert request_ids(store, "packed") == ["r"]


def test_a_model_that_was_changed_is_not_served_and_the_reason_is_told(served, store):
    register(store, "changed")
    release = served("changed", "v1", "0" * 64).start()
    eventually(lambda: b"expected 0000" in release.get("/ready").body)
    assert release.get("/ready").status == release.get("/readyz").status == release.predict(ASKED).status == 503
    assert release.get("/health").status == release.get("/healthz").status == 200
    assert release.stop() < 8


def test_a_restart_needs_no_object_store_and_loses_no_answer(served, store):
    model = register(store, "restarted")
    first = served("restarted", "v1", model.digest).start().wait_ready()
    first.predict(ASKED, x_request_id="before")
    first.stop()
    second = served("restarted", "v1", model.digest).start(MLOPS_S3_URL=NOWHERE).wait_ready()
    assert second.predict(ASKED, x_request_id="meanwhile").status == 200
    assert second.stop() < 8
    assert request_ids(store, "restarted") == ["before"]
    third = served("restarted", "v1", model.digest).start().wait_ready()
    eventually(lambda: request_ids(store, "restarted") == ["before", "meanwhile"])
    third.stop()


def test_a_request_under_way_is_answered_and_logged_before_the_end(served, store):
    model = register(store, "drained")
    release = served("drained", "v1", model.digest).start().wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", release.port, timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", str(len(ASKED)))
    connection.putheader("x-request-id", "half-sent")
    connection.endheaders(ASKED[:5])
    release.predict(ASKED, x_request_id="whole")
    release.process.terminate()
    eventually(lambda: "Shutting down" in release.log())
    connection.send(ASKED[5:])
    assert connection.getresponse().status == 200
    release.process.wait(8)
    assert request_ids(store, "drained") == ["half-sent", "whole"]


def test_no_headers_value_is_in_the_log_of_a_request_that_fails(served, store):
    model = tiny_model(replace(SIGNATURE, model="discreet"), nan_above=1.0)
    store.create("models/discreet/v1/model.onnx", model.data)
    release = served("discreet", "v1", model.digest, PYTHONUNBUFFERED="1").start().wait_ready()
    secret = {
        "authorization": "Bearer s3cret",
        "cookie": "s3cret",
        "x-unit": "s3cret",
        "x-request-id": "s3cret",
        "x-forwarded-for": "s3cret",
    }
    asked = json.dumps({"inputs": GOOD}).encode()
    assert ask(release.port, "/predict", secret, body=asked).status == 500
    for path, headers, status in [
        ("/predict", {"x-request-timeout-ms": "s3cret"}, 422),
        ("/predict", {"x-s3cret": "s3cret" * 20_000}, 431),
        ("/predict", {"upgrade": "s3cret", "connection": "upgrade"}, 422),
        ("/s3cret", {}, 404),
        ("/metrics", {"accept": "s3cret"}, 404),
    ]:
        assert ask(release.port, path, secret | headers, body=asked).status == status, path
    with socket.create_connection(("127.0.0.1", release.port), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\ncontent-length: s3cret\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    release.stop()
    assert "a request failed" in release.log()
    assert "s3cret" not in release.log()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"MLOPS_MODEL": ""}, "MLOPS_MODEL"),
        ({"MLOPS_MODEL_DIGEST": "../x"}, "MLOPS_MODEL_DIGEST"),
        ({"MLOPS_THREADS": "x"}, "x"),
        ({"MLOPS_WORKERS": "0"}, "MLOPS_WORKERS: got '0', expected a number above 0"),
        ({"MLOPS_LOG_DURABILITY": "fsync"}, "expected write or fdatasync"),
        ({"MLOPS_ON_LOG_FULL": "drop"}, "expected refuse or count"),
        ({"MLOPS_TIMEOUT_SECONDS": "0"}, "MLOPS_TIMEOUT_SECONDS"),
    ],
)
def test_a_wrong_environment_ends_the_start_with_a_message(served, wrong, what):
    release = served("wrong", "v1", "0" * 64).start(**wrong)
    assert release.process.returncode == 2
    assert what in release.log().splitlines()[-1]
    assert "Traceback" not in release.log()


@pytest.mark.parametrize(
    ("module", "also"), [("serving.service", []), ("serving.release", ["bentoml", "boto3", "pydantic", "opentelemetry", "starlette"])]
)
def test_serving_stays_light(module, also):
    heavy = ["dagster", "mlflow", "feast", "pandas", "evidently", "sklearn", *also]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "MLOPS_MODEL": "m", "MLOPS_RELEASE": "v1", "MLOPS_MODEL_DIGEST": "0" * 64}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shipping_the_log_loads_no_pandas_either():
    code = """if True:
        import sys
        from serving.__main__ import WithoutPandas
        sys.meta_path.insert(0, WithoutPandas())
        from datetime import UTC, datetime
        from mlops_assets.adapters.prediction_log import Answer, LoggedInput, to_parquet
        now = datetime.now(UTC)
        to_parquet("m", "v1", (LoggedInput("hour", False),), [Answer("r", "u", "live", 0.5, True, 1.0, now, now, (7.0,))])
        print("pandas" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_runtime_can_be_used_without_bentoml():
    code = "import sys, serving.runtime; print('bentoml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_release_that_lies_beside_it_by_its_digest_needs_no_object_store(served, tmp_path):
    model, folder = tiny_model(), tmp_path / "brought"
    folder.mkdir()
    (folder / f"{model.digest}.onnx").write_bytes(model.data)
    told = {"MLOPS_MODEL_FOLDER": str(folder), "MLOPS_S3_URL": NOWHERE}
    release = served("tiny", "v7", model.digest, **told).start().wait_ready()
    assert release.predict(ASKED).release == "v7"


def test_a_file_beside_it_that_is_not_what_its_name_says_is_not_served(served, tmp_path):
    model = tiny_model()
    (tmp_path / f"{model.digest}.onnx").write_bytes(b"another")
    told = {"MLOPS_MODEL_FOLDER": str(tmp_path), "MLOPS_S3_URL": NOWHERE}
    release = served("tiny", "v7", model.digest, **told).start()
    eventually(lambda: "does not answer" in release.get("/ready").body.decode(), within=15)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_listens_where_it_is_told_to(served, store, workers):
    model = register(store, f"listens-{workers}")
    release = served(f"listens-{workers}", "v1", model.digest, MLOPS_WORKERS=workers)
    release.start(sys.executable, "-m", "serving", "--host", "0.0.0.0", "--port", "{port}").wait_ready()
    listening = {one.laddr.ip for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == release.port}
    assert listening == {"0.0.0.0"}
