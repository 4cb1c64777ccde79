"""A PagerDuty on loopback: takes events as ``/v2/enqueue`` does, and remembers them with their time."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import HOST


class PagerDuty:
    def __init__(self) -> None:
        self.events: list[tuple[float, dict[str, Any]]] = []
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self.events))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/v2/enqueue"

    def of(self, cause: str, severity: str = "critical") -> list[tuple[float, dict[str, Any]]]:
        """The events about a cause. A resolve has no payload: it is known by the key of its trigger."""
        keys = {e["dedup_key"] for _, e in self.events if _about(e) == (cause, severity)}
        return [(at, event) for at, event in self.events if event["dedup_key"] in keys]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _about(event: dict[str, Any]) -> tuple[str, str]:
    payload = event.get("payload") or {}
    return payload.get("class", ""), payload.get("severity", "")


def _handler(events: list[tuple[float, dict[str, Any]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            events.append((time.monotonic(), event))
            body = json.dumps({"status": "success", "dedup_key": event.get("dedup_key")}).encode()
            self.send_response(202)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler
