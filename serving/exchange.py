"""The two protocols of a release: how each reads a question and writes an answer or a refusal. The way between is one and the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from mlops_assets.core.errors import MlopsError
from mlops_assets.core.signature import Signature
from serving import oip, protocol
from serving.errors import BadRequest
from serving.inputs import Inputs
from serving.oip import InferRequest
from serving.protocol import Headers, PredictRequest
from serving.typed import TypedReader

RawHeaders = Mapping[bytes, bytes]
_Pairs = tuple[tuple[bytes, bytes], ...]
_JSON: _Pairs = ((b"content-type", b"application/json"),)


class Response(msgspec.Struct, frozen=True, gc=False):
    """What is sent back."""

    status: int
    body: bytes
    headers: _Pairs = _JSON


class PredictQuestion(msgspec.Struct, frozen=True, gc=False):
    """What is asked: the rows, and the same as the model takes them, float32 of shape (rows, features)."""

    asked: PredictRequest
    matrix: np.ndarray | None
    """None as long as an input is still to be looked up."""


class PredictExchange:
    """``POST /predict``."""

    def __init__(self, signature: Signature, release: str) -> None:
        inputs = Inputs.of(signature)
        self._model, self._release, self._reader, self._looks_up = signature.model, release, TypedReader(inputs), bool(inputs.entities)

    def read(self, body: bytes, headers: RawHeaders, told: Headers) -> PredictQuestion:
        asked = self._reader.read(body, told)
        is_complete = not self._looks_up or all(question.is_complete for question in asked.questions)
        return self.complete(asked) if is_complete else PredictQuestion(asked, None)

    def complete(self, asked: PredictRequest) -> PredictQuestion:
        """A question of which every input is known."""
        return PredictQuestion(asked, self._reader.matrix(asked))

    def answer(self, question: PredictQuestion, scores: np.ndarray, numbers: Sequence[float], decisions: Sequence[bool]) -> Response:
        return Response(200, protocol.answer(self._model, self._release, question.asked, numbers, decisions))

    @staticmethod
    def refuse(error: BadRequest) -> Response:
        return Response(422, error.body())

    @staticmethod
    def fail(status: int, what: str, why: MlopsError | str) -> Response:
        return Response(status, msgspec.json.encode({"error": {"what": what, "reason": str(why)}}))


class InferExchange:
    """``POST /v2/models/<model>/infer``."""

    def __init__(self, signature: Signature, release: str) -> None:
        self._model, self._release, self._inputs = signature.model, release, signature.inputs

    def read(self, body: bytes, headers: RawHeaders, told: Headers) -> InferRequest:
        if (coding := headers.get(b"content-encoding", b"identity")) != b"identity":
            raise BadRequest("content-encoding header", protocol.describe(coding.decode("latin-1")), "none", "send the body uncompressed")
        length = headers.get(oip.HEADER_LENGTH)
        return oip.read(body, None if length is None else length.decode("latin-1"), self._model, self._inputs, told)

    def answer(self, question: InferRequest, scores: np.ndarray, numbers: Sequence[float], decisions: Sequence[bool]) -> Response:
        written = oip.write(self._model, self._release, question, scores, decisions)
        if written.header_length is None:
            return Response(200, written.body)
        length = (oip.HEADER_LENGTH, b"%d" % written.header_length)
        return Response(200, written.body, ((b"content-type", b"application/octet-stream"), length))

    @staticmethod
    def refuse(error: BadRequest) -> Response:
        return Response(400, oip.error(error))

    @staticmethod
    def fail(status: int, what: str, why: MlopsError | str) -> Response:
        return Response(status, oip.error(f"{what}: {why}"))


EXCHANGES: Mapping[str, type[PredictExchange] | type[InferExchange]] = {"predict": PredictExchange, "infer": InferExchange}
"""By the names of the operations."""
