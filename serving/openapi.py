"""What a release says of itself: an OpenAPI document with examples from the model's signature, and a page to read it on."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import INPUT_NAME, Signature
from serving.inputs import EXPECTED, Inputs
from serving.oip import OUTPUTS
from serving.protocol import FLOAT32_MAX, MAX_ID_LENGTH, MAX_ROWS
from serving.tensors import NUMBERS, TEXT

_ID = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH}
_JSON = "application/json"
_STYLE = (
    "body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{background:#eee;padding:1em;overflow:auto}td,th{text-align:left;padding-right:2em}"
)
_TEXT = {"type": "string"}
_EXAMPLES = {"float": 1.0, "string": "a", "timestamp": "2026-06-01T12:30:00Z"}
_PLACE = {"type": "integer", "minimum": 0}


def document(signature: Signature, release: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a release."""
    model = signature.model
    paths = {
        "/predict": {"post": _predict(signature)},
        "/health": {"get": _read("Whether the process is alive", 200)},
        "/ready": {"get": _read("Whether the model is verified and warmed", 200, 503)},
        "/v2": {"get": _read("The server, as the Open Inference Protocol has it", 200)},
        "/v2/health/live": {"get": _read("As /health", 200)},
        "/v2/health/ready": {"get": _read("As /ready", 200, 503)},
    }
    for place in (f"/v2/models/{model}", f"/v2/models/{model}/versions/{release}"):
        paths[place] = {"get": _read("Inputs and outputs of the model", 200, 503)}
        paths[f"{place}/ready"] = {"get": _read("As /ready", 200, 503)}
        paths[f"{place}/infer"] = {"post": _infer(signature)}
    about = f"Traffic is split by the unit, which is {signature.unit}. A score of {signature.decision_threshold:g} or more is a yes."
    return {
        "openapi": "3.1.0",
        "info": {"title": model, "version": release, "description": about},
        "paths": paths,
        "components": {"schemas": _schemas(signature.model, Inputs.of(signature))},
    }


def example_inputs(inputs: Sequence[Feature]) -> dict[str, float | str]:
    """Inputs to try: of a category the first, of numbers 1.

    >>> example_inputs([Feature("hour"), Feature("carrier", ("AA", "UA"))])
    {'hour': 1.0, 'carrier': 'AA'}
    """
    return {feature.name: feature.categories[0] if feature.categories else 1.0 for feature in inputs}


def page(signature: Signature, release: str) -> bytes:
    """The document as a page of HTML that loads nothing from elsewhere."""
    found = document(signature, release)
    parts = [f"<h1>{html.escape(signature.model)} {html.escape(release)}</h1><p>{html.escape(found['info']['description'])}</p>"]
    parts.append("<table><tr><th>input<th>type<th>if left out</tr>")
    inputs = Inputs.of(signature)
    instead = {field.name: f"{view.name} of {view.entity}" for view in inputs.views for field in view.fields}
    instead |= {inputs.features[each.place].name: each.expression.text for each in inputs.computed}
    for feature in signature.inputs:
        kind = f"one of {', '.join(feature.categories)}; another is unknown" if feature.categories else "number"
        source = instead.get(feature.name, f"entities.{feature.name}" if feature.name in inputs.optional else "")
        parts.append(f"<tr><td>{html.escape(feature.name)}<td>{html.escape(kind)} or null<td>{html.escape(source)}</tr>")
    parts += [f"<tr><td>{html.escape(field.name)}<td>{html.escape(EXPECTED[field.type])}<td></tr>" for field in inputs.request]
    parts.append("</table><p>The same for programs: <a href='openapi.json'>openapi.json</a></p>")
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}</p>")
            examples = operation.get("requestBody", {}).get("content", {}).get(_JSON, {}).get("examples", {})
            for name, example in examples.items():
                text = json.dumps(example["value"], indent=1)
                parts.append(f"<h3>{html.escape(name)}</h3><pre>{html.escape(text)}</pre>")
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(signature.model)}</title><style>{_STYLE}</style>"
    return (head + "".join(parts)).encode()


def _predict(signature: Signature) -> dict[str, Any]:
    inputs = example_inputs(signature.inputs)
    examples = {
        "one row": {"value": {"unit": "a", "inputs": inputs}},
        "many rows": {"value": {"rows": [{"unit": "a", "inputs": inputs}, {"unit": "b", "inputs": inputs}]}},
    }
    whole = Inputs.of(signature)
    own: dict[str, Any] = {name: value for name, value in inputs.items() if name not in whole.optional}
    own |= {field.name: _EXAMPLES[field.type] for field in whole.request}
    if whole.entities:
        entities = {name: str(inputs.get(name, "a")) for name in whole.entities}
        examples["by its entities"] = {"value": {"unit": "a", "entities": entities, "inputs": own}}
    elif whole.computed:
        examples["by what the rest is computed from"] = {"value": {"unit": "a", "inputs": own}}
    body = {"oneOf": [{"$ref": "#/components/schemas/Row"}, {"$ref": "#/components/schemas/Rows"}]}
    answer = {"oneOf": [{"$ref": "#/components/schemas/Prediction"}, {"$ref": "#/components/schemas/Predictions"}]}
    return {
        "summary": "The score and decision of one row, or of many",
        "parameters": [_header("x-unit"), _header("x-request-id"), _timeout()],
        "requestBody": {"required": True, "content": {_JSON: {"schema": body, "examples": examples}}},
        "responses": {"200": _response("The prediction", answer), **_failures("422", "Wrong")},
    }


