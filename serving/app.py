"""The HTTP face of a :class:`Replica`, as a plain ASGI application: nothing stands between the server and it on the way of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import Any

import msgspec

from mlops_assets.core.errors import NotReady
from serving import oip, protocol
from serving.body import BodyReader, Disconnected, Receive, TooLarge
from serving.connection import ARRIVED
from serving.errors import BadRequest
from serving.exchange import EXCHANGES, RawHeaders, Response
from serving.limits import BODY_SECONDS, NoRoom, Overloaded, TooSlow
from serving.metrics import Role
from serving.online_features import FeaturesDown, OnlineFeatures
from serving.prediction_log import Unlogged
from serving.replica import Replica

Scope = MutableMapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Read = Callable[[], Response]

LARGE_BODY_BYTES = 64 * 2**10
"""From here on a body is read and answered in a thread, so that the small ones need not wait for it."""

DEADLINE_HEADER, GATEWAY_DEADLINE_HEADER = b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"
"""How long the caller waits, and how long the gateway does, in milliseconds."""

_NO_STATE: Mapping[str, float] = {}
_SHADOW_SUFFIX = "-shadow"


class App:
    """The application that answers for a replica.

    Args:
        replica: who scores and logs.
        body_seconds: how long a body may take to arrive.
    """

    def __init__(self, replica: Replica, body_seconds: float = BODY_SECONDS) -> None:
        told = replica.configuration
        self._replica, self._model, self._replay, self._timeout = replica, told.model, told.replay, told.timeout
        self._roles, self._load = replica.metrics.roles, replica.metrics.load
        self._bodies = BodyReader(body_seconds)
        self._release = (b"x-mlops-release", told.release.encode())
        places = (f"/v2/models/{told.model}", f"/v2/models/{told.model}/versions/{told.release}")
        self._asked: Mapping[str, str] = {"/predict": "predict", **{f"{place}/infer": "infer" for place in places}}
        self._read: Mapping[str, Read] = {
            "/health": lambda: Response(200, b'{"status":"alive"}'),
            "/ready": self._ready,
            "/v2": lambda: Response(200, oip.server_metadata(told.release)),
            "/v2/health/live": lambda: Response(200, b'{"live":true}'),
            "/v2/health/ready": self._ready,
            "/openapi.json": lambda: Response(200, self._replica.require_ready().openapi),
            "/docs": lambda: Response(200, self._replica.require_ready().page, ((b"content-type", b"text/html; charset=utf-8"),)),
            **{f"{place}/ready": self._ready for place in places},
            **dict.fromkeys(places, lambda: Response(200, self._replica.require_ready().metadata)),
        }

    def serves(self, path: str) -> bool:
        """Whether a path is this application's."""
        return path in self._asked or path in self._read or path.startswith("/v2/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        protocol_name = self._asked.get(path)
        if protocol_name is not None and method == "POST":
            response = await self._answer(protocol_name, dict(scope["headers"][::-1]), receive, scope.get("state", _NO_STATE).get(ARRIVED))
        else:
            response = self._tell(path, method, protocol_name is not None)
        if response is None:
            return
        length = (b"content-length", b"%d" % len(response.body))
        await send({"type": "http.response.start", "status": response.status, "headers": (*response.headers, length, self._release)})
        await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, name: str, headers: RawHeaders, receive: Receive, arrived: float | None) -> Response | None:
        """The answer to a request for scores; None if nobody waits for it any more."""
        began = perf_counter()
        exchange = EXCHANGES[name]
        counted = self._roles[role_of(headers.get(b"host", b"").decode("latin-1"), self._model)]
        self._load.in_flight += 1
        try:
            return await self._exchange(name, headers, receive, began, arrived or began)
        except Disconnected:
            return None
        except TooLarge as error:
            counted.refused("invalid")
            return _closing(exchange.refuse(error))
        except BadRequest as error:
            counted.refused("invalid")
            return exchange.refuse(self._replica.told(error))
        except TooSlow as error:
            counted.refused("invalid")
            return _closing(exchange.fail(408, "too slow", error))
        except Overloaded as error:
            counted.refused("overloaded")
            response = _later(exchange.fail(503, "overloaded", error), error.retry_after)
            return _closing(response) if isinstance(error, NoRoom) else response
        except FeaturesDown as error:
            counted.refused("unfeatured")
            return _later(exchange.fail(503, "features", error), 1)
        except Unlogged as error:
            counted.refused("unlogged")
            return _later(exchange.fail(503, "not logged", error), 1)
        except NotReady as error:
            counted.refused("unready")
            return _later(exchange.fail(503, "not ready", error), 1)
        except Exception as error:
            counted.refused("failed")
            self._replica.log_failure(error)
            return exchange.fail(500, "internal failure", "see the release's log")
        finally:
            self._load.in_flight -= 1

    async def _exchange(self, name: str, headers: RawHeaders, receive: Receive, began: float, arrived: float) -> Response:
        loaded = self._replica.require_ready()
        loaded.log.require_room()
        exchange = loaded.exchanges[name]
        deadline = arrived + seconds_allowed(headers, self._timeout)
        body = await self._bodies.read(receive)
        # Before the body is read: half of a load twice too high is refused, and must cost little. An answer takes as long on its way out as
        # the question on its way here, since those that were read with it take their turn first.
        loaded.queue.require_time(deadline - (perf_counter() - arrived))
        told = protocol.read_headers(_text(headers, b"x-unit"), _text(headers, b"x-request-id"), self._replay)
        is_large = len(body) > LARGE_BODY_BYTES
        question = await asyncio.to_thread(exchange.read, body, headers, told) if is_large else exchange.read(body, headers, told)
        if question.matrix is None:
            question = await self._looked_up(exchange, question, loaded.online, deadline)
        scores = await loaded.queue.score(question.matrix, deadline)
        numbers = scores.tolist()
        decisions = [number >= loaded.threshold for number in numbers]
        role = role_of(headers.get(b"host", b"").decode("latin-1"), self._model)
        told_as = question.asked, role, numbers, decisions, perf_counter() - began
        if is_large:
            response = await asyncio.to_thread(exchange.answer, question, scores, numbers, decisions)
            await asyncio.to_thread(lambda: loaded.log.write(loaded.answers(*told_as)))
        else:
            response = exchange.answer(question, scores, numbers, decisions)
            await loaded.commits.commit(loaded.answers(*told_as))
        self._roles[role].answered(numbers, perf_counter() - began)
        return response

    async def _looked_up(self, exchange: Any, question: Any, online: OnlineFeatures | None, deadline: float) -> Any:
        """A question with the inputs that it left out."""
        if online is None:
            raise FeaturesDown("this process has no online store: send every input, or set MLOPS_ONLINE_URL")
        return exchange.complete(await online.complete(question.asked, deadline))

    def _tell(self, path: str, method: str, is_asked: bool) -> Response:
        """Everything but scores."""
        read = self._read.get(path)
        if read is None and not is_asked:
            known = ", ".join((*self._asked, *self._read))
            return Response(404, oip.error(f"{path[:200]}: got a path that is not known, expected one of {known}"))
        if read is None or method not in ("GET", "HEAD"):
            allowed = "POST" if read is None else "GET"
            return Response(405, oip.error(f"{path}: got {method}, expected {allowed}"), (*_JSON, (b"allow", allowed.encode())))
        try:
            return read()
        except NotReady as error:
            return _json(503, {"status": "not ready", "reason": str(error), "error": str(error)})

    def _ready(self) -> Response:
        log = self._replica.require_ready().log
        if loading := self._replica.metrics.workers.loading:
            raise NotReady(f"the model is being loaded by {loading} more workers")
        if self._replica.is_leaving:
            raise NotReady("it is about to end")
        trouble = log.trouble
        if trouble is None:
            return Response(200, b'{"status":"ready","ready":true}')
        if log.refuses:
            return _json(503, {"status": "not ready", "reason": trouble.why, "error": trouble.why})
        return _json(200, {"status": "ready", "ready": True, "log": f"answers are not logged: {trouble.why}"})


