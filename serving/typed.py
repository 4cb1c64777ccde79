"""Reads requests with types that are compiled once from the model's signature.

It knows right requests only. Whatever it does not take, :func:`serving.protocol.parse` reads again, slowly, and says what is wrong; so
the two cannot disagree about a mistake, and a test shows that they agree about all else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import uuid4

import msgspec
import numpy as np
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import astuple

from mlops_assets.core.on_demand import RequestField
from serving import protocol
from serving.inputs import Inputs
from serving.protocol import FLOAT32_MAX, MAX_ID_LENGTH, MAX_ROWS, Headers, PredictRequest, Question, Said, Value

_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH)]
_Number = Annotated[float, Meta(ge=-FLOAT32_MAX, le=FLOAT32_MAX)]


class TypedReader:
    """Reads the requests of one model.

    >>> from mlops_assets.core.model_spec import Feature
    >>> reader = TypedReader(Inputs((Feature("hour"), Feature("carrier", ("AA", "UA")))))
    >>> request = reader.read(b'{"unit": "u", "inputs": {"hour": 7, "carrier": "UA"}}', Headers(None, "r", False))
    >>> request.questions[0].values, reader.matrix(request).tolist()
    ((7.0, 'UA'), [[7.0, 1.0]])
    """

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._decode = _decoder(self._inputs)
        self._places = {
            place: {category: float(code) for code, category in enumerate(feature.categories)}
            for place, feature in enumerate(inputs.features)
            if feature.categories
        }

    def read(self, body: bytes, headers: Headers) -> PredictRequest:
        """What the request asks; :class:`serving.protocol.BadRequest` if it is wrong."""
        try:
            document = self._decode(body)
        except (ValueError, RecursionError):
            return protocol.parse(body, self._inputs, headers)
        if (document.rows is UNSET) == (document.inputs is UNSET):
            return protocol.parse(body, self._inputs, headers)
        if document.rows is UNSET:
            request_id = document.request_id or headers.request_id or str(uuid4())
            return PredictRequest((_question(document, self._inputs, request_id, headers, ""),), False)
        return self._many(body, document, headers)

    def matrix(self, request: PredictRequest) -> np.ndarray:
        """The questions as the model takes them, float32 of shape (rows, features), by the rules of ``core.signature.encode``."""
        rows: list[Any] = [question.values for question in request.questions]
        if self._places:
            rows = [list(row) for row in rows]
            for place, codes in self._places.items():
                for row in rows:
                    row[place] = codes.get(row[place], -1.0)
        return np.array(rows, dtype=np.float32)

    def _many(self, body: bytes, document: Any, headers: Headers) -> PredictRequest:
        if document.unit is not UNSET or document.event_time is not UNSET or (self._inputs.entities and document.entities is not UNSET):
            return protocol.parse(body, self._inputs, headers)
        base = document.request_id or headers.request_id or str(uuid4())
        questions = tuple(
            _question(row, self._inputs, row.request_id or f"{base}-{place}", headers, f"rows[{place}].")
            for place, row in enumerate(document.rows)
        )
        if len({question.request_id for question in questions}) != len(questions):
            protocol.require_different(questions)
        return PredictRequest(questions, True)


def _question(row: Any, inputs: Inputs, request_id: str, headers: Headers, path: str) -> Question:
    unit, when = row.unit or None, row.event_time
    if unit is not None and unit != headers.unit:
        protocol.require_same_unit(unit, headers, path)
    values: tuple[Value, ...] = astuple(row.inputs)
    moment = None if when is None or when is UNSET else protocol.event_time(when, headers.replay, path)
    if inputs.are_all_sent:
        return Question(request_id, unit or headers.unit or request_id, moment, values)
    told = () if not inputs.entities or row.entities is UNSET else zip(inputs.entities, astuple(row.entities), strict=True)
    own = len(inputs.features)
    request = [_said(field, value, path) for field, value in zip(inputs.request, values[own:], strict=True)]
    found = inputs.resolve(values[:own], {name: value for name, value in told if value is not UNSET}, request, path)
    return Question(request_id, unit or headers.unit or request_id, moment, found.values, found.entities, found.request)


def _said(field: RequestField, value: Any, path: str) -> Said:
    return protocol.moment(value, f"{path}inputs.{field.name}") if field.type == "timestamp" and value is not UNSET else value


def _decoder(inputs: Inputs) -> Callable[[bytes], Any]:
    """A decoder of documents with either ``inputs`` or ``rows``."""
    optional = inputs.optional
    fields: list[tuple[str, Any, bool]] = [
        (feature.name, (str | None) if feature.categories else (_Number | None), feature.name in optional) for feature in inputs.features
    ]
    fields += [(field.name, (_Number | None) if field.type == "float" else (str | None), True) for field in inputs.request]
    features = _struct("Inputs", fields)
    # UNSET and not None: null beside rows is as wrong there as anything else
    said: list[tuple[str, Any, Any]] = [
        ("request_id", _Id | None, None),
        ("unit", _Id | UnsetType | None, UNSET),
        ("event_time", str | UnsetType | None, UNSET),
    ]
    if inputs.entities:
        entities = _struct("Entities", [(name, _Id | None, True) for name in inputs.entities])
        said.append(("entities", entities | UnsetType, UNSET))  # type: ignore[operator]
    row = msgspec.defstruct("Row", [("inputs", features), *said], forbid_unknown_fields=True, gc=False)
    rows = Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)]  # type: ignore[valid-type]
    either = [("inputs", features | UnsetType, UNSET), ("rows", rows | UnsetType, UNSET), *said]
    return msgspec.json.Decoder(msgspec.defstruct("Document", either, forbid_unknown_fields=True, gc=False)).decode


def _struct(name: str, fields: Sequence[tuple[str, Any, bool]]) -> Any:
    """A struct of names, types and whether they may be left out. Its fields are numbered, as a feature's name need not be Python's."""
    numbered = [f"f{place}" for place in range(len(fields))]
    typed = [
        (number, kind | UnsetType, UNSET) if optional else (number, kind)
        for number, (_, kind, optional) in zip(numbered, fields, strict=True)
    ]
    renamed = {number: field for number, (field, *_) in zip(numbered, fields, strict=True)}
    return msgspec.defstruct(name, typed, rename=renamed, forbid_unknown_fields=True, gc=False, kw_only=True)
