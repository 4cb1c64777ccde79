"""A request by the standard library: what a rollback waits for imports no HTTP client."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass


class NoAnswer(Exception):
    """Nobody answered; what this means is the caller's to say."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def beginning(self, most: int) -> str:
        """So many bytes of the body as text, for an error."""
        return self.body[:most].decode(errors="replace")


def ask(netloc: str, method: str, path: str, timeout: float, body: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask once, on a connection of its own.

    Args:
        netloc: ``host:port``.
        timeout: in seconds, of each wait.

    Raises:
        NoAnswer: from the error of the network, or if what came is no HTTP.
    """
    connection = http.client.HTTPConnection(netloc, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(str(error)) from error
    finally:
        connection.close()
