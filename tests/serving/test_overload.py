"""What a release does to clients that are too many, too slow or too large, and what the others notice of it."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving import body, connection, limits
from tests.servers import HOST, ask, eventually
from tests.serving.models import GOOD
from tests.serving.world import World

ASKED = json.dumps({"unit": "u", "inputs": GOOD}).encode()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path, body_seconds=0.5)
    world.ready()
    yield world
    world.close()


def slow_down(world: World, seconds: float) -> None:
    """Make a call of the model take so long, whatever its rows, and a request a call."""
    queue = world.replica.require_ready().queue
    score = queue._score

    def slowly(matrix: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return score(matrix)

    queue._score, queue._call_seconds, queue._batch_rows = slowly, seconds, 1


def send_slowly(port: int, head: bytes, answers: list[bytes]) -> None:
    with socket.create_connection((HOST, port), timeout=10) as connection:
        connection.sendall(head)
        answers.append(connection.recv(65536))


def test_a_body_that_does_not_come_is_given_up_and_the_others_do_not_notice(world):
    answers: list[bytes] = []
    head = b"POST /predict HTTP/1.1\r\nhost: tiny\r\ncontent-length: 100\r\n\r\n{"
    clients = [threading.Thread(target=send_slowly, args=(world.port, head, answers)) for _ in range(50)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        assert world.client.post("/predict", content=ASKED).status_code == 200
    assert len(answers) == 50
    assert all(answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer for answer in answers)
    assert world.counted("failed") == 0


@pytest.mark.parametrize("head", [b"", b"POST /pre", b"POST /predict HTTP/1.1\r\nhost: tiny\r\nx: "], ids=["nothing", "a line", "a header"])
def test_a_head_that_does_not_come_closes_the_connection(world, head):
    answers: list[bytes] = []
    send_slowly(world.port, head, answers)
    assert answers == [b""]


PREDICT = b"POST /predict HTTP/1.1\r\nhost: tiny\r\n"
LENGTH = b"content-length: %d\r\n\r\n%s" % (len(ASKED), ASKED)


def headers(size: int, count: int = 1) -> bytes:
    """``count`` headers of ``size`` bytes together, give or take their names."""
    return b"".join(b"x-%06d: %s\r\n" % (number, b"v" * (size // count)) for number in range(count))


def say(port: int, *parts: bytes) -> bytes:
    """What a release answers until it, or the client with his ``connection: close``, ends the connection."""
    with socket.create_connection((HOST, port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "parts",
    [
        [PREDICT + headers(70_000) + LENGTH],
        [PREDICT + headers(70_000, 5000) + LENGTH],
        [b"POST /predict?" + b"q" * 70_000 + b" HTTP/1.1\r\nhost: tiny\r\n" + LENGTH],
        [PREDICT + b"x: ", *[b"v" * 1000] * 70],
    ],
    ids=["one header", "many headers", "a line", "a header without end"],
)
def test_more_headers_than_there_may_be_are_a_431_that_says_so(world, parts):
    answer = say(world.port, *parts)
    assert b"HTTP/1.1 431 " in answer
    assert b"at most that: send fewer or shorter ones" in answer
    assert world.client.post("/predict", content=ASKED).status_code == 200


def test_each_request_of_a_connection_may_have_as_many_headers(world):
    with socket.create_connection((HOST, world.port), timeout=10) as client:
        for _ in range(3):
            client.sendall(PREDICT + headers(40_000) + LENGTH)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        client.sendall(PREDICT + headers(70_000) + LENGTH)
        assert client.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_headers_without_end_after_a_body_close_the_connection(world):
    chunked = PREDICT + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx: " % (len(ASKED), ASKED)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        say(world.port, chunked, *[b"v" * 100_000] * 1000)
    assert world.client.post("/predict", content=ASKED).status_code == 200


def test_what_a_gateway_lets_through_is_no_head_too_large_and_no_body_is_taken_for_one(world):
    close, rows = b"connection: close\r\n", json.dumps({"rows": [{"inputs": GOOD}] * 10_000}).encode()
    assert b" 200 OK" in say(world.port, PREDICT + close + headers(60_000) + LENGTH)
    assert b" 200 OK" in say(world.port, PREDICT + close + b"content-length: %d\r\n\r\n%s" % (len(rows), rows))
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in ASKED + b" " * 50_000)
    assert b" 200 OK" in say(world.port, PREDICT + close + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")


def test_a_connection_that_was_answered_may_rest(world):
    connection = http.client.HTTPConnection(HOST, world.port, timeout=5)
    for pause in (0, 1.2):
        time.sleep(pause)
        connection.request("POST", "/predict", ASKED)
        assert connection.getresponse().read().startswith(b'{"model":"tiny"')


def test_a_body_without_end_is_cut_off(world, monkeypatch):
    monkeypatch.setattr(body, "MAX_BODY_BYTES", 100_000)
    with socket.create_connection((HOST, world.port), timeout=10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: tiny\r\ntransfer-encoding: chunked\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012 - it is closed while it is sent
            while True:
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                time.sleep(0.001)
    assert world.counted("invalid") == 1


def test_large_bodies_together_have_a_bound(world, monkeypatch):
    monkeypatch.setattr(body, "MAX_BYTES_AT_ONCE", 800_000)
    rows = json.dumps({"rows": [{"inputs": GOOD}] * 10_000}).encode()
    half = b"POST /predict HTTP/1.1\r\nhost: tiny\r\ncontent-length: %d\r\n\r\n%s" % (len(rows), rows[:300_000])
    with socket.create_connection((HOST, world.port), timeout=10) as connection:
        connection.sendall(half)
        time.sleep(0.1)
        answer = ask(world.port, "/predict", body=rows)
    assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
    eventually(lambda: ask(world.port, "/predict", body=rows).status == 200)


def test_what_cannot_be_answered_in_time_is_a_503_at_once_that_says_when(world):
    slow_down(world, 0.2)
    began = time.perf_counter()
    answer = world.client.post("/predict", content=ASKED, headers={"x-request-timeout-ms": "50"})
    assert time.perf_counter() - began < 0.15
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "deadline" in answer.json()["error"]["reason"]
    assert world.counted("overloaded") == 1
    through_gateway = {"x-envoy-expected-rq-timeout-ms": "50"}
    assert world.client.post("/v2/models/tiny/infer", json=ONE, headers=through_gateway).status_code == 503
    assert world.client.post("/predict", content=ASKED, headers={"x-request-timeout-ms": "2000"}).status_code == 200


def test_the_time_that_a_request_lay_in_its_socket_while_the_process_was_busy_counts(world, monkeypatch):
    monkeypatch.setattr(connection, "_PAUSE_SECONDS", 60.0)  # however busy the machine is
    queue, model_is_called, may_answer = world.replica.require_ready().queue, threading.Event(), threading.Event()
    score = queue._score

    def hold(matrix: np.ndarray) -> np.ndarray:
        model_is_called.set()
        may_answer.wait(10)
        return score(matrix)

    queue._score = hold
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, world.port, "/predict", {"x-request-timeout-ms": "60000"}, body=ASKED)
        model_is_called.wait(10)
        second = pool.submit(ask, world.port, "/predict", {"x-request-timeout-ms": "500"}, body=ASKED)
        time.sleep(0.6)
        may_answer.set()
        assert (first.result().status, second.result().status) == (200, 503)


def test_what_is_too_late_is_refused_before_its_body_is_read(world):
    slow_down(world, 0.2)
    assert world.client.post("/predict", content=b"{", headers={"x-request-timeout-ms": "50"}).status_code == 503
    assert world.client.post("/predict", content=b"{").status_code == 422


def test_the_models_own_timeout_is_the_deadline_of_who_names_none(tmp_path):
    world = World(tmp_path, timeout=0.05)
    client = world.ready()
    try:
        slow_down(world, 0.2)
        gateway = {"x-envoy-expected-rq-timeout-ms": "10000"}
        statuses = [client.post("/predict", content=ASKED, headers=said).status_code for said in ({}, gateway)]
        assert statuses == [503, 503]
        assert client.post("/predict", content=ASKED, headers={**gateway, "x-request-timeout-ms": "5000"}).status_code == 200
        nobody_waits = {"x-envoy-expected-rq-timeout-ms": "50", "x-request-timeout-ms": "5000"}
        assert client.post("/predict", content=ASKED, headers=nobody_waits).status_code == 503
    finally:
        world.close()


ONE = {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 0]}]}


@pytest.mark.parametrize("text", ["0", "-5", "soon", "1.5", "9" * 40])
def test_a_deadline_that_is_none_is_a_422(world, text):
    answer = world.client.post("/predict", content=ASKED, headers={"x-request-timeout-ms": text})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "x-request-timeout-ms header")


def test_with_more_clients_than_it_bears_a_release_answers_some_refuses_the_rest_and_stays_ready(world):
    """How many of them is for ``make bench-serving-overload``: a test shares its machine."""
    slow_down(world, 0.01)
    deadline = {"x-request-timeout-ms": "150"}

    def one(_: int) -> list[int]:
        connection = http.client.HTTPConnection(HOST, world.port, timeout=10)
        statuses = []
        for _ in range(20):
            connection.request("POST", "/predict", ASKED, deadline)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        return statuses

    with ThreadPoolExecutor(40) as pool:
        statuses = Counter(status for part in pool.map(one, range(40)) for status in part)
    assert set(statuses) == {200, 503}
    assert statuses[503] == world.counted("overloaded")
    assert world.client.get("/ready").status_code == 200


def test_the_limits_leave_room_for_the_largest_body():
    assert limits.MAX_BODY_BYTES < limits.MAX_BYTES_AT_ONCE
