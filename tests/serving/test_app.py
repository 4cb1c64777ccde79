import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mlops_assets.adapters.prediction_log import S3PredictionLog
from serving.app import role_of
from serving.limits import MAX_BODY_BYTES
from tests.servers import eventually
from tests.serving.models import GOOD, SIGNATURE, tiny_model
from tests.serving.world import World

KEY = "models/tiny/v1/model.onnx"
ASKED = {"unit": "u", "inputs": GOOD}


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path)
    yield world
    world.close()


def test_a_prediction_names_the_release_that_gave_it(world):
    response = world.ready().post("/predict", json=ASKED, headers={"x-request-id": "r"})
    assert response.status_code == 200
    assert response.headers["x-mlops-release"] == "v1"
    score = response.json().pop("score")
    assert score == pytest.approx(0.924, abs=1e-3)
    assert response.json() == {"model": "tiny", "release": "v1", "request_id": "r", "unit": "u", "score": score, "decision": True}


def test_rows_are_answered_in_their_order_however_many(world):
    client = world.ready()
    for count in (1, 3, 500):
        rows = [{"unit": f"u{place}", "inputs": {**GOOD, "hour": -place / 100}} for place in range(count)]
        predictions = client.post("/predict", json={"rows": rows}).json()["predictions"]
        assert [each["unit"] for each in predictions] == [row["unit"] for row in rows]
        scores = [each["score"] for each in predictions]
        assert scores == sorted(scores, reverse=True)
        assert [each["decision"] for each in predictions] == [score >= SIGNATURE.decision_threshold for score in scores]


def test_answers_are_logged_with_their_role_unit_and_features(world):
    client = world.ready()
    client.post("/predict", json=ASKED | {"request_id": "live"})
    client.post("/predict", json=ASKED | {"request_id": "copy"}, headers={"host": "tiny-shadow"})
    client.post("/predict", json={"unit": 3})
    log = S3PredictionLog(world.objects)
    eventually(lambda: len(log.read("tiny").rows) == 2)
    rows = log.read("tiny").rows
    assert rows["request_id"].tolist() == ["live", "copy"]
    assert rows["role"].tolist() == ["live", "shadow"]
    assert rows["feature__carrier"].tolist() == ["UA", "UA"]
    assert (rows["latency_ms"] > 0).all()
    assert rows["event_time"].tolist() == rows["logged_at"].tolist()
    assert (world.counted("answered"), world.counted("answered", "shadow"), world.counted("invalid")) == (1, 1, 1)


def test_the_event_time_is_logged_in_replay_mode(tmp_path):
    world = World(tmp_path, replay=True)
    world.ready().post("/predict", json=ASKED | {"event_time": "2013-06-01T12:00:00Z"})
    world.replica.stop()
    row = S3PredictionLog(world.objects).read("tiny").rows.iloc[0]
    assert row["event_time"].isoformat() == "2013-06-01T12:00:00+00:00"
    assert row["logged_at"].year > 2013


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {}),
        (b"\xff", {}),
        (b'{"inputs": {}}', {}),
        (b"0" * (MAX_BODY_BYTES + 1), {}),
        (b'{"unit": "a", "inputs": {}}', {"x-unit": "b"}),
    ],
    ids=["cut off", "no text", "no inputs", "too large", "another unit"],
)
def test_a_wrong_request_is_a_422_that_says_how_to_mend_it(world, content, headers):
    response = world.ready().post("/predict", content=content, headers=headers)
    assert response.status_code == 422
    assert set(response.json()["error"]) == {"field", "got", "expected", "mend"}


def test_a_release_that_is_about_to_end_answers_and_is_not_ready_so_that_gateways_turn_to_others(world):
    client = world.ready()
    leaving = world.home / "tiny.v1.leaving"
    leaving.touch()
    told = client.get("/ready")
    assert (told.status_code, told.json()["reason"]) == (503, "it is about to end")
    assert client.post("/predict", json=ASKED).status_code == client.get("/health").status_code == 200
    world.close()
    assert world.ready().get("/ready").status_code == 200
    assert not leaving.exists()


