"""Tensors of the Open Inference Protocol, as JSON or as raw little-endian bytes, and the two ways to say a model's inputs with them:
one tensor ``features`` of shape (rows, features), or one by the name of each input."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlops_assets.core.feature_spec import Feature
from mlops_assets.core.signature import INPUT_NAME
from serving.errors import BadRequest
from serving.protocol import FLOAT32_MAX, MAX_ROWS, Value, describe

NUMBERS: Mapping[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""The protocol's datatypes that are numbers, as numpy calls them."""

TEXT = "BYTES"
_LENGTH = struct.Struct("<I")


def shape_of(tensor: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """The tensor's shape, of at most ``MAX_ROWS`` rows."""
    shape = tensor.get("shape")
    is_shape = isinstance(shape, list) and 1 <= len(shape) <= 2 and all(type(size) is int and size >= 0 for size in shape)
    if not is_shape or not 1 <= shape[0] <= MAX_ROWS:
        raise BadRequest(f"{field}.shape", describe(shape), f"[rows] or [rows, columns] with 1 to {MAX_ROWS} rows", "split larger requests")
    return tuple(shape)


def numbers(tensor: Mapping[str, Any], shape: tuple[int, ...], raw: memoryview | None, field: str) -> np.ndarray:
    """The numbers of a tensor, float64 of its shape; NaN is a missing one, in JSON null.

    Raises:
        BadRequest: if they are of another type or number, or float32 cannot hold them.
    """
    kind = NUMBERS.get(str(tensor.get("datatype")))
    if kind is None:
        raise BadRequest(f"{field}.datatype", describe(tensor.get("datatype")), f"one of {', '.join(NUMBERS)}", "send numbers")
    count = math.prod(shape)
    if raw is not None:
        _require_count(len(raw), count * np.dtype(kind).itemsize, field, "bytes")
        found = np.frombuffer(raw, dtype=kind).astype(np.float64)
    else:
        found = _listed_numbers(tensor, count, field)
    if np.isinf(found).any() or (np.abs(found) > FLOAT32_MAX).any():
        wrong = found[np.isinf(found) | (np.abs(found) > FLOAT32_MAX)][0]
        raise BadRequest(field, describe(float(wrong)), "numbers that float32 can hold", "send a smaller number, or NaN if it is not known")
    return found.reshape(shape)


def texts(tensor: Mapping[str, Any], shape: tuple[int, ...], raw: memoryview | None, field: str) -> list[str | None]:
    """The strings of a tensor of BYTES in one list; null, which JSON alone can say, is a missing one."""
    count = math.prod(shape)
    if raw is not None:
        found: list[Any] = [*_split(raw, count, field)]
    else:
        found = _listed(tensor, count, field)
        wrong = next((value for value in found if value is not None and not isinstance(value, str)), None)
        if wrong is not None:
            raise BadRequest(f"{field}.data", describe(wrong), "strings or null", "send categories as strings")
    _require_count(len(found), count, field, "elements")
    return found


def place_of(inputs: Sequence[Feature]) -> dict[str, int]:
    """Where a tensor's name puts it."""
    return {feature.name: place for place, feature in enumerate(inputs)}


def decoded(inputs: Sequence[Feature], matrix: np.ndarray) -> list[tuple[Value, ...]]:
    """The rows of a matrix as they are logged: its categories' codes as the categories, what is missing as None.

    >>> decoded([Feature("hour"), Feature("carrier", ("AA", "UA"))], np.array([[7, 1], [np.nan, -1]]))
    [(7.0, 'UA'), (None, None)]
    """
    columns: list[list[Value]] = []
    for feature, column in zip(inputs, matrix.T.tolist(), strict=True):
        if feature.categories:
            columns.append([feature.categories[int(code)] if code >= 0 else None for code in column])
        else:
            columns.append([None if math.isnan(number) else number for number in column])
    return list(zip(*columns, strict=True))


def require_codes(inputs: Sequence[Feature], matrix: np.ndarray) -> None:
    """:class:`BadRequest` if a column of the tensor ``features`` that stands for a category holds no place in its list, nor -1."""
    for place, feature in enumerate(inputs):
        if not feature.categories:
            continue
        codes = matrix[:, place]
        wrong = codes[~np.isin(codes, np.arange(-1, len(feature.categories)))]
        if len(wrong):
            raise BadRequest(
                f"inputs.{INPUT_NAME}[{place}] ({feature.name})",
                describe(float(wrong[0])),
                f"a place of 0 to {len(feature.categories) - 1} in its list of categories, or -1",
                f"send {feature.name!r} as a tensor of BYTES by its name if the category is what is known",
            )


def _listed_numbers(tensor: Mapping[str, Any], count: int, field: str) -> np.ndarray:
    found = _listed(tensor, count, field)
    # by their type itself: to Python a bool is an int
    wrong = next((value for value in found if value is not None and type(value) not in (int, float)), None)
    if wrong is not None:
        raise BadRequest(f"{field}.data", describe(wrong), "numbers or null", "send its values as this type")
    try:
        return np.array(found, dtype=np.float64)
    except OverflowError as error:
        raise BadRequest(f"{field}.data", "an integer of too many digits", "numbers that float32 can hold", "send a smaller one") from error


def _listed(tensor: Mapping[str, Any], count: int, field: str) -> list[Any]:
    data = tensor.get("data")
    if not isinstance(data, list):
        raise BadRequest(f"{field}.data", describe(data), "a list", "send data, or parameters.binary_data_size and the bytes")
    found = [value for row in data for value in row] if data and all(isinstance(row, list) for row in data) else data
    _require_count(len(found), count, field, "elements")
    return found


def _split(raw: memoryview, count: int, field: str) -> Iterator[str]:
    start = 0
    for _ in range(count):
        if len(raw) - start < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        if length > len(raw) - start:
            got = f"an element of {length} bytes where {len(raw) - start} are left"
            raise BadRequest(field, got, "each with its length before it", "send them whole")
        try:
            yield bytes(raw[start : start + length]).decode()
        except UnicodeDecodeError as error:
            raise BadRequest(field, f"bytes that are no UTF-8 ({error})", "categories as UTF-8", "encode them so") from error
        start += length
    if start != len(raw):
        raise BadRequest(field, f"{len(raw) - start} bytes more than its shape says", "as many elements as its shape says", "correct one")


def _require_count(got: int, expected: int, field: str, what: str) -> None:
    if got != expected:
        raise BadRequest(field, f"{got} {what}", f"{expected} {what}, as its shape and datatype say", "correct one of them")
