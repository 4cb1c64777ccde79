"""What ``POST /predict`` understands: JSON, typed by the model's signature. A wrong request becomes a :class:`BadRequest`, never
anything else, since a client's mistake must not look like the release's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np

from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import Feature
from mlops_assets.core.signature import encode

MAX_ROWS = 10_000
MAX_ID_LENGTH = 256
FLOAT32_MAX = float(np.finfo(np.float32).max)
EVENT_YEARS = range(1970, 2200)

_ROW_KEYS = ("request_id", "unit", "event_time", "inputs")
_MANY_KEYS = ("request_id", "rows")
_MISSING: Any = object()

Value = float | str | None
"""One input as it is logged: a number, a category or nothing."""


class BadRequest(MlopsError):
    """The request cannot be answered as it is. ``field`` is the path of what is wrong, e.g. ``rows[3].inputs.hour``."""

    def __init__(self, field: str, got: str, expected: str, mend: str) -> None:
        super().__init__(f"{field}: got {got}, expected {expected}: {mend}")
        self.field, self.got, self.expected, self.mend = field, got, expected, mend

    def body(self) -> bytes:
        """The JSON answer."""
        return msgspec.json.encode({"error": {"field": self.field, "got": self.got, "expected": self.expected, "mend": self.mend}})


@dataclass(frozen=True, slots=True)
class Question:
    """One row to be scored. ``values`` are in the order of the signature's inputs."""

    request_id: str
    unit: str
    event_time: datetime | None
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """The questions of one request, and whether it asked with ``rows``."""

    questions: tuple[Question, ...]
    many: bool