def test_until_the_model_is_there_nothing_is_ready_and_it_says_why(world):
    client = world.serve()
    eventually(lambda: KEY in client.get("/ready").json()["reason"])
    assert client.get("/ready").status_code == client.post("/predict", json=ASKED).status_code == 503
    assert client.get("/health").status_code == 200
    world.objects.kept.put(KEY, world.model.data)
    eventually(lambda: client.get("/ready").status_code == 200)


def test_a_model_of_another_digest_is_never_served(world):
    client = world.serve(stored=tiny_model(bias=1.0))
    eventually(lambda: f"expected {world.model.digest}" in client.get("/ready").json()["reason"])
    assert client.get("/ready").status_code == client.post("/predict", json=ASKED).status_code == 503


def test_a_file_of_another_model_is_never_served(world):
    client = world.serve(stored=world.model, name="huge")
    eventually(lambda: "it is of the model 'tiny'" in client.get("/ready").json()["reason"])
    assert client.get("/ready").status_code == client.post("/predict", json=ASKED).status_code == 503


def test_a_restart_does_not_need_the_object_store(world):
    world.ready()
    world.replica.stop()
    world.objects.down, world.registry = True, CollectorRegistry()
    client = world.serve()
    eventually(lambda: client.get("/ready").status_code == 200)
    assert client.post("/predict", json=ASKED).status_code == 200


def test_a_kept_file_that_was_damaged_is_fetched_anew(world):
    world.ready()
    world.replica.stop()
    (kept,) = world.home.glob("models/*.onnx")
    kept.write_bytes(b"damaged")
    world.registry = CollectorRegistry()
    world.ready()
    assert kept.read_bytes() == world.model.data


def test_a_model_that_answers_no_number_is_a_500_and_counted(world):
    picky = tiny_model(nan_above=10.0)
    client = world.serve(picky, picky.digest)
    eventually(lambda: client.get("/ready").status_code == 200)
    assert client.post("/predict", json=ASKED).status_code == 200
    response = client.post("/predict", json={"inputs": {**GOOD, "hour": 11}})
    assert response.status_code == 500
    assert "roll" not in response.text
    assert world.counted("failed") == 1


def test_predictions_go_on_while_the_log_cannot_be_shipped(world):
    client = world.ready()
    world.objects.down = True
    assert {client.post("/predict", json=ASKED).status_code for _ in range(20)} == {200}


@pytest.mark.parametrize(
    ("host", "model", "role"),
    [
        ("tiny", "tiny", "live"),
        ("tiny-shadow", "tiny", "shadow"),
        ("127.0.0.1-shadow:4003", "tiny", "shadow"),
        ("127.0.0.1:4003", "tiny", "live"),
        ("the-shadow", "the-shadow", "live"),
        ("the-shadow-shadow", "the-shadow", "shadow"),
        ("", "tiny", "live"),
    ],
)
def test_a_copy_is_known_by_its_host(host, model, role):
    assert role_of(host, model) == role


def test_no_request_makes_the_release_look_broken(world):
    client = world.ready()
    header = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=300).map(str.strip)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.binary(max_size=300), header, header)
    def fuzz(body, unit, request_id):
        headers = {"x-unit": unit.encode("latin-1"), "x-request-id": request_id.encode("latin-1")}
        assert client.post("/predict", content=body, headers=headers).status_code == 422
        good = client.post("/predict", json={"inputs": GOOD}, headers=headers)
        assert good.status_code == (422 if max(len(unit), len(request_id)) > 256 else 200)

    fuzz()
    assert world.counted("failed") == 0


def test_a_client_in_parallel_gets_its_own_answer(world):
    client, failures = world.ready(), []

    def ask(name: str) -> None:
        for _ in range(30):
            answer = client.post("/predict", json={"unit": name, "inputs": GOOD}).json()
            if answer["unit"] != name:
                failures.append(answer)

    threads = [threading.Thread(target=ask, args=(f"u{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
