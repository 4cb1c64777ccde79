"""The gateways of a cluster, each with a process of ours beside it (:mod:`mlops_assets.gateway_sidecar`) that follows the policies itself.

Nothing is sent to them but the word to look now: who changes the policy has changed the traffic, whether this process lives on or not.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.core.errors import NotReady, Unavailable
from mlops_assets.core.evidence import GatewaySample, Traffic
from mlops_assets.core.routing import Route, drilled_by

_POLL_SECONDS = 0.02
_ASK_SECONDS = 3.0
_NOT_READY = json.dumps({"kind": NotReady.__name__}).encode().rstrip(b"}")
_WITHIN_SECONDS = 16.0
"""A gateway waits ten seconds for a release to be healthy, and five for Envoy to follow."""


class SidecarGateway:
    """All gateways of a cluster as the :class:`~mlops_assets.ports.Gateway`.

    Args:
        addresses: ``host:port`` of the sidecars; a name stands for every address that it has, as that of a headless Service has one for
            each ready pod.
        token: what they want to see.
        within: seconds that all gateways have to follow a route.
    """

    follows_policies = True

    def __init__(self, addresses: Sequence[str], token: str = "", within: float = _WITHIN_SECONDS) -> None:
        self._names, self._within = tuple(addresses), within
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    def apply(self, route: Route) -> None:
        """Have every gateway look at the policies, and return when each follows this route's generation, or a newer one.

        Raises:
            NotReady: if a release that is to get traffic is not healthy; the old route stays in force until it is.
            Unavailable: if a gateway does not answer, or does not follow.
        """
        drilled = drilled_by(route.model)
        body = json.dumps({"release": route.shares[0].release if route.shares else None, "generation": route.generation})
        path = f"/drill/{quote(drilled)}" if drilled else "/look"
        told: dict[str, str] = {}
        deadline = time.monotonic() + self._within
        while True:
            late = {}
            for address in self._addresses():
                if trouble := self._lag(address, path, body, route, told):
                    late[address] = trouble
            if not late:
                return
            if time.monotonic() >= deadline:
                raise Unavailable(f"generation {route.generation} of {route.model} is not everywhere: {'; '.join(late.values())}")
            time.sleep(_POLL_SECONDS)

    def applied(self, model: str) -> Mapping[str, int]:
        """The generation that each ready gateway follows for ``model``; -1 for one that knows no route to it.

        Raises:
            Unavailable: if one does not answer, or there is none.
        """
        found = [self._asked(address, "GET", f"/models/{quote(model)}") for address in self._addresses()]
        return {str(one["gateway"]): int(one["generation"]) for one in found}

    def sample(self, model: str) -> Sequence[GatewaySample]:
        """What each ready gateway has counted of the model's releases since its own start.

        Raises:
            Unavailable: if one does not answer, or there is none.
        """
        return [_sample(self._asked(address, "GET", f"/models/{quote(model)}/sample")) for address in self._addresses()]

    def _lag(self, address: str, path: str, body: str, route: Route, told: dict[str, str]) -> str:
        """Why a gateway is not where it should be; empty if it is. It is told to look once."""
        try:
            if address not in told:
                self._asked(address, "POST", path, body)
                told[address] = path
            found = self._asked(address, "GET", f"/models/{quote(route.model)}")
        except Unavailable as error:
            return str(error)  # it may be on its way out: then its address is gone at the next look
        if found["generation"] >= route.generation:
            return ""
        trouble = found["trouble"] or {}
        if trouble.get("kind") == NotReady.__name__ and trouble["generation"] == route.generation:
            raise NotReady(f"gateway {found['gateway']}: {trouble['message']}")
        return f"gateway {found['gateway']} follows {found['generation']}{': ' + trouble['message'] if trouble else ''}"

    def _addresses(self) -> Sequence[str]:
        found = [address for name in self._names for address in _resolved(name)]
        if not found:
            raise Unavailable(f"no gateway is ready at {', '.join(self._names)}: 'kubectl get pods' says why, MLOPS_GATEWAYS names them")
        return found

    def _asked(self, address: str, method: str, path: str, body: str | None = None) -> Any:
        try:
            answer = ask(address, method, path, _ASK_SECONDS, body, self._headers)
        except NoAnswer as error:
            raise Unavailable(f"the gateway at {address} does not answer ({error}): 'kubectl describe' its pod") from error
        if answer.status != 200:
            failed = NotReady if answer.body.startswith(_NOT_READY) else Unavailable
            raise failed(f"the gateway at {address}: {method} {path} got {answer.status}, expected 200: {answer.beginning(500)}")
        return json.loads(answer.body)


def _resolved(address: str) -> Sequence[str]:
    host, _, port = address.rpartition(":")
    try:
        entries = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return ()
    return sorted({f"{entry[4][0]}:{port}" for entry in entries})


def _sample(document: Mapping[str, Any]) -> GatewaySample:
    traffic = {
        release: Traffic(counts["requests"], counts["errors"], tuple(counts["latency"])) for release, counts in document["traffic"].items()
    }
    return GatewaySample(document["gateway"], document["epoch"], traffic)
