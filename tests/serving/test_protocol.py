import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.core.signature import encode
from serving import protocol
from serving.errors import BadRequest
from serving.inputs import Inputs
from serving.protocol import PredictRequest
from serving.typed import TypedReader
from tests.serving.models import GOOD, INPUTS

READER = TypedReader(Inputs(INPUTS))


def parse(document: object, unit: str | None = None, request_id: str | None = None, replay: bool = False) -> PredictRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return READER.read(body, protocol.read_headers(unit, request_id, replay))


def test_a_row_is_read_as_the_model_takes_it():
    request = parse({"request_id": "r", "unit": "u", "inputs": {"hour": 7, "distance": None, "carrier": "UA"}})
    (question,) = request.questions
    assert (question.request_id, question.unit, question.event_time) == ("r", "u", None)
    assert question.values == (7.0, None, "UA")
    np.testing.assert_array_equal(READER.matrix(request), np.array([[7, np.nan, 1]], dtype=np.float32))


def test_without_a_unit_the_header_is_the_unit_and_then_the_request_id():
    assert parse({"inputs": GOOD}, unit="h", request_id="r").questions[0].unit == "h"
    assert parse({"inputs": GOOD}, request_id="r").questions[0].unit == "r"
    question = parse({"inputs": GOOD}).questions[0]
    assert question.unit == question.request_id != ""


def test_the_request_id_of_the_body_goes_before_that_of_the_header():
    assert parse({"request_id": "b", "inputs": GOOD}, request_id="h").questions[0].request_id == "b"
    assert parse({"inputs": GOOD}, request_id="h").questions[0].request_id == "h"


def test_rows_without_an_id_are_numbered():
    request = parse({"rows": [{"inputs": GOOD, "unit": "a"}, {"inputs": GOOD, "request_id": "own"}]}, request_id="r")
    assert request.many
    assert [(question.request_id, question.unit) for question in request.questions] == [("r-0", "a"), ("own", "own")]


def test_an_event_time_is_read_in_replay_mode_in_any_zone():
    request = parse({"inputs": GOOD, "event_time": "2013-06-01T08:00:00-04:00"}, replay=True)
    assert request.questions[0].event_time == datetime(2013, 6, 1, 12, tzinfo=UTC)


def test_an_unknown_category_is_answered_since_the_model_has_a_place_for_it():
    request = parse({"inputs": {**GOOD, "carrier": "ZZ"}})
    assert READER.matrix(request)[0, 2] == -1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b'{"inputs": NaN}', "body"),
        (b'"\xff"', "body"),
        (b"[" * 100_000, "body"),
        (b'{"inputs": {"hour": 1e999, "distance": 1, "carrier": null}}', "body"),
        ([], "body"),
        ({}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        ({"inputs": {"distance": 1, "carrier": "UA"}}, "inputs.hour"),
        ({"inputs": {**GOOD, "hour": "7"}}, "inputs.hour"),
        ({"inputs": {**GOOD, "hour": 1e39}}, "inputs.hour"),
        ({"inputs": {**GOOD, "hour": False}}, "inputs.hour"),
        (b'{"inputs": {"hour": -%s, "distance": 1, "carrier": null}}' % (b"9" * 4000), "inputs.hour"),
        ({"inputs": {**GOOD, "carrier": 3}}, "inputs.carrier"),
        ({"inputs": {**GOOD, "weather": 3}}, "inputs.weather"),
        ({"inputs": GOOD, "units": "u"}, "units"),
        ({"inputs": GOOD, "unit": 4}, "unit"),
        ({"inputs": GOOD, "unit": ""}, "unit"),
        ({"inputs": GOOD, "request_id": "x" * 257}, "request_id"),
        ({"inputs": GOOD, "event_time": "2013-06-01T08:00:00Z"}, "event_time"),
        ({"rows": []}, "rows"),
        ({"rows": {}}, "rows"),
        ({"rows": [{}] * 10_001}, "rows"),
        ({"rows": [{"inputs": GOOD}], "inputs": GOOD}, "inputs"),
        ({"rows": [{"inputs": GOOD}, 4]}, "rows[1]"),
        ({"rows": [{"inputs": GOOD}, {"inputs": {**GOOD, "hour": []}}]}, "rows[1].inputs.hour"),
        ({"rows": [{"inputs": GOOD, "request_id": "r"}] * 2}, "rows[1].request_id"),
    ],
    ids=repr,
)
def test_a_wrong_request_is_told_what_is_wrong_with_it(document, field):
    with pytest.raises(BadRequest) as caught:
        parse(document)
    error = json.loads(caught.value.body())["error"]
    assert error["field"] == field
    assert set(error) == {"field", "got", "expected", "mend"}
    assert all(error.values())


