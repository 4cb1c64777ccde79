"""Marked fields: what a release logs of them, what it says of them, and what it needs for it."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_assets.adapters.prediction_log import S3PredictionLog
from mlops_assets.core.pii import HIDDEN, pseudonym
from mlops_assets.core.signature import Signature
from serving.configuration import Configuration
from tests.servers import eventually
from tests.serving.models import GOOD, SIGNATURE, tiny_model
from tests.serving.world import World

KEY = "a secret of 128 bits or more"
MARKED = replace(SIGNATURE, pii={"tail_number": "hash", "carrier": "hash", "distance": "drop"})
ASKED = {"unit": "N14228", "request_id": "r", "inputs": GOOD}


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path, pii_key=KEY)
    yield world
    world.close()


def hashed(field: str, value: str) -> str:
    return pseudonym(KEY, "tiny", field, value)


def logged(world: World, rows: int = 1) -> Any:
    log = S3PredictionLog(world.objects)
    eventually(lambda: len(log.read("tiny").rows) == rows)
    return log.read("tiny").rows


def test_marked_fields_are_hashed_or_left_out_before_they_are_logged(world: World) -> None:
    answer = world.ready(tiny_model(MARKED)).post("/predict", json=ASKED).json()
    assert answer["unit"] == "N14228"  # the caller knows it already
    row = logged(world).iloc[0]
    assert (row["unit"], row["feature__carrier"]) == (hashed("tail_number", "N14228"), hashed("carrier", "UA"))
    assert row["feature__hour"] == GOOD["hour"]
    assert "feature__distance" not in row.index
    kept = b"".join(path.read_bytes() for path in world.home.rglob("*") if path.is_file())
    kept += b"".join(world.objects.kept.get(info.key) for info in world.objects.kept.list("predictions/"))
    assert b"N14228" not in kept
    assert KEY.encode() not in kept


def test_whichever_way_one_asks_the_same_is_logged(world: World) -> None:
    client = world.ready(tiny_model(MARKED))
    tensor = {"name": "features", "shape": [1, 3], "datatype": "FP64", "data": [0.5, 1, 1]}
    client.post("/v2/models/tiny/infer", json={"id": "a", "parameters": {"unit": "N14228"}, "inputs": [tensor]}).raise_for_status()
    client.post("/predict", json={"rows": [{"request_id": "b", "unit": "N14228", "inputs": GOOD}]}).raise_for_status()
    rows = logged(world, 2)
    assert set(rows["unit"]) == {hashed("tail_number", "N14228")}
    assert set(rows["feature__carrier"]) == {hashed("carrier", "UA")}


def test_a_missing_category_stays_missing(world: World) -> None:
    world.ready(tiny_model(MARKED)).post("/predict", json={**ASKED, "inputs": {**GOOD, "carrier": None}})
    assert logged(world)["feature__carrier"].tolist() == [None]


WRONG: list[tuple[str, dict[str, Any], bool]] = [
    ("a marked input", {"inputs": {**GOOD, "distance": "Baker Street 221b"}}, False),
    ("an input that is not marked", {"inputs": {**GOOD, "hour": "Baker Street 221b"}}, True),
    ("inputs that are none", {"inputs": "Baker Street 221b"}, False),
    ("a unit too long", {"unit": "Baker Street 221b" * 20, "inputs": GOOD}, False),
    ("a time that may not be given", {"event_time": "Baker Street 221b", "inputs": GOOD}, False),
]


@pytest.mark.parametrize(("body", "is_told"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_an_error_does_not_repeat_what_may_tell_who_somebody_is(world: World, body: dict[str, Any], is_told: bool) -> None:
    refused = world.ready(tiny_model(MARKED)).post("/predict", json=body)
    assert refused.status_code == 422
    assert ("Baker Street" in refused.text) is is_told
    assert (HIDDEN in refused.text) is not is_told


def test_a_unit_that_differs_from_its_header_is_refused_without_either(world: World) -> None:
    refused = world.ready(tiny_model(MARKED)).post("/predict", json=ASKED, headers={"x-unit": "N99999"})
    assert refused.json()["error"]["got"] == HIDDEN
    assert refused.json()["error"]["mend"] == "set x-unit to the unit: traffic is split by it"


def test_a_failure_is_logged_without_what_it_says(world: World, caplog: pytest.LogCaptureFixture) -> None:
    client = world.ready(tiny_model(MARKED))
    assert world.replica is not None

    def fail(*said: Any) -> object:
        raise ValueError(f"could not convert {said[0].questions[0].unit}")

    object.__setattr__(world.replica.require_ready(), "answers", fail)
    with caplog.at_level(logging.ERROR):
        assert client.post("/predict", json=ASKED).status_code == 500
    assert "a request failed: ValueError" in caplog.text
    assert "N14228" not in caplog.text


@pytest.mark.parametrize("key", ["", "too short"])
def test_without_a_key_a_release_that_hashes_is_not_ready_and_says_why(tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path, pii_key=key)
    try:
        client: httpx.Client = world.serve(tiny_model(MARKED), tiny_model(MARKED).digest)
        eventually(lambda: "MLOPS_PII_KEY" in client.get("/ready").text)
        told = client.get("/ready")
        assert told.status_code == 503
        assert "carrier, tail_number is marked pii: hash" in told.text
        assert not key or key not in told.text + caplog.text
    finally:
        world.close()


def test_a_release_that_only_drops_needs_no_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    try:
        world.ready(tiny_model(replace(SIGNATURE, pii={"distance": "drop"}))).post("/predict", json=ASKED)
        assert "feature__distance" not in logged(world)
        assert logged(world)["unit"].tolist() == ["N14228"]
    finally:
        world.close()


def test_a_release_without_marks_logs_and_tells_as_ever(world: World) -> None:
    client = world.ready()
    assert "'Baker Street'" in client.post("/predict", json={"inputs": "Baker Street"}).text
    client.post("/predict", json=ASKED)
    assert logged(world)["unit"].tolist() == ["N14228"]


def test_the_key_is_in_no_representation() -> None:
    environment = {"MLOPS_MODEL": "tiny", "MLOPS_RELEASE": "v1", "MLOPS_MODEL_DIGEST": "0" * 64, "MLOPS_PII_KEY": KEY}
    told = Configuration.from_environment(environment)
    assert told.pii_key == KEY
    assert KEY not in repr(told)


def test_marks_travel_in_the_signature_and_files_without_them_are_read() -> None:
    assert Signature.from_json(MARKED.to_json()) == MARKED
    old = SIGNATURE.to_json().replace(', "pii": {}', "").replace(', "pii": null', "")
    assert "pii" not in old
    assert Signature.from_json(old) == SIGNATURE
