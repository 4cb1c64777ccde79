"""What Envoy is told, as pure functions: its bootstrap, the clusters (CDS) and the routes (RDS) of all models."""

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlops_assets.adapters.envoy_access import OPEN, Access
from mlops_assets.core.evidence import LATENCY_BOUNDS_MS
from mlops_assets.core.routing import Route, Share
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT

HOST = "127.0.0.1"
ROUTE_CONFIG = "models"
METADATA = "mlops"
"""The key of a route's metadata under which it carries its model, generation and digest."""

SCRAPED = r"^cluster\.[^.]+\.[^.]+\.(upstream_rq_completed|upstream_rq_[1-5]xx|upstream_rq_time|membership_healthy)$"
"""Of what Envoy counts of a release, some hundred series, those that rules and dashboards ask for."""

REQUEST_TIMEOUT = f"{GATEWAY_TIMEOUT.total_seconds():g}s"
"""The same for all models and above the deadline of each: a rollback knows no ``defs.yaml``, and its route must be the same route."""

_TYPE = "type.googleapis.com/envoy."
_ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"}}
_JSON = [{"header": {"key": "content-type", "value": "application/json"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]


def cluster_name(model: str, release: str) -> str:
    return f"{model}.{release}"


def bootstrap(directory: Path, port: int, admin_port: int, host: str = HOST, access: Access = OPEN, health_port: int | None = None) -> str:
    """Envoy's bootstrap as JSON: clusters and routes are in files in ``directory``. Its own interface is on loopback always.

    Args:
        directory: where ``cds.json`` and ``rds.json`` lie; both must exist when Envoy starts.
        port: of the gateway.
        admin_port: of Envoy's own interface.
        host: the address that the gateway listens on.
        access: what callers have to bring.
        health_port: where anybody may ask for the gateway's own health, without TLS; none by default.
    """
    health = [] if health_port is None else [_health_listener(host, health_port)]
    document = {
        "node": {"id": "mlops", "cluster": "mlops"},
        "admin": {"address": _address(HOST, admin_port)},
        "dynamic_resources": {"cds_config": _file(directory, "cds.json")},
        "static_resources": {"listeners": [_listener(directory, host, port, access), *health]},
        # Histograms are merged at each flush; the default of 5 s would let latency lag behind the counters.
        "stats_flush_interval": "1s",
        "stats_config": {
            # Of a cluster's name Envoy makes the label envoy_cluster_name up to the first dot, which is the model; this is the rest of it.
            "stats_tags": [{"tag_name": "release", "regex": r"^cluster\.[^.]+\.(([^.]+)\.)"}],
            "histogram_bucket_settings": [{"match": {"suffix": "upstream_rq_time"}, "buckets": list(LATENCY_BOUNDS_MS)}],
        },
    }
    return json.dumps(document, indent=1)


def clusters(endpoints: Iterable[tuple[str, str, str]]) -> str:
    """The CDS file.

    Args:
        endpoints: model, release and ``host:port`` of each; one release may come with one address only.
    """
    return _discovery([_cluster(cluster_name(model, release), address) for model, release, address in sorted(endpoints)])


def routes(models: Iterable[Route]) -> str:
    """The RDS file: the routes of every model, and what answers those who ask for another."""
    ordered = sorted(models, key=lambda route: route.model)
    known = [route.model for route in ordered]
    every = [entry for route in ordered for entry in _model_routes(route)]
    host = {"name": ROUTE_CONFIG, "domains": ["*"], "routes": [*every, *_GATEWAY, _unknown(known)]}
    resource = {"@type": f"{_TYPE}config.route.v3.RouteConfiguration", "name": ROUTE_CONFIG, "virtual_hosts": [host]}
    return _discovery([resource])


def route_digest(route: Route) -> str:
    """A digest of all that the gateway does with requests for this model."""
    return _digest(_actions(route))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _discovery(resources: list[dict[str, Any]]) -> str:
    return json.dumps({"version_info": _digest(resources), "resources": resources})


def _file(directory: Path, name: str) -> dict[str, Any]:
    return {
        "path_config_source": {"path": str(directory / name), "watched_directory": {"path": str(directory)}},
        "resource_api_version": "V3",
    }


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(directory: Path, host: str, port: int, access: Access) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {"route_config_name": ROUTE_CONFIG, "config_source": _file(directory, "rds.json")},
        # The request id joins the answer, its log line and its label: the caller's own is kept to the letter.
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {"@type": f"{_TYPE}extensions.request_id.uuid.v3.UuidRequestIdConfig", "pack_trace_reason": False}
        },
        # A release never meets who does not finish to say what he wants.
        "request_headers_timeout": "10s",
        "http_filters": [*access.filters(), _ROUTER],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}], **access.transport(directory)}
    return {"name": "gateway", "address": _address(host, port), "filter_chains": [chain]}


