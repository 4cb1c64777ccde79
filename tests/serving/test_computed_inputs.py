"""Inputs that a request leaves out are computed from what it says, by the expressions that the release brings with it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.adapters.expressions import Expression
from mlops_assets.adapters.online_layout import write_version
from mlops_assets.adapters.prediction_log import REQUEST_PREFIX, S3PredictionLog
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.feature_views import FeatureVersion
from mlops_assets.core.on_demand import Computed, OnDemandView, RequestField
from mlops_assets.core.signature import Signature
from serving import protocol
from serving.errors import BadRequest
from serving.inputs import Inputs
from serving.protocol import Headers
from serving.typed import TypedReader
from tests.servers import eventually
from tests.serving.models import tiny_model
from tests.serving.test_online_features import SHOPS, Shop, redis_server, score, shop  # noqa: F401 : fixtures
from tests.serving.world import World

TRIP = OnDemandView(
    "trip",
    (RequestField("starts", "timestamp"), RequestField("note", "string"), RequestField("load")),
    (
        Computed("hour", 'starts.getHours("Europe/Berlin") / 10'),
        Computed("kind", 'note.startsWith("x") ? "odd" : "plain"'),
        Computed("share", "load / distance"),
    ),
)
INPUTS = (Feature("hour"), Feature("kind", ("plain", "odd")), Feature("share"), Feature("distance"))
SIGNATURE = Signature("tiny", INPUTS, "trip", 0.5, "t", FeatureVersion("trips_v1", (), "c", (TRIP,)))
SAID = {"starts": "2024-07-01T18:30:00+00:00", "note": "x-ray", "load": 3, "distance": 2}
"""Half past eight in Berlin: 2, odd: 1, a share of 1.5, and 2."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, replay=True)
    yield made
    made.close()


@pytest.fixture
def client(world: World) -> httpx.Client:
    return world.ready(tiny_model(SIGNATURE, width=len(INPUTS)))


def predict(client: httpx.Client, said: dict[str, Any]) -> httpx.Response:
    return client.post("/predict", json={"unit": "u", "inputs": said})


@pytest.mark.parametrize(
    ("said", "total"),
    [
        (SAID, 6.5),
        ({**SAID, "starts": "2024-01-01T18:30:00Z"}, 5.5),  # winter: 19:30 / 10 is 1, of whole numbers
        ({**SAID, "starts": None}, 4.5),
        ({**SAID, "note": "ray"}, 5.5),
        ({**SAID, "distance": None}, 3.0),
        ({**SAID, "hour": 0.25}, 4.75),
        ({"hour": 1, "kind": "plain", "share": 1, "distance": 1}, 3.0),
    ],
)
def test_inputs_left_out_are_computed_and_those_sent_stand(client: httpx.Client, said: dict[str, Any], total: float) -> None:
    answer = predict(client, said)
    assert answer.status_code == 200, answer.text
    assert answer.json()["score"] == pytest.approx(score(total))


def test_many_rows_are_each_computed_from_their_own(client: httpx.Client) -> None:
    rows = [{"inputs": {**SAID, "load": load}} for load in (0, 2, 4)]
    answers = client.post("/predict", json={"rows": rows}).json()["predictions"]
    assert [answer["score"] for answer in answers] == pytest.approx([score(5 + load / 2) for load in (0, 2, 4)])


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"starts": ...}, "inputs.starts", "send it, or inputs.hour itself"),
        ({"starts": "2024-07-01T18:30:00"}, "inputs.starts", "with its zone"),
        ({"starts": 7}, "inputs.starts", "the number 7"),
        ({"note": 7}, "inputs.note", "a string or null"),
        ({"load": "7"}, "inputs.load", "a number that float32 can hold"),
        ({"distance": 0}, "inputs.share", "distance = '0.0', load = '3.0' is inf"),
        ({"distance": ...}, "inputs.distance", "nothing"),
        ({"ends": 1}, "inputs.ends", "starts, note, load"),
    ],
)
def test_what_cannot_be_computed_is_the_callers_to_mend(client: httpx.Client, change: dict[str, Any], field: str, told: str) -> None:
    said = {name: value for name, value in {**SAID, **change}.items() if value is not ...}
    for body, place in (({"inputs": said}, field), ({"rows": [{"inputs": SAID}, {"inputs": said}]}, f"rows[1].{field}")):
        answer = client.post("/predict", json=body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, place), answer.text
        assert told in answer.text


