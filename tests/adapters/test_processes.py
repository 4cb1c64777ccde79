"""Releases as processes under a real supervisord."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mlops_assets.adapters.processes import SupervisedDeployments
from mlops_assets.adapters.supervisor import SOCKET, Supervisor
from mlops_assets.core.errors import BadData, NotFound, NotReady, Unavailable
from mlops_assets.core.serving_spec import Serving
from mlops_assets.settings import Settings
from tests.servers import alive, ask, eventually, free_base_port

SERVER = """
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({**os.environ, "pid": os.getpid()}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["rows"]
        bad = any("wrong" in row["inputs"] for row in rows)
        scores = [0.5 if row["inputs"]["x"] is None else row["inputs"]["x"] for row in rows]
        known = self.headers["host"].endswith("-shadow") and int(self.headers["x-request-timeout-ms"]) >= 30_000
        scores = scores if known else [1.0] * len(rows)
        body = json.dumps({"predictions": [{"score": score} for score in scores]}).encode()
        self.send_response(422 if bad else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def deployments(supervisor: Settings, tmp_path):
    script = tmp_path / "server with blank %.py"
    script.write_text(SERVER)
    return SupervisedDeployments(supervisor, [sys.executable, str(script), "{port}"])


def environment(endpoint: str) -> dict:
    return json.loads(ask(int(endpoint.rpartition(":")[2]), "/", method="GET").body)


def test_a_started_release_becomes_ready_and_is_listed_with_its_endpoint(deployments):
    deployments.start("listed", "v1", "sha", None)
    ready = deployments.wait_ready("listed", "v1", 10)
    assert ready.ready
    assert deployments.running("listed") == [ready]
    deployments.stop("listed", "v1")


def test_a_release_finds_out_by_its_environment_what_it_is(deployments, supervisor):
    told = Serving(threads=2, workers=3, timeout=timedelta(seconds=2.5), log_durability="fdatasync", on_log_full="refuse")
    deployments.start("told", "v3", "sha256:ab", told)
    found = environment(deployments.wait_ready("told", "v3", 10).endpoint)
    wanted = {"MLOPS_MODEL": "told", "MLOPS_RELEASE": "v3", "MLOPS_MODEL_DIGEST": "sha256:ab", "MLOPS_WORKERS": "3"}
    wanted |= {"MLOPS_THREADS": "2", "MLOPS_TIMEOUT_SECONDS": "2.5", "MLOPS_LOG_DURABILITY": "fdatasync", "MLOPS_ON_LOG_FULL": "refuse"}
    assert {name: found[name] for name in wanted} == wanted
    assert found["MLOPS_HOME"] == str(supervisor.home)
    assert found["AWS_ACCESS_KEY_ID"]
    assert found["MALLOC_ARENA_MAX"] == "2"
    assert "stopwaitsecs=17" in (supervisor.home / "supervisor" / "told.v3.conf").read_text()
    deployments.stop("told", "v3")


def test_no_file_of_a_release_holds_a_secret(deployments, supervisor):
    deployments.start("secret", "v1", "sha", None)
    found = environment(deployments.wait_ready("secret", "v1", 10).endpoint)
    for file in (*(supervisor.home / "supervisor").iterdir(), supervisor.home / "supervisord.conf"):
        assert found["AWS_SECRET_ACCESS_KEY"] not in file.read_text()
    deployments.stop("secret", "v1")


def test_prometheus_finds_a_release_by_a_file_for_as_long_as_it_runs(deployments, supervisor):
    deployments.start("scraped", "v2", "sha", None)
    ready = deployments.wait_ready("scraped", "v2", 10)
    target = supervisor.home / "targets" / "scraped.v2.json"
    assert json.loads(target.read_text()) == [{"targets": [ready.endpoint], "labels": {"model": "scraped", "release": "v2"}}]
    deployments.stop("scraped", "v2")
    assert not target.exists()


def test_starting_what_runs_changes_nothing(deployments):
    deployments.start("twice", "v1", "sha", None)
    first = environment(deployments.wait_ready("twice", "v1", 10).endpoint)["pid"]
    deployments.start("twice", "v1", "sha", Serving(threads=4))
    assert environment(deployments.wait_ready("twice", "v1", 10).endpoint)["pid"] == first
    deployments.stop("twice", "v1")


def test_a_release_that_ends_slowly_may_be_stopped_by_two_at_once(supervisor, tmp_path):
    script = tmp_path / "slow.py"
    slow_end = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit(0)))\n"
    script.write_text(SERVER.replace('print("serving"', slow_end + 'print("serving"'))
    deployments = [SupervisedDeployments(supervisor, [sys.executable, str(script), "{port}"]) for _ in range(2)]
    deployments[0].start("slow", "v1", "sha", None)
    pid = int(environment(deployments[0].wait_ready("slow", "v1", 10).endpoint)["pid"])
    with ThreadPoolExecutor(2) as pool:
        stopped = [pool.submit(each.stop, "slow", "v1") for each in deployments]
        assert [each.result() for each in stopped] == [None, None]
    assert not alive(pid)
    assert deployments[0].running("slow") == []


