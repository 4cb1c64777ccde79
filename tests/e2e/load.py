"""Clients of a gateway: steady requests on connections that are kept, and what became of each."""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Asked:
    """One request: when it was answered (or failed), by whom, and with what."""

    at: float
    status: int
    release: str | None
    why: str = ""

    @property
    def failed(self) -> bool:
        return self.status != 200


@dataclass
class Load:
    """``clients`` who ask a model, each on a connection of its own that is made anew when it is lost, without asking again.

    Args:
        address: of the gateway, ``host:port``.
        model: who is asked.
        inputs: what is asked.
        clients: how many at once.
        rate: requests a second of each.
    """

    address: str
    model: str
    inputs: dict[str, object]
    clients: int = 8
    rate: float = 12.0
    asked: list[Asked] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        ended = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(number, ended), daemon=True) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            ended.set()
            for thread in threads:
                thread.join(20)

    def since(self, moment: float) -> list[Asked]:
        """What was asked since then, oldest first."""
        return sorted((one for one in list(self.asked) if one.at >= moment), key=lambda one: one.at)

    def failed(self, moment: float) -> Counter[str]:
        """How many requests failed since then, by their cause."""
        return Counter(f"{one.status} {one.why}".strip() for one in self.since(moment) if one.failed)

    def answered(self, moment: float) -> Counter[str]:
        """How many requests each release answered since then."""
        return Counter(str(one.release) for one in self.since(moment) if not one.failed)

    def _ask(self, number: int, ended: threading.Event) -> None:
        connection, count = http.client.HTTPConnection(self.address, timeout=12), 0
        while not ended.wait(1 / self.rate):
            count += 1
            unit = f"unit-{number}-{count}"
            body = json.dumps({"unit": unit, "inputs": self.inputs})
            try:
                connection.request("POST", f"/models/{self.model}/predict", body, {"x-unit": unit})
                response = connection.getresponse()
                said = response.read()
                why = "" if response.status == 200 else said[:120].decode(errors="replace")
                self.asked.append(Asked(time.time(), response.status, response.getheader("x-mlops-release"), why))
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.asked.append(Asked(time.time(), 0, None, type(error).__name__))
        connection.close()