def _health_listener(host: str, port: int) -> dict[str, Any]:
    """Whoever runs the gateway asks here: he has neither a token nor a certificate, and learns nothing of a model."""
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "health",
        "route_config": {"virtual_hosts": [{"name": "health", "domains": ["*"], "routes": list(_GATEWAY)}]},
        "http_filters": [_ROUTER],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"name": "health", "address": _address(host, port), "filter_chains": [chain]}


def _cluster(name: str, address: str) -> dict[str, Any]:
    netloc, _, path = address.partition("/")
    host, _, port = netloc.rpartition(":")
    endpoint = {"endpoint": {"address": _address(host, int(port))}}
    filters = {"http_filters": _below(path)} if path else {}
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": name,
        **({"type": "STATIC"} if _is_ip(host) else _BY_NAME),
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "health_checks": [{**_HEALTH_CHECK, "http_health_check": {"path": f"/{path}{_READY}" if path else _READY}}],
        "typed_extension_protocol_options": {
            f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions".removeprefix("type.googleapis.com/"): {**_HTTP_OPTIONS, **filters}
        },
    }


def _below(path: str) -> list[dict[str, Any]]:
    """Filters that put ``path`` before that of each request, once a release was chosen for it: several share an address then.

    A route's own rewriting is the same for all of its clusters, and the filter for headers leaves this one alone.
    """
    # All attempts of a request share its headers: one that is tried again has the path already.
    below = json.dumps(f"/{path}")
    script = f"""
function envoy_on_request(handle)
  local headers = handle:headers()
  local asked = headers:get(":path")
  if asked:sub(1, {len(path) + 2}) ~= {below} .. "/" then headers:replace(":path", {below} .. asked) end
end"""
    lua = {"@type": f"{_TYPE}extensions.filters.http.lua.v3.Lua", "default_source_code": {"inline_string": script}}
    codec = {"@type": f"{_TYPE}extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
    return [
        {"name": "envoy.filters.http.lua", "typed_config": lua},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
    ]


_BY_NAME: Mapping[str, Any] = {
    # A name stands for all pods of a release, each with its own address and health.
    "type": "STRICT_DNS",
    "dns_lookup_family": "V4_PREFERRED",
    "dns_refresh_rate": "1s",
    "common_lb_config": {
        # While the first of three pods is ready, two thirds are not: that is no reason to ask those as well. That all are, is one.
        "healthy_panic_threshold": {"value": 1}
    },
}

_READY = "/v2/health/ready"
"""Of the Open Inference Protocol, so that Triton and KServe are found ready like a release of ours."""

_HEALTH_CHECK: Mapping[str, Any] = {
    "timeout": "0.5s",
    "interval": "1s",
    # Without traffic Envoy would look once a minute only, and warm releases have none.
    "no_traffic_interval": "1s",
    "unhealthy_interval": "0.2s",
    "unhealthy_threshold": 3,
    "healthy_threshold": 1,
}

_HTTP_OPTIONS: Mapping[str, Any] = {
    "@type": f"{_TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
    # Shorter than the 5 s after which uvicorn closes an idle connection: else a request could meet a closing one.
    "common_http_protocol_options": {"idle_timeout": "4s"},
    "explicit_http_config": {"http_protocol_options": {}},
}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _model_routes(route: Route) -> list[dict[str, Any]]:
    marker = {"model": route.model, "generation": route.generation, "digest": route_digest(route)}
    return [{**action, "metadata": {"filter_metadata": {METADATA: marker}}} for action in _actions(route)]


def _actions(route: Route) -> list[dict[str, Any]]:
    predict = {"path": f"/models/{route.model}/predict"}
    protocol = {"path_separated_prefix": f"/v2/models/{route.model}"}
    if not route.shares:
        message = {"error": f"no release of {route.model} is in production", "expected": "a release that was promoted: see mlops status"}
        return [{"match": match, **_answer(503, message)} for match in (predict, protocol)]
    forward = _forward(route)
    told = [
        {"match": {"path": f"/models/{route.model}{path}"}, "route": {**forward, "prefix_rewrite": path}}
        for path in ("/openapi.json", "/docs")
    ]
    return [
        {"match": predict, "route": {**forward, "prefix_rewrite": "/predict"}},
        *[_named_release(route, release) for release in sorted({share.release for share in route.shares})],
        {"match": protocol, "route": forward},
        *told,
    ]


def _named_release(route: Route, release: str) -> dict[str, Any]:
    """Who names a release that takes part in production is answered by it, and not by the one that his unit falls to."""
    match = {"path_separated_prefix": f"/v2/models/{route.model}/versions/{release}"}
    action = {
        "cluster": cluster_name(route.model, release),
        "timeout": REQUEST_TIMEOUT,
        "host_rewrite_literal": route.model,
        "retry_policy": _RETRY,
    }
    return {"match": match, "route": action}


_RETRY: Mapping[str, Any] = {
    # Only what has not reached a release: a pod that is gone, or a connection that it was just closing. What a release got is not asked
    # of the next one: a request that ends a process would end them all.
    "retry_on": "connect-failure,reset-before-request",
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {"@type": f"{_TYPE}extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
        }
    ],
    "host_selection_retry_max_attempts": 3,
}


