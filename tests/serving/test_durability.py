"""What is left of the prediction log when a real release is killed, or its disk is full. ``MLOPS_TEST_KILLS=50`` kills more often."""

import http.client
import json
import os
import resource
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mlops_assets.adapters.prediction_log import S3PredictionLog
from serving import segments
from tests.servers import HOST, eventually
from tests.serving.models import GOOD
from tests.serving.test_process import ASKED, register, request_ids

KILLS = int(os.environ.get("MLOPS_TEST_KILLS", "5"))
CLIENTS = 8
ANSWERS_BEFORE_A_KILL = 150
DURABILITIES = ("write", "fdatasync")
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def store(object_store):
    return object_store[1]


def on_disk(home: Path) -> list[str]:
    """The request ids in all segments of a home."""
    found: list[str] = []
    for path in home.glob("predictions/*/*/*.frames"):
        with suppress(FileNotFoundError):  # it was shipped meanwhile
            found += [answer.request_id for answer in segments.read(path).answers]
    return found


class Load:
    """Clients that ask until they are told to stop, or the release is gone; each request has an id of its own."""

    def __init__(self, port: int, name: str) -> None:
        self.acknowledged: list[str] = []
        self._port, self._name, self._stop = port, name, threading.Event()
        self._clients = [threading.Thread(target=self._ask, args=(place,), daemon=True) for place in range(CLIENTS)]
        for client in self._clients:
            client.start()

    def wait_for(self, answers: int) -> None:
        eventually(lambda: len(self.acknowledged) >= answers, within=60)

    def end(self) -> None:
        self._stop.set()
        for client in self._clients:
            client.join(20)

    def _ask(self, place: int) -> None:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=15)
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                request_id = f"{self._name}-{place}-{number}"
                connection.request("POST", "/predict", ASKED, {"x-request-id": request_id})
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.acknowledged.append(request_id)
        except (OSError, http.client.HTTPException):
            pass  # it was killed: nobody knows whether this one was logged
        finally:
            connection.close()


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_answer_is_logged_before_it_is_sent(served, store, durability):
    name = f"logged-first-{durability}"
    told = {"MLOPS_LOG_ROTATE_SECONDS": "3600", "MLOPS_LOG_DURABILITY": durability}
    release = served(name, "v1", register(store, name).digest, **told).start().wait_ready()
    rows = [{"request_id": f"row{place}", "inputs": GOOD} for place in range(1000)]
    for number in range(30):
        assert release.predict(ASKED, x_request_id=f"r{number}").status == 200
        assert f"r{number}" in on_disk(release.home)
    assert release.predict(json.dumps({"rows": rows}).encode()).status == 200
    release.kill()
    assert Counter(on_disk(release.home)) == Counter([*(f"r{number}" for number in range(30)), *(f"row{place}" for place in range(1000))])


@pytest.mark.timeout(60 + 30 * KILLS)
@pytest.mark.long
def test_whatever_was_acknowledged_is_in_the_object_store_exactly_once_however_often_the_release_is_killed(served, store):
    digest = register(store, "mortal").digest
    acknowledged: set[str] = set()
    for round_ in range(KILLS):
        release = served("mortal", "v1", digest, MLOPS_LOG_DURABILITY=DURABILITIES[round_ % 2]).start().wait_ready()
        load = Load(release.port, str(round_))
        load.wait_for(ANSWERS_BEFORE_A_KILL + 37 * round_ % 200)  # not always at the same point of what the log does
        release.kill()
        load.end()
        acknowledged.update(load.acknowledged)
        counted = Counter(on_disk(release.home))
        assert set(counted.values()) <= {1}
    last = served("mortal", "v1", digest).start().wait_ready()
    eventually(lambda: on_disk(last.home) == [], within=60 + KILLS)
    last.stop()
    shipped = Counter(each for key in keys(store, "mortal") for each in request_ids_of(store, key))
    assert set(shipped.values()) == {1}
    assert acknowledged <= shipped.keys()
    assert len(acknowledged) >= KILLS * ANSWERS_BEFORE_A_KILL
    unasked = shipped.keys() - acknowledged
    assert len(unasked) <= KILLS * CLIENTS  # those under way at a kill


def keys(store, model: str) -> list[str]:
    return [entry.key for entry in store.list(f"predictions/{model}/") if entry.size]


def request_ids_of(store, key: str) -> list[str]:
    """With duplicates, which a read of the log would leave out."""
    from io import BytesIO

    import pyarrow.parquet as pq

    return pq.read_table(BytesIO(store.get(key)), columns=["request_id"])["request_id"].to_pylist()


def fill_disk(pid: int) -> Callable[[], None]:
    """No file of the process can grow from now on; what is returned ends that."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    return lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard)) and None


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_release_that_must_log_refuses_while_its_disk_is_full_and_goes_on_by_itself(served, store, durability):
    name = f"refusing-{durability}"
    told = {"MLOPS_ON_LOG_FULL": "refuse", "MLOPS_LOG_DURABILITY": durability}
    release = served(name, "v1", register(store, name).digest, **told).start().wait_ready()
    assert release.predict(ASKED, x_request_id="before").status == 200
    empty_disk = fill_disk(release.process.pid)
    refused = release.predict(ASKED, x_request_id="refused")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "make room under" in json.loads(refused.body)["error"]["reason"]
    assert release.get("/ready").status == release.get(f"/v2/models/{name}/ready").status == 503
    assert "make room under" in json.loads(release.get("/ready").body)["reason"]
    assert 'outcome="unlogged",release="v1",role="live"} 1.0' in release.get("/metrics").body.decode()
    empty_disk()
    release.wait_ready()
    assert release.predict(ASKED, x_request_id="after").status == 200
    release.stop()
    assert request_ids(store, name) == ["after", "before"]


def test_a_release_that_counts_answers_while_its_disk_is_full_and_tells_how_many_it_did_not_log(served, store):
    release = served("counting", "v1", register(store, "counting").digest).start().wait_ready()
    empty_disk = fill_disk(release.process.pid)
    for _ in range(5):
        assert release.predict(ASKED).status == 200
    assert release.get("/ready").status == 200
    assert "make room under" in json.loads(release.get("/ready").body)["log"]
    metrics = release.get("/metrics").body.decode()
    assert 'mlops_prediction_log_lost_total{model="counting",reason="disk",release="v1"} 5.0' in metrics
    empty_disk()
    eventually(lambda: b"log" not in release.get("/ready").body)
    assert release.predict(ASKED, x_request_id="after").status == 200
    eventually(lambda: 'mlops_prediction_log_full{model="counting",release="v1"} 0.0' in release.get("/metrics").body.decode())
    release.stop()
    assert S3PredictionLog(store).read("counting").rows["request_id"].tolist() == ["after"]


def test_a_release_refuses_once_too_much_waits_for_the_object_store(served, store, tmp_path):
    digest = register(store, "cut-off").digest
    served("cut-off", "v1", digest).start().wait_ready().stop()  # the model is on disk now
    told = {"MLOPS_ON_LOG_FULL": "refuse", "MLOPS_LOG_MAX_BYTES": "20000"}
    release = served("cut-off", "v1", digest, **told).start(MLOPS_S3_URL="http://127.0.0.1:9").wait_ready()
    given = 0
    while release.predict(ASKED, x_request_id=f"r{given:04}").status == 200:
        given += 1
        assert given < 2000
    assert "20000 bytes wait to be shipped" in json.loads(release.get("/ready").body)["reason"]
    release.stop()
    served("cut-off", "v1", digest).start().wait_ready().stop()
    assert request_ids(store, "cut-off") == [f"r{number:04}" for number in range(given)]