def parse(body: bytes, inputs: Sequence[Feature], *, unit: str | None, request_id: str | None, replay: bool) -> PredictRequest:
    """Read a request.

    Args:
        body: the request's body.
        inputs: the signature's.
        unit: the ``x-unit`` header, by which the gateway has routed.
        request_id: the ``x-request-id`` header; the body's own goes first, and without both there is a new one.
        replay: whether ``event_time`` may be given.

    Raises:
        BadRequest: for whatever is wrong with it.
    """
    document = _object(_decode(body), "body")
    headers = _Headers(_header(unit, "x-unit header"), _header(request_id, "x-request-id header"), replay)
    if "rows" not in document:
        own = _text(document, "request_id", "request_id") or headers.request_id or str(uuid4())
        return PredictRequest((_question(document, inputs, headers, own, ""),), many=False)
    _known(document, _MANY_KEYS, "")
    rows = document["rows"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
        raise BadRequest("rows", _describe(rows), f"a list of 1 to {MAX_ROWS} rows", "send at least one, and split larger requests")
    base = _text(document, "request_id", "request_id") or headers.request_id or str(uuid4())
    questions = tuple(_row(row, inputs, headers, base, place) for place, row in enumerate(rows))
    _require_different(questions)
    return PredictRequest(questions, many=True)


def matrix(request: PredictRequest, inputs: Sequence[Feature]) -> np.ndarray:
    """The questions as the model takes them, float32 of shape (rows, features)."""
    columns = zip(*(question.values for question in request.questions), strict=True)
    return encode(inputs, {feature.name: column for feature, column in zip(inputs, columns, strict=True)})


def answer(model: str, release: str, request: PredictRequest, scores: Sequence[float], decisions: Sequence[bool]) -> bytes:
    """The JSON answer to a request: the prediction itself, or ``predictions`` in the order of its ``rows``."""
    predictions = [
        {"model": model, "release": release, "request_id": question.request_id, "unit": question.unit, "score": score, "decision": decision}
        for question, score, decision in zip(request.questions, scores, decisions, strict=True)
    ]
    return msgspec.json.encode({"predictions": predictions} if request.many else predictions[0])


@dataclass(frozen=True, slots=True)
class _Headers:
    unit: str | None
    request_id: str | None
    replay: bool


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise BadRequest(
            "body", f"{len(body)} bytes ({error})", "a JSON object", "send valid UTF-8 JSON, with numbers of 64 bits"
        ) from error


def _row(row: Any, inputs: Sequence[Feature], headers: _Headers, base: str, place: int) -> Question:
    path = f"rows[{place}]"
    document = _object(row, path)
    own = _text(document, "request_id", f"{path}.request_id") or f"{base}-{place}"
    return _question(document, inputs, headers, own, f"{path}.")


def _question(document: Mapping[str, Any], inputs: Sequence[Feature], headers: _Headers, request_id: str, path: str) -> Question:
    _known(document, _ROW_KEYS, path)
    unit = _text(document, "unit", f"{path}unit")
    if unit is not None and headers.unit is not None and unit != headers.unit:
        raise BadRequest(
            f"{path}unit",
            f"{_describe(unit)} with the x-unit header {_describe(headers.unit)}",
            "the same in both",
            "set x-unit to the unit: traffic is split by it",
        )
    given = _object(document.get("inputs", _MISSING), f"{path}inputs")
    values = tuple(_value(feature, given.get(feature.name, _MISSING), path) for feature in inputs)
    if len(given) > len(inputs):
        _known(given, [feature.name for feature in inputs], f"{path}inputs.")
    return Question(request_id, unit or headers.unit or request_id, _event_time(document, headers.replay, path), values)


def _value(feature: Feature, value: Any, path: str) -> Value:
    if value is None:
        return None
    if feature.categories:
        if isinstance(value, str):
            return value
    elif isinstance(value, int | float) and -FLOAT32_MAX <= value <= FLOAT32_MAX:
        return float(value)
    expected = "a string or null" if feature.categories else "a number that float32 can hold, or null"
    mend = "send null if it is not known" if value is _MISSING else "send its value as this type"
    raise BadRequest(f"{path}inputs.{feature.name}", _describe(value), expected, mend)


def _event_time(document: Mapping[str, Any], replay: bool, path: str) -> datetime | None:
    text = document.get("event_time")
    if text is None:
        return None
    field = f"{path}event_time"
    if not replay:
        raise BadRequest(field, _describe(text), "no event_time outside of replay mode", "leave it out: the present time counts")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None and moment.year in EVENT_YEARS:
            return moment.astimezone(UTC)
    except (TypeError, ValueError) as error:
        cause: Exception | None = error
    else:
        cause = None
    raise BadRequest(
        field, _describe(text), f"an ISO 8601 time with its zone, years {EVENT_YEARS[0]} to {EVENT_YEARS[-1]}", "send 2013-06-01T12:00:00Z"
    ) from cause


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(field, _describe(value), "a JSON object", 'send {"unit": ..., "inputs": {feature: value, ...}}')
    return value


def _known(document: Mapping[str, Any], keys: Sequence[str], path: str) -> None:
    for key in document:
        if key not in keys:
            raise BadRequest(
                f"{path}{key[:MAX_ID_LENGTH]}", "a name that is not known", f"one of {', '.join(keys)}", "correct or remove it"
            )


def _text(document: Mapping[str, Any], key: str, field: str) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH:
        raise BadRequest(field, _describe(value), f"a string of 1 to {MAX_ID_LENGTH} characters", "send it as such, or leave it out")
    return value


def _header(value: str | None, field: str) -> str | None:
    return _text({"value": value}, "value", field) if value else None


def _require_different(questions: Sequence[Question]) -> None:
    seen: dict[str, int] = {}
    for place, question in enumerate(questions):
        if question.request_id in seen:
            raise BadRequest(
                f"rows[{place}].request_id",
                f"{_describe(question.request_id)} as in rows[{seen[question.request_id]}]",
                "a different one for each row",
                "make them differ, or leave them out",
            )
        seen[question.request_id] = place


def _describe(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the string {value[:60]!r}" + ("..." if len(value) > 60 else "")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    # Python refuses to print integers of thousands of digits
    return f"the number {value}" if isinstance(value, float) or value.bit_length() < 64 else f"an integer of {value.bit_length()} bits"
