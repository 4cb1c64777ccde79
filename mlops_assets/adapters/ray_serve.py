"""Releases on a Ray cluster: each an application of Ray Serve, with the same server inside as everywhere else.

All applications of a cluster share the address of Serve's proxy, so an endpoint has a path: ``127.0.0.1:8000/flight-delay.v12``. Ray keeps
the list of applications and starts their replicas again; nothing is remembered here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

# Ray reports usage to its makers unless it is told not to before it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _set_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.adapters.release_client import AskedAtItsEndpoint, answers_ready, place
from mlops_assets.adapters.release_environment import release_environment
from mlops_assets.core.errors import NotFound, NotReady, Unavailable
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT, Pods, Serving
from mlops_assets.ports import Deployment

_POLL_SECONDS = 0.1
_STOP_SECONDS = GATEWAY_TIMEOUT.total_seconds() + 7
"""What is under way may be answered, and the prediction log is shipped for five seconds at most."""

_LOAD_SECONDS = 20.0
"""Ray sends requests to a replica once it has started: when its model is loaded, or after this long, and then ``/ready`` says why not."""

_AT_ONCE = 1_000
"""Requests that a replica may have at once. It queues, batches and refuses by itself; Ray's own five would keep it from batching."""

_ray_lock = threading.Lock()
"""A process has one connection to Ray, whoever in it asks."""


class RayServeDeployments(AskedAtItsEndpoint):
    """Applications of Ray Serve as the :class:`~mlops_assets.ports.Deployments`.

    ``serving.pods`` says how many replicas a release has, up to how many while they have more than ``in_flight`` requests each, and what
    CPU and memory of Ray's each reserves. Secrets are in the environment that the nodes of Ray were started with, and in no application.

    Args:
        address: ``host:port`` of the cluster's head.
        proxy: ``host:port`` at which Serve's proxy listens, or begins to with the first release.
        environment: what each replica is told beside what it is; no secrets.
    """

    def __init__(self, address: str, proxy: str, environment: Mapping[str, str]) -> None:
        self._address, self._proxy, self._environment = address, proxy, environment

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        """Run this release; harmless if it runs. Other ``serving`` takes effect when a release is started after a stop.

        Raises:
            Unavailable: if Ray does not answer.
        """
        name = _name(model, release)
        status = self._wait_deleted(name)
        if status is not None and status.status is not ApplicationStatus.DEPLOY_FAILED:
            return
        told = {**self._environment, **release_environment(model, release, digest, serving or Serving()), "MLOPS_WORKERS": "1"}
        deployment = _deployment(name, (serving or Serving()).pods, told)
        host, _, port = self._proxy.rpartition(":")
        with self._connected():
            serve.start(http_options={"host": host, "port": int(port)})
            serve.run_many([serve.RunTarget(deployment.bind(), name, f"/{name}")], wait_for_applications_running=False)

    def stop(self, model: str, release: str) -> None:
        """Drain and end this release; harmless if it does not run.

        Raises:
            Unavailable: if Ray does not answer.
        """
        if _name(model, release) in self._statuses():
            with self._connected():
                serve.delete(_name(model, release))

    def running(self, model: str) -> Sequence[Deployment]:
        """What Ray runs of this model, or is meant to, ready or not.

        Raises:
            Unavailable: if Ray does not answer.
        """
        found = []
        for name, status in sorted(self._statuses().items()):
            known, _, release = name.rpartition(".")
            if known == model and status.status is not ApplicationStatus.DELETING:
                endpoint = self._endpoint(name)
                found.append(Deployment(model, release, endpoint, answers_ready(endpoint)))
        return found

    def wait_ready(self, model: str, release: str, within: float) -> Deployment:
        """Wait until the release answers 200 to ``GET /ready``.

        Raises:
            NotReady: after ``within`` seconds, or earlier if Ray gave it up; with what Ray and the release say.
            NotFound: if the release was not started.
            Unavailable: if Ray does not answer.
        """
        name, deadline = _name(model, release), time.monotonic() + within
        endpoint = self._endpoint(name)
        while True:
            status = self._statuses().get(name)
            if status is None:
                raise NotFound(f"{release} of {model} was not started, expected an application {name} of Ray Serve: start it first")
            if answers_ready(endpoint):
                return Deployment(model, release, endpoint, True)
            if status.status is ApplicationStatus.DEPLOY_FAILED:
                raise NotReady(f"Ray Serve gave {release} of {model} up: {_reasons(status)}")
            if time.monotonic() >= deadline:
                raise NotReady(
                    f"{release} of {model} ({status.status.value.lower()}) did not answer 200 to GET /ready within {within:g} s; "
                    f"it says {_said(endpoint)!r}; Ray Serve says {_reasons(status)!r}"
                )
            time.sleep(_POLL_SECONDS)

    def _endpoint(self, name: str) -> str:
        return f"{self._proxy}/{name}"

    def _wait_deleted(self, name: str) -> Any:
        """What Ray knows of an application, once nobody is stopping it any more; None if there is none."""
        deadline = time.monotonic() + 2 * _STOP_SECONDS
        while (status := self._statuses().get(name)) is not None and status.status is ApplicationStatus.DELETING:
            if time.monotonic() >= deadline:
                raise Unavailable(f"Ray Serve has been deleting {name} for {2 * _STOP_SECONDS:g} s: see 'serve status', then try again")
            time.sleep(_POLL_SECONDS)
        return status

    def _statuses(self) -> Mapping[str, Any]:
        """What Ray knows of each application, by its name."""
        with self._connected():
            found: Mapping[str, Any] = serve.status().applications
            return found

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """A connection to Ray. One that has failed is given up, so that the next call makes another."""
        try:
            with _ray_lock:
                _require_listens(self._address)
                if not ray.is_initialized():
                    ray.init(self._address, log_to_driver=False, configure_logging=False)
            yield
        except (OSError, TimeoutError, RuntimeError, RayError, RayServeException) as error:
            with _ray_lock:
                # of a Serve that is gone, which would be asked for good
                _set_global_client(None)  # type: ignore[no-untyped-call]
                ray.shutdown()
            raise Unavailable(
                f"Ray at {self._address} does not answer ({error}): see that it runs ('ray status'), and what MLOPS_RAY_ADDRESS says"
            ) from error


