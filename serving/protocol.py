"""What ``POST /predict`` understands: JSON, typed by the model's signature. A wrong request becomes a :class:`BadRequest`, never
anything else, since a client's mistake must not look like the release's.

:mod:`serving.typed` reads right requests faster; :func:`parse` says what a request means, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.on_demand import RequestField
from serving.errors import BadRequest
from serving.inputs import Inputs

MAX_ROWS = 10_000
MAX_ID_LENGTH = 256
FLOAT32_MAX = float(np.finfo(np.float32).max)
EVENT_YEARS = range(1970, 2200)

_ENCODER = msgspec.json.Encoder()
_ROW_KEYS = ("request_id", "unit", "event_time", "entities", "inputs")
_MANY_KEYS = ("request_id", "rows")
_MISSING: Any = object()

Value = float | str | None | UnsetType
"""One input: a number, a category or nothing; ``UNSET`` as long as it is still to be looked up."""

Said = float | str | datetime | None | UnsetType
"""One request field."""


class Question(msgspec.Struct, frozen=True, gc=False):
    """One row to be scored.

    ``values`` are in the order of the signature's inputs, ``entities`` and ``request`` in that of :class:`Inputs`.
    """

    request_id: str
    unit: str
    event_time: datetime | None
    values: tuple[Value, ...]
    entities: tuple[str | None, ...] = ()
    request: tuple[Said, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether no input is still to be looked up."""
        return UNSET not in self.values


class PredictRequest(msgspec.Struct, frozen=True, gc=False):
    """The questions of one request, and whether it asked with ``rows``."""

    questions: tuple[Question, ...]
    many: bool