def role_of(host: str, model: str) -> Role:
    """Whether a request is live, or the copy of one: a gateway appends ``-shadow`` to the host of those.

    >>> role_of("flight-delay", "flight-delay"), role_of("flight-delay-shadow:4003", "flight-delay")
    ('live', 'shadow')
    """
    name = host.rpartition(":")[0] or host
    return "shadow" if name.endswith(_SHADOW_SUFFIX) and name != model else "live"


def seconds_allowed(headers: RawHeaders, timeout: float) -> float:
    """How long an answer may take: what the request says, else the model's ``timeout``, and no longer than the gateway waits.

    >>> said, gateway = {b"x-request-timeout-ms": b"250"}, {b"x-envoy-expected-rq-timeout-ms": b"10000"}
    >>> seconds_allowed(said | gateway, 5.0), seconds_allowed(gateway, 5.0), seconds_allowed(gateway, 60.0)
    (0.25, 5.0, 10.0)

    Raises:
        BadRequest: if what the request says is no number of milliseconds.
    """
    if (said := headers.get(DEADLINE_HEADER)) is not None:
        if not _is_milliseconds(said):
            got = protocol.describe(said.decode("latin-1"))
            raise BadRequest(f"{DEADLINE_HEADER.decode()} header", got, "milliseconds, 1 or more", "correct it or leave it out")
        timeout = int(said) / 1000
    gateway = headers.get(GATEWAY_DEADLINE_HEADER)
    return min(timeout, int(gateway) / 1000) if gateway is not None and _is_milliseconds(gateway) else timeout


def _is_milliseconds(value: bytes) -> bool:
    return value.isdigit() and len(value) <= 9 and int(value) > 0


def _text(headers: RawHeaders, name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


_JSON = ((b"content-type", b"application/json"),)


def _json(status: int, document: Mapping[str, object]) -> Response:
    return Response(status, msgspec.json.encode(document))


def _later(response: Response, seconds: int) -> Response:
    return Response(response.status, response.body, (*response.headers, (b"retry-after", b"%d" % seconds)))


def _closing(response: Response) -> Response:
    """What ends the connection: the rest of a body may still be coming, and nobody will read it."""
    return Response(response.status, response.body, (*response.headers, (b"connection", b"close")))
