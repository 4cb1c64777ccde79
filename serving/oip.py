"""The Open Inference Protocol, version 2 over HTTP, with its extension for binary tensors: what KServe, Triton and MLServer speak.

https://github.com/open-inference/open-inference-protocol and Triton's ``protocol/extension_binary_data.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np

from mlops_assets.core.errors import MlopsError
from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import INPUT_NAME, SCORE_NAME, Signature
from serving import tensors
from serving.errors import BadRequest
from serving.protocol import MAX_ID_LENGTH, Headers, PredictRequest, Question, describe, event_time, require_same_unit

PLATFORM = "onnx"
EXTENSIONS = ("binary_tensor_data",)
DECISION_NAME = "decision"
OUTPUTS: Mapping[str, str] = {SCORE_NAME: "FP32", DECISION_NAME: "BOOL"}
HEADER_LENGTH = b"inference-header-content-length"
_KEYS = ("id", "model_name", "parameters", "inputs", "outputs")


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a request asks: its rows, as the model takes them too, and in which form it wants which outputs."""

    asked: PredictRequest
    matrix: np.ndarray
    id: str | None
    outputs: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class InferResponse:
    """A response's bytes, and how many of them are JSON if others follow."""

    body: bytes
    header_length: int | None


def read(body: bytes, header_length: str | None, model: str, inputs: Sequence[Feature], headers: Headers) -> InferRequest:
    """Read an inference request.

    Args:
        body: JSON, after which binary tensors may follow.
        header_length: the header ``Inference-Header-Content-Length``, how many bytes are JSON if others follow.
        model: whose it is. KServe's client names it in the body too, beside the protocol.
        inputs: the signature's.
        headers: what was said beside the body. ``parameters`` may hold ``unit``, and in replay mode ``event_time``, for all rows.

    Raises:
        BadRequest: for whatever is wrong with it.
    """
    document, raw = _document(body, header_length)
    if (named := document.get("model_name", model)) != model:
        raise BadRequest("model_name", describe(named), f"{model!r}, which the path names", "correct or remove it")
    given = _inputs(document, raw)
    matrix, values = _columns(given, inputs) if INPUT_NAME not in given or INPUT_NAME in tensors.place_of(inputs) else _one(given, inputs)
    parameters = _mapping(document.get("parameters") or {}, "parameters")
    own_id = _id(document.get("id"), "id")
    unit = _id(parameters.get("unit"), "parameters.unit")
    require_same_unit(unit, headers, "parameters.")
    when = event_time(parameters.get("event_time"), headers.replay, "parameters.")
    base = own_id or headers.request_id or str(uuid4())
    ids = [base] if len(values) == 1 else [f"{base}-{place}" for place in range(len(values))]
    questions = tuple(
        Question(request_id, unit or headers.unit or request_id, when, row) for request_id, row in zip(ids, values, strict=True)
    )
    outputs = _outputs(document.get("outputs"), bool(parameters.get("binary_data_output")))
    return InferRequest(PredictRequest(questions, True), matrix, own_id, outputs)


def write(model: str, release: str, request: InferRequest, scores: np.ndarray, decisions: Sequence[bool]) -> InferResponse:
    """The response: the outputs that were asked for, each of shape (rows,)."""
    found = {SCORE_NAME: scores.astype("<f4"), DECISION_NAME: np.asarray(decisions, dtype=bool)}
    told, raw = [], []
    for name, binary in request.outputs:
        output: dict[str, Any] = {"name": name, "shape": [len(scores)], "datatype": OUTPUTS[name]}
        if binary:
            raw.append(found[name].tobytes())
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = found[name].tolist()
        told.append(output)
    document = {"model_name": model, "model_version": release, "outputs": told}
    if request.id is not None:
        document["id"] = request.id
    text = msgspec.json.encode(document)
    return InferResponse(b"".join((text, *raw)), len(text) if raw else None)


