"""The Open Inference Protocol: by Triton's own client, by hand where that cannot be wrong, and by chance."""

import json

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from mlops_assets.adapters.prediction_log import S3PredictionLog
from serving import oip
from serving.errors import BadRequest
from serving.protocol import read_headers
from tests.servers import eventually
from tests.serving.models import GOOD, INPUTS
from tests.serving.world import World

TYPES = {np.float32: "FP32", np.float64: "FP64", np.int64: "INT64"}
ROWS = np.array([[0.5, 1.0, 1.0], [2.0, -3.0, 0.0], [1.25, 0.0, -1.0]])


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def client(world):
    world.ready()
    with triton.InferenceServerClient(f"127.0.0.1:{world.port}") as client:
        yield client


def tensor(name: str, values: np.ndarray, kind: str, binary: bool) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), kind)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def expected(world: World, rows: np.ndarray) -> np.ndarray:
    return world.replica.require_ready().runtime.raw_score(rows.astype(np.float32))


def test_tritonclient_finds_server_and_model_as_it_expects_them(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "v1")
    assert not client.is_model_ready("tiny", "v2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("tiny")
    assert (told["name"], told["versions"], told["platform"]) == ("tiny", ["v1"], "onnx")
    assert told["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 3]}]
    assert [output["name"] for output in told["outputs"]] == ["score", "decision"]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_one_tensor_of_all_features_scores_to_the_bit_as_the_model_does(world, client, dtype, binary_in, binary_out):
    rows = ROWS.astype(dtype)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("score", "decision")]
    result = client.infer("tiny", [tensor("features", rows, TYPES[dtype], binary_in)], outputs=wanted, request_id="r")
    scores = expected(world, rows)
    assert result.as_numpy("score").tobytes() == scores.tobytes()
    assert result.as_numpy("decision").tolist() == [score >= 0.5 for score in scores.tolist()]
    assert result.get_response()["id"] == "r"
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("tiny", "v1")


@pytest.mark.parametrize("binary", [True, False])
def test_a_tensor_for_each_input_scores_as_its_json_does(world, client, binary):
    tensors = [
        tensor("hour", np.array([0.5, np.nan if binary else 2.0]), "FP64", binary),
        tensor("distance", np.array([[1], [7]], dtype=np.int64), "INT64", binary),
        tensor("carrier", np.array(["UA", "??"], dtype=object), "BYTES", binary),
    ]
    scores = client.infer("tiny", tensors, model_version="v1").as_numpy("score")
    np.testing.assert_array_equal(scores, expected(world, np.array([[0.5, 1, 1], [np.nan if binary else 2.0, 7, -1]])))


def test_only_the_outputs_that_were_asked_for_are_sent(client):
    result = client.infer("tiny", [tensor("features", ROWS, "FP64", True)], outputs=[triton.InferRequestedOutput("decision")])
    assert result.as_numpy("score") is None
    assert len(result.as_numpy("decision")) == len(ROWS)


def test_answers_are_logged_like_those_of_predict(world, client):
    client.infer("tiny", [tensor("features", ROWS[:1], "FP64", True)], request_id="one", headers={"x-unit": "u"})
    client.infer("tiny", [tensor("features", ROWS, "FP64", True)], headers={"x-request-id": "many", "host": "tiny-shadow"})
    log = S3PredictionLog(world.objects)
    eventually(lambda: len(log.read("tiny").rows) == 4)
    rows = log.read("tiny").rows
    assert rows["request_id"].tolist() == ["one", "many-0", "many-1", "many-2"]
    assert rows["unit"].tolist() == ["u", "many-0", "many-1", "many-2"]
    assert rows["role"].tolist() == ["live", *["shadow"] * 3]
    assert rows["feature__carrier"].tolist() == ["UA", "UA", "AA", None]
    assert (world.counted("answered"), world.counted("answered", "shadow")) == (1, 3)


@pytest.mark.parametrize(
    ("name", "values", "kind", "message"),
    [
        ("features", ROWS[:, :2], "FP64", r"inputs\.features\.shape: got \[3, 2\], expected \[rows, 3\]"),
        ("features", np.full((1, 3), 1e39), "FP64", r"inputs\.features: got the number 1e\+39"),
        ("features", np.array([[1.0, 1.0, 7.0]]), "FP64", r"\(carrier\): got the number 7.0, expected a place of 0 to 1"),
        ("features", np.array([["a", "b", "c"]], dtype=object), "BYTES", r"inputs\.features\.datatype: got the string 'BYTES'"),
        ("weather", ROWS, "FP64", r"inputs\.weather: got a name that is not known"),
        ("hour", np.ones(2), "FP64", r"inputs\.distance: got nothing"),
    ],
)
def test_a_wrong_request_is_an_error_that_names_the_tensor(world, client, name, values, kind, message):
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("tiny", [tensor(name, values, kind, True)])
    assert caught.value.status() == "400"
    assert world.counted("invalid") == 1


def test_the_models_name_may_stand_in_the_body_too_as_kserves_client_sends_it(world, client):
    body = {"model_name": "tiny", "inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [0.5, 1.0, 1.0]}]}
    assert world.client.post("/v2/models/tiny/infer", json=body).status_code == 200
    for wrong in ("huge", 7, None):
        answer = world.client.post("/v2/models/tiny/infer", json=body | {"model_name": wrong})
        assert answer.status_code == 400
        assert "expected 'tiny', which the path names" in answer.json()["error"]


@pytest.mark.parametrize("data", [[True, 1.0, 1.0], [[1.0, False, 1.0]], ["1", 1, 1]])
def test_what_is_no_number_is_none_in_json_either(world, client, data):
    body = {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": data}]}
    answer = world.client.post("/v2/models/tiny/infer", json=body)
    assert answer.status_code == 400
    assert "expected numbers or null" in answer.json()["error"]


def test_another_model_or_release_is_not_here(client):
    for model, version in (("huge", ""), ("tiny", "v2")):
        with pytest.raises(InferenceServerException, match="is not known") as caught:
            client.infer(model, [tensor("features", ROWS, "FP64", True)], model_version=version)
        assert caught.value.status() == "404"


def test_a_compressed_body_is_refused_with_a_reason(client):
    with pytest.raises(InferenceServerException, match="send the body uncompressed"):
        client.infer("tiny", [tensor("features", ROWS, "FP64", True)], request_compression_algorithm="gzip")


def test_until_the_model_is_there_the_protocol_says_not_ready(world):
    world.serve()
    with triton.InferenceServerClient(f"127.0.0.1:{world.port}") as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("tiny")
        with pytest.raises(InferenceServerException, match="tiny v1"):
            client.infer("tiny", [tensor("features", ROWS, "FP64", True)])


def infer(*inputs: object, **more: object) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def one(**changed: object) -> dict[str, object]:
    return {"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 0]} | changed


@pytest.mark.parametrize(
    ("body", "length", "field"),
    [
        (b"", None, "body"),
        (b"[" * 100_000, None, "body"),
        (b"[]", None, "body"),
        (b"{}", "3", "Inference-Header-Content-Length header"),
        (b"{}", "-1", "Inference-Header-Content-Length header"),
        (b"{}", "9" * 5000, "Inference-Header-Content-Length header"),
        (infer(), None, "inputs"),
        (infer(4), None, "inputs[0]"),
        (infer(one(), one()), None, "inputs[1].name"),
        (infer(one(name=None)), None, "inputs[0].name"),
        (infer(one(shape=[1, -3])), None, "inputs.features.shape"),
        (infer(one(shape=[10**9, 3])), None, "inputs.features.shape"),
        (infer(one(shape=[True, 3])), None, "inputs.features.shape"),
        (infer(one(data=[1, 2])), None, "inputs.features"),
        (infer(one(data=[1, "2", 3])), None, "inputs.features.data"),
        (infer(one(data=[[1], [2, [3]]])), None, "inputs.features.data"),
        (infer(one(data=[10**400, 0, 0])), None, "inputs.features.data"),
        (infer(one(datatype="INT4")), None, "inputs.features.datatype"),
        (infer(one(parameters={"binary_data_size": 12})), None, "inputs.features.parameters.binary_data_size"),
        (infer(one()) + b"more", str(len(infer(one()))), "body"),
        (infer(one(), outputs=[{"name": "scores"}]), None, "outputs[0].name"),
        (infer(one(), id=4), None, "id"),
        (infer(one(), parameters={"event_time": "2013-01-01T00:00:00Z"}), None, "parameters.event_time"),
        (infer(one(), more=1), None, "more"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_body_is_told_what_is_wrong_with_it(body, length, field):
    with pytest.raises(BadRequest) as caught:
        oip.read(body, length, "tiny", INPUTS, read_headers(None, "r", False))
    assert caught.value.field == field


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, 1e39, "BYTES", "FP32"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
shapes = st.lists(st.integers(-1, 4), max_size=3) | json_values
parameters = st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 60) | json_values}) | json_values
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["features", *GOOD, "x"]),
        "shape": shapes,
        "datatype": st.sampled_from(["FP32", "FP16", "INT64", "BYTES", "X"]),
    },
    optional={"data": json_values, "parameters": parameters},
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=4)}, optional={"id": json_values, "outputs": json_values, "parameters": json_values}
)


@settings(max_examples=500, deadline=None)
@given(documents | json_values, st.binary(max_size=80), st.booleans())
def test_no_request_breaks_the_reader(document, raw, says_length):
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    try:
        request = oip.read(text + raw, str(len(text)) if says_length else None, "tiny", INPUTS, read_headers(None, "r", False))
    except BadRequest as error:
        json.loads(oip.error(error))
        return
    assert request.matrix.shape == (len(request.asked.questions), len(INPUTS))
    assert not np.isinf(request.matrix).any()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.none() | st.text("0123456789-x", max_size=5))
def test_no_bytes_make_the_release_look_broken(world, body, length):
    if world.replica is None:
        world.ready()
    headers = {} if length is None else {"inference-header-content-length": length}
    client = world.client
    assert client.post("/v2/models/tiny/infer", content=body, headers=headers).status_code == 400
    assert client.post("/v2/models/tiny/infer", content=infer(one())).status_code == 200
    assert world.counted("failed") == 0