def _forward(route: Route) -> dict[str, Any]:
    action: dict[str, Any] = {
        "weighted_clusters": {"clusters": [_weighted(route.model, share) for share in route.shares], "use_hash_policy": True},
        "hash_policy": [
            {"header": {"header_name": "x-unit"}, "terminal": True},
            {"header": {"header_name": "x-request-id"}},
        ],
        "timeout": REQUEST_TIMEOUT,
        "retry_policy": _RETRY,
        # A copy is known by the suffix -shadow that Envoy appends to the host: callers must not be able to send it themselves.
        "host_rewrite_literal": route.model,
    }
    if route.mirror is not None:
        fraction = {"default_value": {"numerator": route.mirror.percent, "denominator": "HUNDRED"}}
        action["request_mirror_policies"] = [{"cluster": cluster_name(route.model, route.mirror.release), "runtime_fraction": fraction}]
    return action


def _weighted(model: str, share: Share) -> dict[str, Any]:
    return {"name": cluster_name(model, share.release), "weight": (share.end - share.start) * 100}


def _answer(status: int, message: Mapping[str, Any]) -> dict[str, Any]:
    body = {"inline_string": json.dumps(message)}
    return {"direct_response": {"status": status, "body": body}, "response_headers_to_add": _JSON}


_GATEWAY = (
    {"match": {"path": "/v2/health/live"}, **_answer(200, {"live": True})},
    {"match": {"path": "/v2/health/ready"}, **_answer(200, {"ready": True})},
    {"match": {"path": "/v2"}, **_answer(200, {"name": "mlops-assets", "version": "2", "extensions": ["binary_tensor_data"]})},
)
"""What clients of the Open Inference Protocol ask of the server before they ask a model: here that is the gateway itself."""


def _unknown(known: list[str]) -> dict[str, Any]:
    message = {"error": "no such model", "expected": "/models/<model>/predict or /v2/models/<model>/...", "models": known}
    return {"match": {"prefix": "/"}, **_answer(404, message)}
