"""MLflow as it really answers. What it shares with its in-memory twin is in test_contracts."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread
from uuid import uuid4

import httpx
import pytest

from mlops_assets.adapters.mlflow import MlflowRegistry
from mlops_assets.core.errors import BadData, MlopsError, Unavailable
from mlops_assets.ports import TrainingRun
from mlops_assets.settings import HOST
from tests.servers import free_port

DIGEST = "d" * 64


@pytest.fixture
def url(mlflow_server):
    return mlflow_server.mlflow_url


@pytest.fixture
def registry(url):
    return MlflowRegistry(url)


@pytest.fixture
def model():
    return f"m-{uuid4().hex[:12]}"


def training(model, key="k", **changes):
    values = {"training_set": "0123456789abcdef", "hyperparameters": {"num_leaves": 31}, "metrics": {"auc": 0.7}, "tags": {}}
    return TrainingRun(model, **{**values, **changes, "tags": {"training_key": key, **changes.get("tags", {})}})


def read(url, path, **query):
    return httpx.get(f"{url}/api/2.0/mlflow/{path}", params=query, timeout=10).raise_for_status().json()


def test_a_person_finds_parameters_metrics_tags_and_artifacts_of_a_run(registry, url, model):
    parameters = {f"p{number}": number for number in range(150)}
    run_id = registry.log_run(
        training(model, hyperparameters=parameters, metrics={"auc": 0.71, "log_loss": 0.4}, tags={"commit": "abc"}),
        {"report.json": b'{"a": 1}', "plots/roc.png": b"\x89PNG"},
    )
    run = read(url, "runs/get", run_id=run_id)["run"]
    data = {kind: {entry["key"]: entry["value"] for entry in run["data"][kind]} for kind in ("params", "metrics", "tags")}
    assert run["info"]["status"] == "FINISHED"
    assert data["params"] == {name: str(value) for name, value in parameters.items()}
    assert data["metrics"] == {"auc": 0.71, "log_loss": 0.4}
    assert data["tags"]["commit"] == "abc"
    assert data["tags"]["training_set"] == "0123456789abcdef"
    assert {entry["path"] for entry in read(url, "artifacts/list", run_id=run_id)["files"]} == {"plots", "report.json"}
    got = httpx.get(f"{url}/get-artifact", params={"run_id": run_id, "path": "report.json"}, timeout=10)
    assert got.content == b'{"a": 1}'


@pytest.mark.parametrize("lost", ["runs/log-batch", "mlflow-artifacts", "runs/update", "model-versions/create", "model-versions/set-tag"])
def test_what_was_cut_off_at_any_point_is_completed_and_not_doubled(registry, url, model, lost):
    real = registry._api._call

    def cut(method, path, **how):
        if lost in path:
            registry._api._call = real
            real(method, path, **how)
            raise Unavailable("the answer was lost")
        return real(method, path, **how)

    registry._api._call = cut
    with pytest.raises(Unavailable):
        registry.register(model, registry.log_run(training(model), {"a.txt": b"a"}), DIGEST, {"gate": "improve"})
    run_id = registry.log_run(training(model), {"a.txt": b"a"})
    release = registry.register(model, run_id, DIGEST, {"gate": "improve"})
    assert release.release == "v1"
    assert release.tags == {"gate": "improve"}
    experiment = read(url, "experiments/get-by-name", experiment_name=model)["experiment"]["experiment_id"]
    found = httpx.post(f"{url}/api/2.0/mlflow/runs/search", json={"experiment_ids": [experiment]}, timeout=10).json()["runs"]
    assert [run["info"]["status"] for run in found] == ["FINISHED"]


def test_of_two_that_register_the_same_at_once_one_version_stays(url, model):
    run_id = MlflowRegistry(url).log_run(training(model), {})
    barrier, results = Barrier(4), []

    def register():
        registry = MlflowRegistry(url)
        registry.aliases(model)
        barrier.wait()
        results.append(registry.register(model, run_id, DIGEST, {}))

    threads = [Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.release for result in results}) == 1
    assert len(read(url, "model-versions/search", filter=f"name='{model}'")["model_versions"]) == 1


def test_aliases_show_on_the_version_that_a_person_opens(registry, url, model):
    registry.register(model, registry.log_run(training(model), {}), DIGEST, {})
    registry.set_aliases(model, {"champion": "v1"})
    version = read(url, "registered-models/alias", name=model, alias="champion")["model_version"]
    assert (version["version"], version["aliases"]) == ("1", ["champion"])


def test_a_metric_that_is_not_finite_is_refused_before_anything_is_logged(registry, url, model):
    with pytest.raises(BadData, match="auc=nan"):
        registry.log_run(training(model, metrics={"auc": float("nan")}), {})
    with pytest.raises(httpx.HTTPStatusError):
        read(url, "experiments/get-by-name", experiment_name=model)


def test_what_mlflow_does_not_accept_is_said_in_its_words(registry, model):
    with pytest.raises(MlopsError, match="did not accept"):
        registry.log_run(training(model, hyperparameters={"bad\nname": 1}), {})


def test_a_server_that_is_down_is_unavailable_within_five_seconds():
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        MlflowRegistry(f"http://someone:secret@{HOST}:{free_port()}").aliases("m")
    assert time.monotonic() - began < 5


def test_a_server_that_hangs_is_unavailable_within_five_seconds_and_no_password_is_shown():
    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(6)

        def log_message(self, *_):
            """Silent."""

    server = ThreadingHTTPServer((HOST, 0), Hanging)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        MlflowRegistry(f"http://someone:secret@{HOST}:{server.server_port}").aliases("m")
    server.shutdown()
    server.server_close()
    assert time.monotonic() - began < 5.5
    assert "secret" not in str(raised.value)
