"""What the platform asks of the process beside a gateway, over HTTP.

``GET /ready``, ``GET /models/<model>`` (which generation Envoy follows), ``GET /models/<model>/sample``, ``GET /metrics`` (Envoy's own),
``POST /look`` (read the policies now), ``POST /drill/<model>``. All but what probes and Prometheus ask, who bring none, take the token, if
there is one. Routes cannot be told here: they come from the policies alone.
"""

import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from mlops_assets.adapters.envoy import EnvoyGateway
from mlops_assets.core.errors import MlopsError, NotReady
from mlops_assets.gateway_sidecar.follower import Follower

_LARGEST_BODY = 4096
_OPEN_TO_ALL = ("/ready", "/metrics")


@dataclass(frozen=True)
class Face:
    """What is answered from.

    Args:
        name: of the gateway.
        follower: follows the policies.
        gateway: the gateway beside this process.
        metrics: Envoy's own metrics as Prometheus wants them.
        token: what callers have to bring; empty for nothing.
    """

    name: str
    follower: Follower
    gateway: EnvoyGateway
    metrics: Callable[[], bytes]
    token: str = ""

    def get(self, path: str) -> Any:
        """The answer to a GET; None if there is none.

        Raises:
            NotReady: if it asks whether this gateway is ready, and it is not.
            Unavailable: if Envoy does not answer.
        """
        match path.strip("/").split("/"):
            case ["ready"]:
                if waits_for := self.follower.waits_for:
                    raise NotReady(waits_for)
                return {"ready": True}
            case ["metrics"]:
                return self.metrics()
            case ["models", model]:
                trouble = self.follower.trouble(unquote(model))
                [(name, generation)] = self.gateway.applied(unquote(model)).items()
                return {"gateway": name, "generation": generation, "trouble": trouble and asdict(trouble)}
            case ["models", model, "sample"]:
                [sample] = self.gateway.sample(unquote(model))
                return asdict(sample)
        return None

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST; None if there is none. Raises what the object store or the gateway says."""
        match path.strip("/").split("/"):
            case ["look"]:
                self.follower.look()
                return {"gateway": self.name}
            case ["drill", model]:
                self.follower.drill(unquote(model), body.get("release"), int(body["generation"]))
                return {"gateway": self.name}
        return None


def server(face: Face, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers from ``face``, to be run by ``serve_forever``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet
        timeout = 30

        def do_GET(self) -> None:
            self._answer(lambda: face.get(self.path))

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > _LARGEST_BODY:
                self._send(413, {"error": f"got {length} bytes, expected at most {_LARGEST_BODY}"})
                return
            body = self.rfile.read(length)
            self._answer(lambda: face.post(self.path, json.loads(body or b"{}")))

        def _answer(self, ask: Callable[[], Any]) -> None:
            if self.path not in _OPEN_TO_ALL and not self._may():
                self._send(401, {"error": "expected the gateway's token as 'authorization: Bearer ...': see MLOPS_GATEWAY_TOKEN"})
                return
            try:
                found = ask()
            except MlopsError as error:
                self._send(503, {"kind": type(error).__name__, "error": str(error)})
            except (ValueError, KeyError, TypeError) as error:
                self._send(400, {"error": f"not understood: {type(error).__name__} {error}"})
            else:
                self._send(404 if found is None else 200, {"error": "not known here"} if found is None else found)

        def _may(self) -> bool:
            given = self.headers.get("authorization", "").removeprefix("Bearer ")
            return not face.token or hmac.compare_digest(given.encode(), face.token.encode())

        def _send(self, status: int, content: Any) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(content, bytes) else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes every second are no news."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    return Server((host, port), Handler)
