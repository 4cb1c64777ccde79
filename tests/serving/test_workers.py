"""Several processes that answer for one release on one port."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.servers import eventually
from tests.serving.conftest import Served
from tests.serving.models import GOOD
from tests.serving.test_process import register, request_ids

ASKED = json.dumps({"unit": "u", "inputs": GOOD}).encode()


@pytest.fixture
def store(object_store):
    return object_store[1]


def counted(release: Served, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = release.get("/metrics").body.decode().splitlines()
    found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def workers_of(release: Served) -> list[int]:
    return [child.pid for child in psutil.Process(release.process.pid).children()]


def started(served, store, name: str, **told: str) -> Served:
    release = served(name, "v1", register(store, name).digest, MLOPS_WORKERS="2", **told).start().wait_ready()
    eventually(lambda: counted(release, "mlops_workers") == 2, within=20)
    eventually(lambda: release.log().count("is ready after") == 2, within=20)  # the first may answer before the second has loaded
    return release


def ask_many(release: Served, count: int, first: int = 0) -> None:
    """Each request on a connection of its own, so that the workers share them."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: release.predict(ASKED, x_request_id=f"r{n:04}").status, range(first, first + count))
    assert set(answers) == {200}


def test_any_worker_tells_what_all_have_counted_and_nothing_is_lost_on_sigterm(served, store):
    release = started(served, store, "many", MLOPS_LOG_ROTATE_SECONDS="3600")
    ask_many(release, 200)
    for _ in range(10):  # whoever answers it
        assert counted(release, "mlops_predictions_total", outcome="answered", role="live") == 200
        assert counted(release, "mlops_prediction_score_count", role="live") == 200
    assert counted(release, "mlops_prediction_log_pending_bytes") > 0
    assert len({line for line in release.log().splitlines() if "is ready after" in line}) == 2
    assert release.stop() < 10
    assert release.process.returncode == 0
    assert request_ids(store, "many") == [f"r{number:04}" for number in range(200)]


def test_a_killed_worker_is_begun_anew_and_no_count_and_no_logged_answer_is_lost(served, store):
    release = started(served, store, "killed")
    ask_many(release, 100)
    for worker in workers_of(release):  # both, one after the other
        os.kill(worker, signal.SIGKILL)
        eventually(lambda gone=worker: gone not in workers_of(release) and counted(release, "mlops_workers") == 2, within=20)
    assert "ended with -9" in release.log()
    ask_many(release, 100, first=100)
    assert counted(release, "mlops_predictions_total", outcome="answered", role="live") == 200
    eventually(lambda: len(request_ids(store, "killed")) == 200, within=20)
    release.stop()
    assert request_ids(store, "killed") == [f"r{number:04}" for number in range(200)]


def test_workers_end_with_the_process_that_began_them(served, store):
    release = started(served, store, "orphaned")
    workers = workers_of(release)
    ask_many(release, 20)
    release.kill()
    eventually(
        lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in workers), within=15
    )
    assert request_ids(store, "orphaned") == [f"r{number:04}" for number in range(20)]


def test_a_model_that_cannot_be_loaded_is_told_by_whoever_is_asked(served, store):
    register(store, "changed-too")
    release = served("changed-too", "v1", "0" * 64, MLOPS_WORKERS="2").start()
    eventually(lambda: b"expected 0000" in release.get("/ready").body)
    assert {release.get("/ready").status for _ in range(10)} == {503}
    assert release.stop() < 10