def metadata(signature: Signature, release: str) -> bytes:
    """The model as ``GET /v2/models/<model>`` tells it. ``features`` may be given instead of the single inputs, and the other way round."""
    singles = [
        {"name": feature.name, "datatype": tensors.TEXT if feature.categories else "FP64", "shape": [-1]} for feature in signature.inputs
    ]
    whole = {"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, len(signature.inputs)]}
    return msgspec.json.encode(
        {
            "name": signature.model,
            "versions": [release],
            "platform": PLATFORM,
            "inputs": [whole],
            "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()],
            "parameters": {"inputs_by_name": singles},
        }
    )


def server_metadata(version: str) -> bytes:
    """The server as ``GET /v2`` tells it."""
    return msgspec.json.encode({"name": "mlops-assets", "version": version, "extensions": EXTENSIONS})


def error(failure: MlopsError | str) -> bytes:
    """An error as the protocol has it."""
    return msgspec.json.encode({"error": str(failure)})


def _document(body: bytes, header_length: str | None) -> tuple[Mapping[str, Any], memoryview]:
    view = memoryview(body)
    length = len(body)
    if header_length is not None:
        length = int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 12 else -1
        if not 0 <= length <= len(body):
            raise BadRequest(
                "Inference-Header-Content-Length header", describe(header_length), f"0 to {len(body)}", "send the number of bytes of JSON"
            )
    try:
        document = msgspec.json.decode(view[:length])
    except (ValueError, RecursionError) as error:
        raise BadRequest("body", f"{length} bytes ({error})", "a JSON object", "send valid UTF-8 JSON") from error
    for key in (found := _mapping(document, "body")):
        if key not in _KEYS:
            raise BadRequest(key[:MAX_ID_LENGTH], "a name that is not known", f"one of {', '.join(_KEYS)}", "correct or remove it")
    return found, view[length:]


def _inputs(document: Mapping[str, Any], raw: memoryview) -> dict[str, tuple[Mapping[str, Any], memoryview | None]]:
    """The input tensors by name, each with its bytes if it came as such."""
    listed = document.get("inputs")
    if not isinstance(listed, list) or not listed:
        raise BadRequest("inputs", describe(listed), "a list of tensors", "send each with name, shape, datatype and data")
    found: dict[str, tuple[Mapping[str, Any], memoryview | None]] = {}
    for place, item in enumerate(listed):
        tensor = _mapping(item, f"inputs[{place}]")
        name = tensor.get("name")
        if not isinstance(name, str) or name in found:
            raise BadRequest(f"inputs[{place}].name", describe(name), "a name of its own", "name each input once")
        size = _mapping(tensor.get("parameters") or {}, f"inputs[{place}].parameters").get("binary_data_size")
        if size is None:
            found[name] = tensor, None
            continue
        if type(size) is not int or not 0 <= size <= len(raw):
            where = f"inputs.{name[:60]}.parameters.binary_data_size"
            raise BadRequest(where, describe(size), f"0 to {len(raw)}, as many as follow", "correct it")
        found[name], raw = (tensor, raw[:size]), raw[size:]
    if len(raw):
        raise BadRequest("body", f"{len(raw)} bytes more than the tensors' binary_data_size", "no more", "correct the sizes")
    return found


def _one(given: Mapping[str, Any], inputs: Sequence[Feature]) -> tuple[np.ndarray, list[Any]]:
    """The rows of the one tensor ``features``."""
    if len(given) > 1:
        other = next(name for name in given if name != INPUT_NAME)
        raise BadRequest(f"inputs.{other[:60]}", "a tensor beside features", "features alone, or one tensor an input", "send one of both")
    tensor, raw = given[INPUT_NAME]
    field = f"inputs.{INPUT_NAME}"
    shape = tensors.shape_of(tensor, field)
    if len(shape) != 2 or shape[1] != len(inputs):
        raise BadRequest(f"{field}.shape", str(list(shape)), f"[rows, {len(inputs)}]", "send a column for each input, in their order")
    matrix = tensors.numbers(tensor, shape, raw, field)
    tensors.require_codes(inputs, matrix)
    return matrix.astype(np.float32), tensors.decoded(inputs, matrix)


def _columns(given: Mapping[str, Any], inputs: Sequence[Feature]) -> tuple[np.ndarray, list[Any]]:
    """The rows of one tensor an input."""
    places = tensors.place_of(inputs)
    for name in given:
        if name not in places:
            known = f"{INPUT_NAME}, or {', '.join(places)}"
            raise BadRequest(f"inputs.{name[:60]}", "a name that is not known", known, "correct or remove it")
    rows: int | None = None
    codes, values = [], []
    for feature in inputs:
        field = f"inputs.{feature.name}"
        if feature.name not in given:
            raise BadRequest(field, "nothing", "a tensor of each input", "send it, with NaN or null where it is not known")
        tensor, raw = given[feature.name]
        shape = tensors.shape_of(tensor, field)
        if shape[1:] not in ((), (1,)) or shape[0] != (rows or shape[0]):
            raise BadRequest(f"{field}.shape", str(list(shape)), f"[{rows or 'rows'}] or [{rows or 'rows'}, 1]", "send one value a row")
        rows = shape[0]
        code, column = _column(feature, tensor, shape, raw, field)
        codes.append(code)
        values.append(column)
    return np.stack(codes, axis=1).astype(np.float32), list(zip(*values, strict=True))


def _column(feature: Feature, tensor: Any, shape: tuple[int, ...], raw: memoryview | None, field: str) -> tuple[np.ndarray, list[Any]]:
    if feature.categories:
        if tensor.get("datatype") != tensors.TEXT:
            raise BadRequest(f"{field}.datatype", describe(tensor.get("datatype")), tensors.TEXT, "send categories as strings")
        known = {category: place for place, category in enumerate(feature.categories)}
        found = tensors.texts(tensor, shape, raw, field)
        return np.array([known.get(text, -1) for text in found], dtype=np.float64), found  # type: ignore[arg-type]
    column = tensors.numbers(tensor, shape, raw, field).ravel()
    return column, [None if number != number else number for number in column.tolist()]


def _outputs(asked: Any, binary: bool) -> tuple[tuple[str, bool], ...]:
    if asked is None:
        return tuple((name, binary) for name in OUTPUTS)
    if not isinstance(asked, list):
        raise BadRequest("outputs", describe(asked), "a list of outputs", "leave it out to get all")
    found = {}
    for place, item in enumerate(asked):
        output = _mapping(item, f"outputs[{place}]")
        name = output.get("name")
        if not isinstance(name, str) or name not in OUTPUTS or name in found:
            raise BadRequest(f"outputs[{place}].name", describe(name), f"one of {', '.join(OUTPUTS)}, once", "correct or remove it")
        wanted = _mapping(output.get("parameters") or {}, f"outputs[{place}].parameters").get("binary_data")
        found[name] = binary if wanted is None else bool(wanted)
    return tuple(found.items()) or tuple((name, binary) for name in OUTPUTS)


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(field, describe(value), "a JSON object", "correct it")
    return value


def _id(value: Any, field: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_ID_LENGTH:
        raise BadRequest(field, describe(value), f"a string of at most {MAX_ID_LENGTH} characters", "send it as such, or leave it out")
    return value