def test_a_release_that_is_asked_for_while_it_is_being_stopped_is_started_again(supervisor, tmp_path):
    script = tmp_path / "slow.py"
    slow_end = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: (time.sleep(1.5), sys.exit(0)))\n"
    script.write_text(SERVER.replace('print("serving"', slow_end + 'print("serving"'))
    deployments = [SupervisedDeployments(supervisor, [sys.executable, str(script), "{port}"]) for _ in range(2)]
    deployments[0].start("wanted", "v1", "sha", None)
    pid = int(environment(deployments[0].wait_ready("wanted", "v1", 10).endpoint)["pid"])
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(deployments[0].stop, "wanted", "v1")
        eventually(lambda: Supervisor(supervisor.home / SOCKET).process("wanted.v1")["statename"] == "STOPPING")
        deployments[1].start("wanted", "v1", "sha", None)
        ready = deployments[1].wait_ready("wanted", "v1", 10)
        stopping.result()
    assert int(environment(ready.endpoint)["pid"]) != pid
    assert deployments[1].running("wanted") == [ready]
    deployments[1].stop("wanted", "v1")


def test_a_stopped_release_is_gone_and_stopping_it_again_is_harmless(deployments):
    deployments.start("gone", "v1", "sha", None)
    pid = environment(deployments.wait_ready("gone", "v1", 10).endpoint)["pid"]
    deployments.stop("gone", "v1")
    assert not alive(pid)
    assert deployments.running("gone") == []
    deployments.stop("gone", "v1")
    deployments.start("gone", "v1", "sha", None)
    deployments.wait_ready("gone", "v1", 10)
    deployments.stop("gone", "v1")


def test_releases_started_at_once_get_ports_of_their_own(deployments):
    names = [f"v{number}" for number in range(1, 6)]
    threads = [threading.Thread(target=deployments.start, args=("crowd", name, "sha", None)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    endpoints = {deployments.wait_ready("crowd", name, 15).endpoint for name in names}
    assert len(endpoints) == 5
    for name in names:
        deployments.stop("crowd", name)


def test_a_model_is_not_mixed_with_one_of_a_similar_name(deployments):
    deployments.start("alike-too", "v1", "sha", None)
    assert deployments.running("alike") == []
    deployments.stop("alike-too", "v1")


def test_a_killed_release_comes_back(deployments):
    deployments.start("killed", "v1", "sha", None)
    endpoint = deployments.wait_ready("killed", "v1", 10).endpoint
    time.sleep(1.2)
    pid = environment(endpoint)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    assert environment(deployments.wait_ready("killed", "v1", 10).endpoint)["pid"] != pid
    deployments.stop("killed", "v1")


def test_a_release_that_ends_while_it_starts_is_reported_early_with_its_log(supervisor):
    broken = SupervisedDeployments(supervisor, [sys.executable, "-c", "raise SystemExit('no such model')"])
    broken.start("broken", "v1", "sha", None)
    began = time.monotonic()
    with pytest.raises(NotReady, match="keeps ending(.|\n)*no such model"):
        broken.wait_ready("broken", "v1", 60)
    assert time.monotonic() - began < 20
    broken.stop("broken", "v1")


def test_a_release_that_never_answers_is_reported_in_time_with_its_log(supervisor):
    silent = SupervisedDeployments(supervisor, [sys.executable, "-uc", "import time; print('loading', flush=True); time.sleep(99)"])
    silent.start("silent", "v1", "sha", None)
    with pytest.raises(NotReady, match="did not answer 200 to GET /ready within 1.5 s(.|\n)*loading"):
        silent.wait_ready("silent", "v1", 1.5)
    assert [deployment.ready for deployment in silent.running("silent")] == [False]
    silent.stop("silent", "v1")


def test_a_release_scores_many_rows_in_their_order_takes_them_for_a_shadows_and_has_time_for_them(deployments):
    deployments.start("scoring", "v1", "sha", None)
    ready = deployments.wait_ready("scoring", "v1", 10)
    rows = [{"x": float("nan")}, *({"x": number / 10_000} for number in range(2500))]
    assert deployments.predict(ready, rows) == [0.5, *(number / 10_000 for number in range(2500))]
    with pytest.raises(BadData, match="got 422, expected 200"):
        deployments.predict(ready, [{"x": 1.0, "wrong": 1.0}])
    deployments.stop("scoring", "v1")
    with pytest.raises(Unavailable, match="does not answer"):
        deployments.predict(ready, [{"x": 1.0}])


def test_what_was_given_up_is_started_again(deployments, supervisor):
    deployments.start("again", "v1", "sha", None)
    deployments.wait_ready("again", "v1", 10)
    Supervisor(supervisor.home / SOCKET).call("stopProcess", "again.v1")
    deployments.start("again", "v1", "sha", None)
    assert deployments.wait_ready("again", "v1", 10).ready
    deployments.stop("again", "v1")


def test_waiting_for_what_was_not_started_says_so(deployments):
    with pytest.raises(NotFound, match="v9 of never was not started"):
        deployments.wait_ready("never", "v9", 1)


def test_without_supervisord_the_error_says_how_to_start_it(tmp_path):
    lonely = SupervisedDeployments(Settings(tmp_path, free_base_port()), ["true"])
    with pytest.raises(Unavailable, match="start the stack with 'mlops up'"):
        lonely.start("m", "v1", "sha", Serving(ready_within=timedelta(seconds=1)))