class Headers(msgspec.Struct, frozen=True, gc=False):
    """What a request says outside of its body: ``x-unit``, ``x-request-id``; and whether ``event_time`` may be given."""

    unit: str | None
    request_id: str | None
    replay: bool


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The answer to one row."""

    model: str
    release: str
    request_id: str
    unit: str
    score: float
    decision: bool


class Predictions(msgspec.Struct, frozen=True, gc=False):
    """The answer to ``rows``."""

    predictions: list[Prediction]


def read_headers(unit: str | None, request_id: str | None, replay: bool) -> Headers:
    """Check the headers.

    Args:
        unit: the ``x-unit`` header, by which the gateway has routed.
        request_id: the ``x-request-id`` header; the body's own goes first, and without both there is a new one.
        replay: whether ``event_time`` may be given.

    Raises:
        BadRequest: if one is too long.
    """
    return Headers(_header(unit, "x-unit header"), _header(request_id, "x-request-id header"), replay)


def parse(body: bytes, inputs: Inputs, headers: Headers) -> PredictRequest:
    """Read a request.

    Args:
        body: the request's body.
        inputs: the model's.
        headers: what was said beside it.

    Raises:
        BadRequest: for whatever is wrong with it.
    """
    document = _object(_decode(body), "body")
    if "rows" not in document:
        own = _text(document, "request_id", "request_id") or headers.request_id or str(uuid4())
        return PredictRequest((_question(document, inputs, headers, own, ""),), many=False)
    _known(document, _MANY_KEYS, "")
    rows = document["rows"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_ROWS:
        raise BadRequest("rows", describe(rows), f"a list of 1 to {MAX_ROWS} rows", "send at least one, and split larger requests")
    base = _text(document, "request_id", "request_id") or headers.request_id or str(uuid4())
    questions = tuple(_row(row, inputs, headers, base, place) for place, row in enumerate(rows))
    require_different(questions)
    return PredictRequest(questions, many=True)


def answer(model: str, release: str, request: PredictRequest, scores: Sequence[float], decisions: Sequence[bool]) -> bytes:
    """The JSON answer to a request: the prediction itself, or ``predictions`` in the order of its ``rows``."""
    predictions = [
        Prediction(model, release, question.request_id, question.unit, score, decision)
        for question, score, decision in zip(request.questions, scores, decisions, strict=True)
    ]
    return _ENCODER.encode(Predictions(predictions) if request.many else predictions[0])


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
        raise BadRequest(
            "body", f"{len(body)} bytes ({error})", "a JSON object", "send valid UTF-8 JSON, with numbers of 64 bits"
        ) from error


def _row(row: Any, inputs: Inputs, headers: Headers, base: str, place: int) -> Question:
    path = f"rows[{place}]"
    document = _object(row, path)
    own = _text(document, "request_id", f"{path}.request_id") or f"{base}-{place}"
    return _question(document, inputs, headers, own, f"{path}.")


def _question(document: Mapping[str, Any], inputs: Inputs, headers: Headers, request_id: str, path: str) -> Question:
    _known(document, _ROW_KEYS if inputs.entities else [key for key in _ROW_KEYS if key != "entities"], path)
    unit = _text(document, "unit", f"{path}unit")
    require_same_unit(unit, headers, path)
    given = _object(document.get("inputs", _MISSING), f"{path}inputs")
    absent = dict.fromkeys(inputs.optional, UNSET)
    values = tuple(_value(feature, given.get(feature.name, absent.get(feature.name, _MISSING)), path) for feature in inputs.features)
    request = [_said(field, given.get(field.name, UNSET), path) for field in inputs.request]
    _known(given, [field.name for field in (*inputs.features, *inputs.request)], f"{path}inputs.")
    moment = event_time(document.get("event_time"), headers.replay, path)
    if inputs.are_all_sent:
        return Question(request_id, unit or headers.unit or request_id, moment, values)
    row = inputs.resolve(values, _entities(document, inputs, path), request, path)
    return Question(request_id, unit or headers.unit or request_id, moment, row.values, row.entities, row.request)


def _entities(document: Mapping[str, Any], inputs: Inputs, path: str) -> Mapping[str, str | None]:
    told = _object(document.get("entities", {}), f"{path}entities")
    _known(told, inputs.entities, f"{path}entities.")
    return {name: None if value is None else _text(told, name, f"{path}entities.{name}") for name, value in told.items()}


def require_same_unit(unit: str | None, headers: Headers, path: str) -> None:
    """:class:`BadRequest` if the body names another unit than the header by which the gateway has routed."""
    if unit is not None and headers.unit is not None and unit != headers.unit:
        raise BadRequest(
            f"{path}unit",
            f"{describe(unit)} with the x-unit header {describe(headers.unit)}",
            "the same in both",
            "set x-unit to the unit: traffic is split by it",
        )


def _value(feature: Feature, value: Any, path: str) -> Value:
    if value is None or value is UNSET:
        return value
    if feature.categories:
        if isinstance(value, str):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and -FLOAT32_MAX <= value <= FLOAT32_MAX:
        return float(value)
    expected = "a string or null" if feature.categories else "a number that float32 can hold, or null"
    mend = "send null if it is not known" if value is _MISSING else "send its value as this type"
    raise BadRequest(f"{path}inputs.{feature.name}", describe(value), expected, mend)


def _said(field: RequestField, value: Any, path: str) -> Said:
    if field.type == "timestamp":
        return value if value is UNSET else moment(value, f"{path}inputs.{field.name}")
    return _value(Feature(field.name, ("",) if field.type == "string" else ()), value, path)


def event_time(text: Any, replay: bool, path: str) -> datetime | None:
    """The moment that a row is about; ``path`` is that of the row, for the error."""
    field = f"{path}event_time"
    if text is not None and not replay:
        raise BadRequest(field, describe(text), "no event_time outside of replay mode", "leave it out: the present time counts")
    return moment(text, field)


def moment(text: Any, field: str) -> datetime | None:
    """A time in UTC, None for null; ``field`` is where it stands, for the error."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None and found.year in EVENT_YEARS:
            return found.astimezone(UTC)
    except (TypeError, ValueError) as error:
        cause: Exception | None = error
    else:
        cause = None
    raise BadRequest(
        field, describe(text), f"an ISO 8601 time with its zone, years {EVENT_YEARS[0]} to {EVENT_YEARS[-1]}", "send 2013-06-01T12:00:00Z"
    ) from cause


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(field, describe(value), "a JSON object", 'send {"unit": ..., "inputs": {feature: value, ...}}')
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
        raise BadRequest(field, describe(value), f"a string of 1 to {MAX_ID_LENGTH} characters", "send it as such, or leave it out")
    return value


def _header(value: str | None, field: str) -> str | None:
    return _text({"value": value}, "value", field) if value else None


def require_different(questions: Sequence[Question]) -> None:
    """:class:`BadRequest` if two rows have one request id."""
    seen: dict[str, int] = {}
    for place, question in enumerate(questions):
        if question.request_id in seen:
            raise BadRequest(
                f"rows[{place}].request_id",
                f"{describe(question.request_id)} as in rows[{seen[question.request_id]}]",
                "a different one for each row",
                "make them differ, or leave them out",
            )
        seen[question.request_id] = place


def describe(value: Any) -> str:
    """A value in words, short."""
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
