"""What a release says of itself holds: its examples are answered, and Schemathesis finds no request that is treated otherwise."""

import math

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.models import tiny_model
from tests.serving.world import World

UNSAYABLE = [positive_data_acceptance]
"""JSON Schema cannot say that the unit is that of the header, nor that a tensor has as many elements as its shape says."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("described"))
    world.ready(tiny_model(nan_above=math.inf))  # no number is too large for it
    yield world
    world.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_every_operation_is_as_it_is_described(world, mode):
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{world.port}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) == 12
    if mode is GenerationMode.NEGATIVE:  # nothing can be wrong with a GET
        operations = [operation for operation in operations if operation.method == "post"]
    for operation in operations:

        @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def try_it(case):
            answer = case.call()
            too_late = answer.status_code == 503 and "x-request-timeout-ms" in (case.headers or {})
            case.validate_response(answer, excluded_checks=[*UNSAYABLE, not_a_server_error] if too_late else UNSAYABLE)

        try_it()
    assert world.counted("failed") == 0


def test_every_example_is_answered(world):
    document = world.client.get("/openapi.json").json()
    asked = 0
    for path, methods in document["paths"].items():
        for example in (
            methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {}).values()
        ):
            answer = world.client.post(path, json=example["value"])
            assert answer.status_code == 200, answer.text
            asked += 1
    assert asked == 6


def test_the_page_shows_inputs_and_examples_and_loads_nothing(world):
    answer = world.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "one of AA, UA; another is unknown" in answer.text
    assert "POST /predict" in answer.text
    assert "http" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/predict", 405, "POST"),
        ("POST", "/ready", 405, "GET"),
        ("DELETE", "/v2/models/tiny/infer", 405, "POST"),
        ("GET", "/v2/x", 404, None),
    ],
)
def test_what_is_not_there_is_said_so(world, method, path, status, allowed):
    answer = world.client.request(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allowed)
    assert path in answer.json()["error"]