def _infer(signature: Signature) -> dict[str, Any]:
    width = len(signature.inputs)
    whole = {"name": INPUT_NAME, "shape": [1, width], "datatype": "FP64", "data": [0.0] * width}
    single = [
        {"name": name, "shape": [1], "datatype": TEXT if isinstance(value, str) else "FP64", "data": [value]}
        for name, value in example_inputs(signature.inputs).items()
    ]
    examples = {"one tensor": {"value": {"inputs": [whole]}}, "a tensor for each input": {"value": {"inputs": single}}}
    body = {"$ref": "#/components/schemas/InferRequest"}
    return {
        "summary": "The same by the Open Inference Protocol; binary tensors are understood too",
        "parameters": [_header("x-unit"), _header("x-request-id"), _timeout()],
        "requestBody": {"required": True, "content": {_JSON: {"schema": body, "examples": examples}}},
        "responses": {
            "200": _response("The outputs", {"$ref": "#/components/schemas/InferResponse"}),
            **_failures("400", "InferError"),
        },
    }


def _schemas(model: str, inputs: Inputs) -> dict[str, Any]:
    number = {"type": ["number", "null"], "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}
    kinds = {feature.name: {"type": ["string", "null"]} if feature.categories else number for feature in inputs.features}
    said_of = {"float": number, "string": {"type": ["string", "null"]}, "timestamp": {"type": ["string", "null"], "format": "date-time"}}
    kinds |= {field.name: said_of[field.type] for field in inputs.request}
    given = _object(kinds, required=[feature.name for feature in inputs.features if feature.name not in inputs.optional])
    names = ("model", "release", "request_id", "unit")
    prediction = _object(
        {**dict.fromkeys(names, _TEXT), "score": {"type": "number"}, "decision": {"type": "boolean"}},
        required=[*names, "score", "decision"],
    )
    said = {"request_id": _ID, "unit": _ID, "inputs": given}
    if inputs.entities:
        said["entities"] = _object({key: {**_ID, "type": ["string", "null"]} for key in inputs.entities}, required=[])
    row = _object(said, required=["inputs"])
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/Row"}, "minItems": 1, "maxItems": MAX_ROWS}
    parts = ("field", "got", "expected", "mend")
    wrong = _object(dict.fromkeys(parts, _TEXT), required=parts)
    return {
        "Row": row,
        "Rows": _object({"request_id": _ID, "rows": rows}, required=["rows"]),
        "Prediction": prediction,
        "Predictions": _object({"predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}}, ["predictions"]),
        "Wrong": _object({"error": wrong}, ["error"]),
        **_infer_schemas(model),
    }


def _infer_schemas(model: str) -> dict[str, Any]:
    """Those of the Open Inference Protocol."""
    tensor = _object(
        {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": _PLACE, "minItems": 1, "maxItems": 2},
            "datatype": {"enum": [*NUMBERS, TEXT]},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        required=["name", "shape", "datatype"],
    )
    output = _object({"name": {"enum": [*OUTPUTS]}, "parameters": {"type": "object"}}, required=["name"])
    return {
        "InferRequest": _object(
            {
                "id": {"type": "string", "maxLength": MAX_ID_LENGTH},
                "model_name": {"const": model},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": tensor, "minItems": 1},
                "outputs": {"type": "array", "items": output},
            },
            required=["inputs"],
        ),
        "InferResponse": {
            "type": "object",
            "properties": {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": {"type": "array"}},
            "required": ["model_name", "model_version", "outputs"],
        },
        "InferError": _object({"error": {"type": "string"}}, ["error"]),
    }


def _object(properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string", "maxLength": MAX_ID_LENGTH}}


def _timeout() -> dict[str, Any]:
    milliseconds = {"type": "integer", "minimum": 1, "maximum": 600_000}
    return {"name": "x-request-timeout-ms", "in": "header", "required": False, "schema": milliseconds}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}


def _failures(status: str, schema: str) -> dict[str, Any]:
    wrong = _response("The request is wrong: where, what came and what was expected", {"$ref": f"#/components/schemas/{schema}"})
    late = {"description": "Not ready, or the answer would come too late: Retry-After says when to ask again", "content": {_JSON: {}}}
    return {status: wrong, "408": {"description": "The body did not arrive in time", "content": {_JSON: {}}}, "503": late}


def _read(summary: str, *statuses: int) -> dict[str, Any]:
    return {"summary": summary, "responses": {str(status): {"description": summary, "content": {_JSON: {}}} for status in statuses}}
