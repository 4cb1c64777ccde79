"""One Envoy's own interface: which routes it follows, which endpoints it holds healthy, what it has counted."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from mlops_assets.adapters.envoy_config import METADATA, SCRAPED
from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.core.errors import Unavailable
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS, GatewaySample, Traffic

_COUNTERS = {"upstream_rq_completed": "requests", "upstream_rq_5xx": "errors"}
_LATENCY = "upstream_rq_time"


@dataclass(frozen=True)
class Applied:
    """What a gateway follows for one model: the policy's generation and a digest of the routes."""

    generation: int
    digest: str


class EnvoyAdmin:
    """The admin interface of the gateway ``name`` at ``url`` (``http://host:port``).

    Every method raises :class:`Unavailable`, naming the gateway, when it does not answer within ``timeout`` seconds.
    """

    def __init__(self, name: str, url: str, timeout: float = 2.0) -> None:
        self.name = name
        self._netloc = urlsplit(url).netloc
        self._timeout = timeout

    def applied(self) -> Mapping[str, Applied]:
        """What the gateway follows, by model; models without a route are missing."""
        found = {}
        for config in self._get("/config_dump?resource=dynamic_route_configs").get("configs", []):
            for host in config.get("route_config", {}).get("virtual_hosts", []):
                for route in host.get("routes", []):
                    if marker := route.get("metadata", {}).get("filter_metadata", {}).get(METADATA):
                        found[marker["model"]] = Applied(int(marker["generation"]), marker["digest"])
        return found

    def healthy(self) -> Collection[tuple[str, str]]:
        """The cluster and ``host:port`` of every endpoint that passes its health check; by its address and by its DNS name."""
        statuses = self._get("/clusters?format=json").get("cluster_statuses", [])
        return {
            (cluster["name"], address)
            for cluster in statuses
            for host in cluster.get("host_statuses", [])
            # Envoy lists the ways in which a host is unwell and leaves out the others.
            if set(host["health_status"]) <= {"eds_health_status"}
            for address in _addresses(host)
        }

    def sample(self, model: str) -> GatewaySample:
        """What was counted of the model's releases.

        Seen in Envoy 1.40: mirrored requests count like others; a dead upstream's 503 and an upstream's silence (504) count as
        answered and as errors, but have no latency. Latencies are whole milliseconds, at most a second behind the counters.
        None is above the last bound, because the route's own timeout ends the request there.
        """
        prefix = f"cluster.{model}."
        names = "|".join([*_COUNTERS, _LATENCY])
        pattern = rf"^cluster\.{model}\.[^.]+\.({names})$"
        stats = self._get(f"/stats?format=json&histogram_buckets=disjoint&filter={quote(pattern, safe='')}")["stats"]
        traffic: dict[str, dict[str, Any]] = {}
        for entry in stats:
            for histogram in entry.get("histograms", []):
                release = histogram["name"].removeprefix(prefix).removesuffix(f".{_LATENCY}")
                traffic.setdefault(release, {})["latency"] = _latency(histogram)
            if "name" in entry:
                release, _, counter = entry["name"].removeprefix(prefix).rpartition(".")
                traffic.setdefault(release, {})[_COUNTERS[counter]] = entry["value"]
        return GatewaySample(self.name, self._epoch(), {release: Traffic(**counts) for release, counts in traffic.items()})

    def metrics(self) -> bytes:
        """What Envoy has counted of all releases, as Prometheus wants it."""
        return self._answered(f"/stats/prometheus?filter={quote(SCRAPED, safe='')}")

    def _epoch(self) -> str:
        # The uptime is rounded and so jitters; the moment at which the bootstrap was read is fixed for the life of the process.
        for config in self._get("/config_dump?mask=last_updated").get("configs", []):
            if config["@type"].endswith(".BootstrapConfigDump"):
                return str(config["last_updated"])
        raise Unavailable(f"gateway {self.name} at {self._netloc} does not say when it started: is this Envoy's admin address?")

    def _get(self, path: str) -> Any:
        return json.loads(self._answered(path))

    def _answered(self, path: str) -> bytes:
        try:
            answer = ask(self._netloc, "GET", path, self._timeout)
        except NoAnswer as error:
            message = f"gateway {self.name} at {self._netloc} does not answer ({error}): start it with 'mlops up' and run this again"
            raise Unavailable(message) from error
        if answer.status != 200:
            got = f"{answer.status} {answer.beginning(200)!r}"
            raise Unavailable(f"gateway {self.name}: GET {path} got {got}, expected 200: is this Envoy's admin address?")
        return answer.body


def _addresses(host: Mapping[str, Any]) -> Collection[str]:
    socket = host["address"]["socket_address"]
    return {f"{name}:{socket['port_value']}" for name in (socket["address"], host.get("hostname")) if name}


def _latency(histogram: Mapping[str, Any]) -> tuple[int, ...]:
    counts = {float(bucket["upper_bound"]): int(bucket["cumulative"]) for bucket in histogram["buckets"]}
    if not counts:
        return Traffic().latency
    return (*(counts[float(bound)] for bound in LATENCY_BOUNDS_MS), 0)
