"""The whole platform on one machine: started, looked at and ended by a person or a test."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mlops_assets import credentials, stack_monitoring
from mlops_assets.adapters.buckets import make_buckets
from mlops_assets.adapters.envoy_access import TOKENS_VARIABLE
from mlops_assets.adapters.supervisor import SOCKET, Supervisor, log_tail
from mlops_assets.core.errors import MlopsError, NotReady, Unavailable
from mlops_assets.settings import Settings
from mlops_assets.stack_processes import MARKER, end, left_behind, require_free
from mlops_assets.stack_services import ALL, GATEWAY_CONFIG, S3, Service, build, gateway_config, supervisord_conf, write_files

Progress = Callable[[str], None]
_POLL_SECONDS = 0.1
_SOCKET_PATH_LIMIT = 100
_TRIES = 3


@dataclass(frozen=True)
class ServiceStatus:
    """A service as it is now. ``state`` is supervisord's word in lower case, or ``down``."""

    name: str
    state: str
    well: bool
    pid: int | None
    url: str


class Stack:
    """The local stack in ``settings.home``.

    Args:
        settings: where it lives and listens.
        services: those to run; by default :data:`mlops_assets.stack_services.ALL`, and the monitoring if it is asked for.
        definitions: the module with the Dagster definitions.
        within: seconds that all of them together have to become well.
    """

    def __init__(
        self,
        settings: Settings,
        services: Sequence[str] | None = None,
        definitions: str = "mlops_assets.definitions",
        within: float = 180.0,
    ) -> None:
        self._settings, self._definitions = settings, definitions
        every = build(settings, definitions)
        services = (*ALL, *stack_monitoring.selected(settings)) if services is None else services
        self._services = {name: every[name] for name in services}
        self._supervisor = Supervisor(settings.home / SOCKET)
        self._within = within

    def up(self, progress: Progress = lambda _: None) -> None:
        """Start what does not run, wait until all is well, and make the buckets. Harmless if it runs.

        What an earlier stack in the same home has left behind after a kill -9 is ended first. Releases that ran when the stack
        went down start again.

        Raises:
            MlopsError: if a port is taken, or another stack runs in this home.
            NotReady: if a service does not become well; with the end of its log.
        """
        with self._locked():
            if self.runs():
                self._require_same()
                progress("supervisord runs already")
            else:
                self._start_supervisord(progress)
            self._start_services(progress)
            if S3 in self._services:
                create_buckets(self._settings)

    def down(self, progress: Progress = lambda _: None) -> None:
        """End everything, releases as well, and leave no process. Harmless if nothing runs."""
        with self._locked():
            if self.runs():
                progress("stopping")
                pid = int(self._supervisor.call("getPID"))
                self._supervisor.call("shutdown")
                _wait_gone(pid, within=60)
            end(left_behind(self._settings.home))

    def status(self) -> Sequence[ServiceStatus]:
        """Each service as it is now; needs nothing to run."""
        known = {info["name"]: info for info in self._supervisor.call("getAllProcessInfo")} if self.runs() else {}
        return [_status(service, known.get(name)) for name, service in self._services.items()]

    def runs(self) -> bool:
        """Whether its process manager does; one that shuts down no longer counts."""
        try:
            self._supervisor.call("getState")
        except Unavailable:
            return False
        return True

    def _require_same(self) -> None:
        home = self._settings.home
        written = {"supervisord.conf": supervisord_conf(self._settings, self._services), GATEWAY_CONFIG: gateway_config(self._settings)}
        if any((home / name).read_text() != text for name, text in written.items()):
            raise MlopsError(
                f"a stack with other ports, services or access to its gateway runs in {home}: 'mlops down' first, or set MLOPS_HOME"
            )

    def _start_supervisord(self, progress: Progress) -> None:
        home = self._settings.home
        if len(str(home / SOCKET)) > _SOCKET_PATH_LIMIT:
            raise MlopsError(
                f"{home / SOCKET} is too long for a unix socket (over {_SOCKET_PATH_LIMIT} characters): set MLOPS_HOME to a shorter path"
            )
        if orphans := left_behind(home):
            progress(f"ending {len(orphans)} processes that an earlier stack left behind")
            end(orphans)
        require_free(port for service in self._services.values() for port in service.ports)
        secret = credentials.ensure(home)
        write_files(self._settings, secret)
        if stack_monitoring.PROMETHEUS in self._services:
            stack_monitoring.write_files(self._settings, self._definitions)
        conf = home / "supervisord.conf"
        conf.write_text(supervisord_conf(self._settings, self._services))
        progress("starting supervisord")
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
        # A shell that starts us with '&' has SIGINT ignored, which children would inherit for good.
        done = subprocess.run(
            command,
            env=self._environment(secret),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_default_signals,
        )
        if done.returncode != 0:
            raise NotReady(f"supervisord did not start (exit {done.returncode}): {done.stderr.strip() or done.stdout.strip()}")
        deadline = time.monotonic() + 15
        while not self.runs():
            if time.monotonic() > deadline:
                raise NotReady(f"supervisord does not answer; its log ends:\n{log_tail(home / 'logs' / 'supervisord.log')}")
            time.sleep(0.02)

    def _environment(self, secret: credentials.Credentials) -> Mapping[str, str]:
        # The caller's own AWS identity must not reach the local S3, and callers' tokens are for the gateway alone, whose file has them.
        kept_back = ("AWS_PROFILE", "AWS_SESSION_TOKEN", TOKENS_VARIABLE)
        own = {name: value for name, value in os.environ.items() if name not in kept_back}
        return own | {
            **secret.environment(),
            MARKER: str(self._settings.home),
            "MLOPS_HOME": str(self._settings.home),
            "MLOPS_BASE_PORT": str(self._settings.base_port),
            "DAGSTER_HOME": str(self._settings.dagster_home),
            "MLFLOW_TRACKING_URI": self._settings.mlflow_url,
            "MLFLOW_BACKEND_STORE_URI": self._settings.mlflow_database,
            "DO_NOT_TRACK": "true",
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONUNBUFFERED": "1",
        }

    def _start_services(self, progress: Progress) -> None:
        began, pending = time.monotonic(), dict(self._services)
        tries: dict[str, set[int]] = {}
        while pending:
            for name, service in list(pending.items()):
                if any(other in pending for other in service.after):
                    continue
                if name not in tries:
                    self._supervisor.ensure_started(name)
                if self._is_well(service, tries.setdefault(name, set())):
                    del pending[name]
                    progress(f"{name} is well after {time.monotonic() - began:.1f} s")
                elif time.monotonic() - began > self._within:
                    raise NotReady(f"{name} is not well after {self._within:g} s; its log ends:\n{log_tail(service.program.log)}")
            time.sleep(_POLL_SECONDS)

    def _is_well(self, service: Service, tries: set[int]) -> bool:
        info = self._supervisor.process(service.name) or {"statename": "UNKNOWN", "pid": 0}
        tries |= {info["pid"]} - {0}
        if info["statename"] == "FATAL" or len(tries) >= _TRIES:
            raise NotReady(f"{service.name} ends whenever it starts; its log ends:\n{log_tail(service.program.log)}")
        return _well(service, info)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two calls at once take their turns."""
        self._settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._settings.home / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def create_buckets(settings: Settings) -> None:
    """Make the buckets that are missing."""
    import boto3

    secret = credentials.read(settings.home)
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_url,
        aws_access_key_id=secret.access_key,
        aws_secret_access_key=secret.secret_key,
        region_name="us-east-1",
    )
    make_buckets(client)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _wait_gone(pid: int, within: float) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(within)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired as error:
        raise NotReady(
            f"supervisord (pid {pid}) still stops its processes after {within:g} s: run 'mlops down' again, which ends them"
        ) from error


def _status(service: Service, info: Mapping[str, object] | None) -> ServiceStatus:
    if info is None:
        return ServiceStatus(service.name, "down", False, None, service.url)
    state, pid = str(info["statename"]).lower(), int(str(info["pid"])) or None
    return ServiceStatus(service.name, state, _well(service, info), pid, service.url)


def _well(service: Service, info: Mapping[str, object]) -> bool:
    # supervisord calls the first second of a process STARTING; one that answers already need not wait for its end.
    return info["statename"] in (("STARTING", "RUNNING") if service.ports else ("RUNNING",)) and service.well()