def test_the_log_has_what_was_computed_and_what_from(world: World, client: httpx.Client) -> None:
    predict(client, SAID)
    predict(client, {"hour": 1, "kind": "plain", "share": 1, "distance": 1})
    log = S3PredictionLog(world.objects)
    eventually(lambda: len(log.read("tiny").rows) == 2)
    rows = log.read("tiny").rows
    first = rows.sort_values("score").iloc[-1]
    assert (first["feature__hour"], first["feature__kind"], first["feature__share"]) == (2, "odd", 1.5)
    assert datetime.fromisoformat(first[f"{REQUEST_PREFIX}starts"]) == datetime(2024, 7, 1, 18, 30, tzinfo=UTC)
    assert (first[f"{REQUEST_PREFIX}note"], first[f"{REQUEST_PREFIX}load"]) == ("x-ray", 3.0)
    assert rows.sort_values("score").iloc[0][[f"{REQUEST_PREFIX}{name}" for name in ("starts", "note", "load")]].isna().all()


def test_what_is_looked_up_may_be_computed_from(shop: Shop) -> None:  # noqa: F811 : the fixture
    shop.fill()
    wet = OnDemandView("wet", (RequestField("area"),), (Computed("size", "rain * area"),))
    version = replace(shop.store.version(SHOPS), on_demand=(wet,))
    client = shop.world.ready(shop.model(features=version))
    asked = {"unit": "u", "entities": {"shop": "A", "town": "Ulm"}, "inputs": {"area": 4}}
    assert client.post("/predict", json=asked).json()["score"] == pytest.approx(score(0.75, 0, 0.5, 2))
    answer = client.post("/predict", json={**asked, "inputs": {}})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "inputs.area")


def test_a_release_computes_what_it_was_trained_on_whatever_the_module_says_now(world: World) -> None:
    other = replace(SIGNATURE.features, on_demand=(replace(TRIP, fields=(Computed("hour", "0"), *TRIP.fields[1:])),))
    write_version(world.objects.kept, other, None)
    client = world.ready(tiny_model(SIGNATURE, width=len(INPUTS)))
    assert predict(client, SAID).json()["score"] == pytest.approx(score(6.5))


def test_the_openapi_document_says_what_may_be_sent_instead(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    row = document["components"]["schemas"]["Row"]["properties"]["inputs"]
    assert row["required"] == ["distance"]
    assert row["properties"]["starts"] == {"type": ["string", "null"], "format": "date-time"}
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert client.post("/predict", json=example["value"]).status_code == 200, example
    assert "load / distance" in client.get("/docs").text


def test_a_signature_says_all_of_it_again() -> None:
    assert Signature.from_json(SIGNATURE.to_json()) == SIGNATURE


READER = TypedReader(Inputs.of(SIGNATURE))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.just("2024-07-01T18:30:00Z"), st.lists(st.none())
)
SAYINGS = st.dictionaries(st.sampled_from(["starts", "note", "load", "hour", "kind", "share", "distance", "else"]), VALUES)


@settings(max_examples=400, deadline=None)
@given(SAYINGS)
def test_the_compiled_types_and_the_parser_that_explains_agree(said: dict[str, Any]) -> None:
    body, told = json.dumps({"request_id": "r", "inputs": said}).encode(), Headers(None, "r", False)
    answers = []
    for read in (READER.read, lambda body, told: protocol.parse(body, Inputs.of(SIGNATURE), told)):
        try:
            answers.append(read(body, told))
        except BadRequest as error:
            answers.append(error.body())
    assert answers[0] == answers[1]


def test_each_expression_is_compiled_once_and_named() -> None:
    inputs = Inputs.of(SIGNATURE)
    assert [type(each.expression) for each in inputs.computed] == [Expression] * 3
    assert inputs.optional == {"hour", "kind", "share"}
    assert not inputs.are_all_sent