def _require_listens(address: str) -> None:
    """Ray's own client waits for minutes for a head that is gone, and may then end the process."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=1.0).close()


def _name(model: str, release: str) -> str:
    return f"{model}.{release}"


def _deployment(name: str, pods: Pods, told: Mapping[str, str]) -> Any:
    """The deployment of one release, which is not yet part of an application."""
    from kubernetes.utils.quantity import parse_quantity  # not in a replica, which imports this module too

    reserved = {"num_cpus": float(parse_quantity(pods.cpu)), "memory": int(parse_quantity(pods.memory))}
    return serve.deployment(
        serve.ingress(_application)(),
        name=name,
        ray_actor_options={**reserved, "runtime_env": {"env_vars": dict(told)}},
        max_ongoing_requests=_AT_ONCE,
        autoscaling_config={"min_replicas": pods.replicas, "max_replicas": pods.max_replicas, "target_ongoing_requests": pods.in_flight},
        graceful_shutdown_timeout_s=_STOP_SECONDS,
    )


def _application() -> Any:
    """The release that the environment of a replica names, as an ASGI application; its paths begin where the application's end."""
    from serving.release import REPLICA, application

    async def below(scope: Any, receive: Any, send: Any) -> None:
        async def send_when_loaded(message: Any) -> None:
            if message["type"] == "lifespan.startup.complete":
                await asyncio.to_thread(REPLICA.wait_loaded, _LOAD_SECONDS)
            await send(message)

        if scope["type"] == "lifespan":
            await application(scope, receive, send_when_loaded)
        else:
            await application({**scope, "path": scope["path"].removeprefix(scope.get("root_path", ""))}, receive, send)

    return below


def _reasons(status: Any) -> str:
    """What Ray says of an application, and of what it consists of."""
    return " ".join(part for part in (status.message, *(one.message for one in status.deployments.values())) if part)


def _said(endpoint: str) -> str:
    """What a release that is not ready answers."""
    netloc, path = place(endpoint, "/ready")
    try:
        return ask(netloc, "GET", path, 1.0).beginning(500)
    except NoAnswer as error:
        return str(error)
