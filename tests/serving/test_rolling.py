"""From one release to the next while requests come: a real Envoy, a real object store and two real releases."""

import http.client
import json
import threading
import time

import pytest

from mlops_assets.core.routing import Route, Share
from tests.servers import HOST, EnvoyServer, eventually
from tests.serving.conftest import Served
from tests.serving.models import GOOD
from tests.serving.test_process import register, request_ids

ASKED = json.dumps({"unit": "u", "inputs": GOOD}).encode()
CLIENTS, A_SECOND = 4, 50


class Clients:
    """Ask the gateway ``A_SECOND`` times a second, over connections that stay."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: list[tuple[int, str | None]] = []
        self.failed: list[Exception] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def by(self, release: str) -> int:
        return [name for _, name in self.answered].count(release)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=15)
        while not self._done.wait(CLIENTS / A_SECOND):
            try:
                connection.request("POST", "/models/rolling/predict", ASKED)
                response = connection.getresponse()
                response.read()
                self.answered.append((response.status, response.headers["x-mlops-release"]))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(error)
                connection.close()


def apply(envoy: EnvoyServer, generation: int, release: str, served: Served) -> None:
    shares = (Share(release, 0, 100),)
    envoy.gateway().apply(Route("rolling", generation, shares, None, {release: f"{HOST}:{served.port}"}))


@pytest.mark.long
def test_rolling_to_the_next_release_under_load_fails_no_request_and_loses_no_answer(envoy, served, object_store):
    store = object_store[1]
    v1, v2 = (served("rolling", name, register(store, "rolling", name).digest).start().wait_ready() for name in ("v1", "v2"))
    apply(envoy, 1, "v1", v1)
    slow = http.client.HTTPConnection(HOST, envoy.port, timeout=15)
    with Clients(envoy.port) as clients:
        eventually(lambda: clients.by("v1") > 50)
        slow.putrequest("POST", "/models/rolling/predict")
        slow.putheader("content-length", str(len(ASKED)))
        slow.putheader("x-request-timeout-ms", "60000")
        slow.endheaders(ASKED[:5])
        sent = clients.by("v1")
        eventually(lambda: clients.by("v1") > sent + 5)  # by now it is with v1
        apply(envoy, 2, "v2", v2)
        v1.process.terminate()
        ended = time.monotonic()
        before = clients.by("v2")
        eventually(lambda: clients.by("v2") > before + 50)
        time.sleep(max(0.0, ended + 4 - time.monotonic()))  # a question under way is waited for as long as a gateway waits
        assert v1.process.poll() is None
        slow.send(ASKED[5:])
        answer = slow.getresponse()
        assert (answer.status, answer.headers["x-mlops-release"]) == (200, "v1")
        assert v1.process.wait(15) == 0
        eventually(lambda: clients.by("v2") > before + 100)
    assert clients.failed == []
    assert {status for status, _ in clients.answered} == {200}
    v2.stop()
    assert len(request_ids(store, "rolling")) == len(clients.answered) + 1
    assert "Traceback" not in v1.log()
