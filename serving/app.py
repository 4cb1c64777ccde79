"""The HTTP face of a :class:`Replica`: ``/predict``, ``/health`` and ``/ready``."""

from __future__ import annotations

import logging
from time import perf_counter

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mlops_assets.core.errors import NotReady
from serving import protocol
from serving.metrics import Role
from serving.protocol import BadRequest
from serving.replica import Replica

MAX_BODY_BYTES = 16 * 2**20
INLINE_ROWS = 64
"""Up to this many rows are scored at once; more would keep the other requests waiting, and go to a thread."""

_SHADOW_SUFFIX = "-shadow"
_log = logging.getLogger(__name__)


def create_app(replica: Replica) -> Starlette:
    """The application that answers for this replica."""
    release = {"x-mlops-release": replica.configuration.release}

    async def health(_: Request) -> Response:
        return _json(b'{"status":"alive"}', 200, release)

    async def ready(_: Request) -> Response:
        try:
            replica.require_ready()
        except NotReady as error:
            return _json(msgspec.json.encode({"status": "not ready", "reason": str(error)}), 503, release)
        return _json(b'{"status":"ready"}', 200, release)

    async def predict(request: Request) -> Response:
        began = perf_counter()
        role = role_of(request.headers.get("host", ""), replica.configuration.model)
        counts = replica.metrics[role]
        try:
            body = await _answer(replica, request, role, began)
        except BadRequest as error:
            counts.outcomes["invalid"].inc()
            return _json(error.body(), 422, release)
        except NotReady as error:
            counts.outcomes["unready"].inc()
            return _failure("not ready", str(error), 503, release)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            counts.outcomes["failed"].inc()
            _log.exception("a request failed")
            return _failure("internal failure", "see the release's log", 500, release)
        return _json(body, 200, release)

    return Starlette(
        routes=[
            Route("/predict", predict, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
            Route("/ready", ready, methods=["GET"]),
        ]
    )


def role_of(host: str, model: str) -> Role:
    """Whether a request is live, or the copy of one: a gateway appends ``-shadow`` to the host of those.

    >>> role_of("flight-delay", "flight-delay"), role_of("flight-delay-shadow:4003", "flight-delay")
    ('live', 'shadow')
    """
    name = host.rpartition(":")[0] or host
    return "shadow" if name.endswith(_SHADOW_SUFFIX) and name != model else "live"


async def _answer(replica: Replica, request: Request, role: Role, began: float) -> bytes:
    signature = replica.require_ready().signature
    headers = request.headers
    asked = protocol.parse(
        await _body(request),
        signature.inputs,
        unit=headers.get("x-unit"),
        request_id=headers.get("x-request-id"),
        replay=replica.configuration.replay,
    )
    large = len(asked.questions) > INLINE_ROWS
    scores = await run_in_threadpool(replica.score, asked) if large else replica.score(asked)
    decisions = replica.decide(scores)
    seconds = perf_counter() - began
    replica.log(asked, role, scores, decisions, seconds)
    replica.metrics[role].answered(scores, seconds)
    return protocol.answer(signature.model, replica.configuration.release, asked, scores, decisions)


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise BadRequest(
                "body", f"more than {MAX_BODY_BYTES} bytes", f"at most {MAX_BODY_BYTES}", "split the rows over several requests"
            )
        chunks.append(chunk)
    return b"".join(chunks)


def _json(body: bytes, status: int, headers: dict[str, str]) -> Response:
    return Response(body, status, headers, media_type="application/json")


def _failure(what: str, why: str, status: int, headers: dict[str, str]) -> Response:
    return _json(msgspec.json.encode({"error": {"what": what, "reason": why}}), status, headers)