def test_a_header_that_names_another_unit_is_refused_for_rows_as_well():
    for document, field in [({"unit": "a", "inputs": GOOD}, "unit"), ({"rows": [{"unit": "a", "inputs": GOOD}]}, "rows[0].unit")]:
        assert parse(document, unit="a").questions[0].unit == "a"
        with pytest.raises(BadRequest) as caught:
            parse(document, unit="b")
        assert caught.value.field == field


@pytest.mark.parametrize(
    "text", ["2013-06-01T08:00:00", "yesterday", "", 1370073600, [], "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_an_event_time_without_a_zone_or_sense_is_refused(text):
    with pytest.raises(BadRequest) as caught:
        parse({"inputs": GOOD, "event_time": text}, replay=True)
    assert caught.value.field == "event_time"


def _parses_or_refuses(body: bytes, unit: str | None = None, request_id: str | None = None, replay: bool = False) -> None:
    try:
        request = READER.read(body, protocol.read_headers(unit, request_id, replay))
    except BadRequest as error:
        json.loads(error.body())
        return
    rows = READER.matrix(request)
    assert rows.shape == (len(request.questions), len(INPUTS))
    assert not np.isinf(rows).any()
    json.loads(protocol.answer("m", "v1", request, [0.5] * len(rows), [True] * len(rows)))


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["AA", "2013-01-01T00:00:00Z", -(10**400), 1e39])
)
json_values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)
feature_inputs = st.fixed_dictionaries({}, optional=dict.fromkeys([*GOOD, "other"], json_values))
rows = st.fixed_dictionaries(
    {}, optional={"inputs": feature_inputs | json_values} | dict.fromkeys(["unit", "request_id", "event_time"], json_values)
)
requests = rows | st.fixed_dictionaries({"rows": st.lists(rows, max_size=3) | json_values}, optional={"request_id": json_values})


@settings(max_examples=400, deadline=None)
@given(st.binary())
def test_no_bytes_break_the_parser(body):
    _parses_or_refuses(body)


@settings(max_examples=600, deadline=None)
@given(requests | json_values, st.none() | st.text(), st.none() | st.text(), st.booleans(), st.booleans())
def test_no_json_breaks_the_parser(document, unit, request_id, replay, ascii_only):
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    _parses_or_refuses(body, unit, request_id, replay)


def _read_by(read, body: bytes, headers: protocol.Headers) -> object:
    try:
        return read(body, headers)
    except BadRequest as error:
        return error.body()


@settings(max_examples=600, deadline=None)
@given(requests | json_values, st.none() | st.text(max_size=3), st.booleans())
def test_the_compiled_types_and_the_parser_that_explains_agree(document, unit, replay):
    if isinstance(document, dict) and "request_id" not in document:
        document["request_id"] = "given"  # else each would make up its own
    body, headers = json.dumps(document).encode("utf-8", "surrogatepass"), protocol.Headers(unit or None, "r", replay)
    explained = _read_by(lambda *given: protocol.parse(given[0], Inputs(INPUTS), given[1]), body, headers)
    assert _read_by(READER.read, body, headers) == explained


def test_a_right_request_never_takes_the_slow_way(monkeypatch):
    monkeypatch.setattr(protocol, "parse", lambda *_: pytest.fail("the parser that explains was asked"))
    for document in (
        {"inputs": GOOD},
        {"unit": "u", "request_id": "r", "inputs": {**GOOD, "hour": None}},
        {"rows": [{"inputs": GOOD}] * 3},
    ):
        assert parse(document).questions[0].values[2] == "UA"


numbers = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, st.none() | st.sampled_from(["AA", "UA", "", "ZZ"])), min_size=1, max_size=5))
def test_what_is_served_is_what_training_would_have_encoded(table):
    names = [feature.name for feature in INPUTS]
    request = parse({"rows": [{"inputs": dict(zip(names, row, strict=True))} for row in table]})
    expected = encode(INPUTS, dict(zip(names, zip(*table, strict=True), strict=True)))
    np.testing.assert_array_equal(READER.matrix(request), expected)
    assert not math.isinf(float(expected[0, 0]))
