"""Releases as applications of Ray Serve, on a real Ray of this machine, behind a real Envoy."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlops_assets.adapters.prediction_log import S3PredictionLog
from mlops_assets.adapters.s3 import S3ObjectStore
from mlops_assets.core.errors import BadData, NotFound, NotReady
from mlops_assets.core.routing import Route, Share
from mlops_assets.core.serving_spec import Pods, Serving
from mlops_assets.ports import Deployments
from mlops_assets.settings import HOST, Settings
from tests.servers import EnvoyServer, ask, eventually, free_port
from tests.serving.models import GOOD, SIGNATURE, ModelFile, tiny_model

pytestmark = pytest.mark.long

MODEL = "on-ray"
SMALL = Serving(pods=Pods(replicas=1, max_replicas=1, cpu="100m", memory="64Mi"))

ON_LOOPBACK = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "of-these-tests-and-no-secret",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens everywhere (ADR 17)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # a busy core starts a proxy in more than Ray's 5 s, and Ray would kill it
}


@pytest.fixture(scope="module")
def deployments(s3: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployments]:
    """A small Ray that belongs to this process, with the credentials of the object store in the environment of its node."""
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        for name, value in ON_LOOPBACK.items():
            patched.setenv(name, value)
        import ray

        from mlops_assets.adapters.ray_serve import RayServeDeployments

        ray.init(
            num_cpus=2,
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address=HOST,
            _temp_dir=str(tmp_path_factory.mktemp("ray")),
        )
        told = {
            "MLOPS_HOME": str(tmp_path_factory.mktemp("releases")),
            "MLOPS_S3_URL": s3.s3_url,
            "MLOPS_LOG_ROTATE_SECONDS": "1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        yield RayServeDeployments(ray.get_runtime_context().gcs_address, f"{HOST}:{free_port()}", told)
        started = set(psutil.Process().children(recursive=True)) - before
        ray.shutdown()
        assert not psutil.wait_procs(started, timeout=20)[1]


def file_of(bias: float) -> ModelFile:
    return tiny_model(replace(SIGNATURE, model=MODEL), bias=bias)


def registered(s3: Settings, release: str, bias: float) -> str:
    """The digest of a model that the object store has as this release."""
    model = file_of(bias)
    S3ObjectStore(s3.s3_url).create(f"models/{MODEL}/{release}/model.onnx", model.data)
    return model.digest


def test_two_releases_share_an_address_and_a_gateway_splits_the_traffic_between_them(deployments, s3: Settings, envoy: EnvoyServer):
    two = replace(SMALL, pods=replace(SMALL.pods, replicas=2, max_replicas=2))
    for release, bias, serving in (("v1", 0.0, SMALL), ("v2", 1.0, two)):
        deployments.start(MODEL, release, registered(s3, release, bias), serving)
    ready = [deployments.wait_ready(MODEL, release, 60) for release in ("v1", "v2")]
    assert deployments.running(MODEL) == ready
    assert len({each.endpoint.partition("/")[0] for each in ready}) == 1

    scores = [deployments.predict(each, [GOOD])[0] for each in ready]
    assert scores == pytest.approx([0.9241418, 0.9706878])  # the logistic function of 2.5 and 3.5

    deployments.start(MODEL, "v1", "0" * 64, None)  # runs, and so stays what it is
    shares = (Share("v1", 0, 50), Share("v2", 50, 100))
    envoy.gateway().apply(Route(MODEL, 1, shares, None, {each.release: each.endpoint for each in ready}))
    answers = [asked(envoy, f"unit-{n}") for n in range(40)]
    by_release = Counter(release for release, _ in answers)
    assert by_release.keys() == {"v1", "v2"}
    assert dict(answers) == pytest.approx(dict(zip(("v1", "v2"), scores, strict=True)))

    log = S3PredictionLog(S3ObjectStore(s3.s3_url))
    eventually(lambda: len(log.read(MODEL).rows) >= 42, within=20)
    live = log.read(MODEL).rows.query("role == 'live'")
    assert Counter(live["release"]) == by_release

    deployments.stop(MODEL, "v1")
    deployments.stop(MODEL, "v1")
    assert [each.release for each in deployments.running(MODEL)] == ["v2"]
    with pytest.raises(NotFound, match="v1 of on-ray was not started"):
        deployments.wait_ready(MODEL, "v1", 1)
    with pytest.raises(BadData, match="hour"):
        deployments.predict(ready[1], [{"distance": 1, "carrier": "UA"}])
    deployments.stop(MODEL, "v2")


def asked(envoy: EnvoyServer, unit: str) -> tuple[str | None, float]:
    """Who answered, and what."""
    body = json.dumps({"unit": unit, "inputs": GOOD}).encode()
    answer = ask(envoy.port, f"/models/{MODEL}/predict", {"x-unit": unit}, body=body)
    assert answer.status == 200
    return answer.release, json.loads(answer.body)["score"]


def test_a_release_that_cannot_be_loaded_says_why(deployments):
    deployments.start(MODEL, "v3", "3" * 64, SMALL)
    with pytest.raises(NotReady, match=rf"v3 of {MODEL} .* did not answer 200 .*models/{MODEL}/v3/model.onnx"):
        deployments.wait_ready(MODEL, "v3", 45)
    assert [(each.release, each.ready) for each in deployments.running(MODEL)] == [("v3", False)]
    deployments.stop(MODEL, "v3")


def test_an_application_that_ray_gives_up_is_told_with_its_reason_and_may_be_started_again(deployments, s3: Settings):
    deployments.start(MODEL, "v4", "no digest", SMALL)
    with pytest.raises(NotReady, match="MLOPS_MODEL_DIGEST: got 'no digest'"):
        deployments.wait_ready(MODEL, "v4", 60)
    deployments.start(MODEL, "v4", registered(s3, "v4", 0.0), SMALL)
    assert deployments.wait_ready(MODEL, "v4", 60).ready
    deployments.stop(MODEL, "v4")


def test_a_replica_has_started_when_its_model_is_loaded_and_not_before(monkeypatch: pytest.MonkeyPatch):
    """Ray sends requests to whoever has started; the release says so at once, and loads beside it."""
    from mlops_assets.adapters.ray_serve import _application

    happened: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    def wait_loaded(within: float) -> None:
        time.sleep(0.1)
        happened.append("loaded")

    async def send(message: dict[str, str]) -> None:
        happened.append(message["type"])

    release = SimpleNamespace(application=application, REPLICA=SimpleNamespace(wait_loaded=wait_loaded))
    monkeypatch.setitem(sys.modules, "serving.release", release)
    asyncio.run(_application()({"type": "lifespan"}, None, send))
    assert happened == ["loaded", "lifespan.startup.complete"]


def test_ray_that_is_away_is_unavailable_and_found_again_when_it_is_back():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ON_LOOPBACK
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.ray_away"], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["empty", "unavailable", "unavailable", "empty"]
