"""Releases as local processes, one each, under supervisord. A release is a file in ``<home>/supervisor``."""

import fcntl
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlops_assets.adapters.release_client import AskedAtItsEndpoint, answers_ready
from mlops_assets.adapters.release_environment import release_environment
from mlops_assets.adapters.supervisor import PROGRAMS, SOCKET, Fault, Program, Supervisor, log_tail
from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import BadData, NotFound, NotReady, Unavailable
from mlops_assets.core.serving_spec import GATEWAY_TIMEOUT, Serving
from mlops_assets.ports import Deployment
from mlops_assets.settings import HOST, Settings

TARGETS = "targets"
"""The folder, in the stack's home, with one file for each release that runs: where Prometheus finds it (``file_sd``)."""

_HEADER = "; port "
_POLL_SECONDS = 0.05
_ENDS_BEFORE_GIVING_UP = 3
_STOPS = 3
_STOP_SECONDS = int(GATEWAY_TIMEOUT.total_seconds()) + 7
"""What is under way may be answered, and the prediction log is shipped for five seconds at most."""

_REMOVED_SECONDS = 2.0
"""What ended is removed within, if whoever stopped it is alive."""

_STOPPED = {"STOPPED", "EXITED", "FATAL"}


class SupervisedDeployments(AskedAtItsEndpoint):
    """Local processes as the :class:`~mlops_assets.ports.Deployments`.

    Args:
        settings: home and ports of the stack.
        command: starts one release; ``{port}`` becomes the port on which it must listen. It finds ``MLOPS_MODEL``,
            ``MLOPS_RELEASE``, ``MLOPS_MODEL_DIGEST``, ``MLOPS_HOME``, ``MLOPS_PORT`` and what :class:`Serving` says (``MLOPS_THREADS``,
            ``MLOPS_WORKERS``, ``MLOPS_TIMEOUT_SECONDS``, ``MLOPS_LOG_DURABILITY``, ``MLOPS_ON_LOG_FULL``,
            ``MLOPS_ONLINE_TIMEOUT_SECONDS``, ``MLOPS_ON_ONLINE_DOWN``) in its environment, and the online store's address and the
            credentials that supervisord was started with.
    """

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._settings = settings
        self._command = command
        self._programs = settings.home / PROGRAMS
        self._supervisor = Supervisor(settings.home / SOCKET)

    def start(self, model: str, release: str, digest: str, serving: Serving | None) -> None:
        """Run this release; harmless if it runs. Other ``serving`` takes effect when a release is started after a stop.

        One that somebody else is stopping is waited for, and started again.

        Raises:
            Unavailable: if supervisord does not answer, or no port is free.
            BadData: if supervisord cannot read a file in its folder.
        """
        name, file = _name(model, release), self._file(model, release)
        for _ in range(_STOPS):
            with self._locked():
                if not file.exists():
                    self._write(model, release, digest, serving or Serving())
                known = self._supervisor.process(name)
                if known is None:
                    self._supervisor.add(name)
                elif known["statename"] in _STOPPED:
                    self._supervisor.ensure_started(name)
            if known is None or known["statename"] != "STOPPING":
                return
            self._wait_while_leaving(name)
        raise Unavailable(f"{release} of {model} is stopped whenever it is started: see who does so, then 'mlops status'")

    def stop(self, model: str, release: str) -> None:
        """Drain (TERM, then as long as a gateway waits for an answer and seven seconds) and end this release; harmless if it does not run.

        Raises:
            Unavailable: if supervisord does not answer.
        """
        name = _name(model, release)
        for _ in range(_STOPS):
            self._supervisor.call("stopProcessGroup", name, harmless=[Fault.BAD_NAME, Fault.NOT_RUNNING])
            self._wait_while_stopping(name)
            with self._locked():
                # While it drained, somebody with an older policy in hand may have started it again.
                if self._supervisor.remove(name):
                    self._file(model, release).unlink(missing_ok=True)
                    self._target(model, release).unlink(missing_ok=True)
                    return
        raise Unavailable(f"{release} of {model} is started again whenever it is stopped: see who does so, then 'mlops status'")

    def _wait_while_stopping(self, name: str) -> None:
        """Wait for a release that somebody else is stopping: supervisord answers at once then, and not when it has ended."""
        deadline = time.monotonic() + _STOP_SECONDS
        while (info := self._supervisor.process(name)) and info["statename"] == "STOPPING" and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _wait_while_leaving(self, name: str) -> None:
        """Wait for a release that somebody else is stopping until he has removed it: one that is started before that he stops again."""
        self._wait_while_stopping(name)
        deadline = time.monotonic() + _REMOVED_SECONDS
        while self._supervisor.process(name) is not None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def running(self, model: str) -> Sequence[Deployment]:
        """What runs of this model, or is meant to, ready or not. Needs no supervisord."""
        found = []
        for file, port in self._ports(f"{model}.*.conf"):
            endpoint = f"{HOST}:{port}"
            release = file.name.removeprefix(f"{model}.").removesuffix(".conf")
            found.append(Deployment(model, release, endpoint, answers_ready(endpoint)))
        return found

    def wait_ready(self, model: str, release: str, within: float) -> Deployment:
        """Wait until the release answers 200 to ``GET /ready``.

        Raises:
            NotReady: after ``within`` seconds, or earlier if the process keeps ending; with the end of its log.
            NotFound: if the release was not started.
            Unavailable: if supervisord does not answer.
        """
        name, file = _name(model, release), self._file(model, release)
        if not file.exists():
            raise NotFound(f"{release} of {model} was not started, expected {file.name} in {PROGRAMS}/: start it first")
        endpoint = f"{HOST}:{_port(file)}"
        deadline, ends, pid = time.monotonic() + within, 0, 0
        while not answers_ready(endpoint):
            info = self._supervisor.process(name) or {"statename": "UNKNOWN", "pid": 0}
            if pid and info["pid"] != pid:
                ends += 1
            pid = int(info["pid"])
            if info["statename"] == "FATAL" or ends >= _ENDS_BEFORE_GIVING_UP:
                raise NotReady(f"{release} of {model} keeps ending while it starts; {self._log_end(name)}")
            if time.monotonic() >= deadline:
                state = str(info["statename"]).lower()
                raise NotReady(
                    f"{release} of {model} ({state}) did not answer 200 to GET /ready within {within:g} s; {self._log_end(name)}"
                )
            time.sleep(_POLL_SECONDS)
        return Deployment(model, release, endpoint, True)

    def _log_end(self, name: str) -> str:
        return f"its log ends:\n{log_tail(self._log(name))}"

    def _write(self, model: str, release: str, digest: str, serving: Serving) -> None:
        name, port = _name(model, release), self._free_port()
        environment = {
            **release_environment(model, release, digest, serving),
            "MLOPS_HOME": str(self._settings.home),
            "MLOPS_PORT": str(port),
        }
        command = [part.replace("{port}", str(port)) for part in self._command]
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        file = self._file(model, release)
        # One half-written file would keep supervisord from reading any.
        replace_file(file, f"{_HEADER}{port}\n{Program(name, command, log, environment, stop_wait=_STOP_SECONDS).section()}")
        target = self._target(model, release)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, json.dumps([{"targets": [f"{HOST}:{port}"], "labels": {"model": model, "release": release}}]))

    def _free_port(self) -> int:
        taken = {port for _, port in self._ports("*.conf")}
        for port in self._settings.release_ports:
            if port not in taken and can_listen(port):
                return port
        ports = self._settings.release_ports
        raise Unavailable(
            f"no port from {ports.start} to {ports.stop - 1} is free for a release: stop some, or choose another MLOPS_BASE_PORT"
        )

    def _ports(self, pattern: str) -> Iterator[tuple[Path, int]]:
        for file in sorted(self._programs.glob(pattern)):
            # It may be stopped, and its file gone, between the two looks.
            with suppress(FileNotFoundError):
                yield file, _port(file)

    def _file(self, model: str, release: str) -> Path:
        return self._programs / f"{_name(model, release)}.conf"

    def _target(self, model: str, release: str) -> Path:
        return self._settings.home / TARGETS / f"{_name(model, release)}.json"

    def _log(self, name: str) -> Path:
        return self._settings.home / "logs" / f"{name}.log"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._programs.mkdir(parents=True, exist_ok=True)
        with (self._programs / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def can_listen(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _name(model: str, release: str) -> str:
    return f"{model}.{release}"


def _port(file: Path) -> int:
    first, _, _ = file.read_text().partition("\n")
    try:
        return int(first.removeprefix(_HEADER))
    except ValueError as error:
        raise BadData(f"{file} begins with {first!r}, expected '{_HEADER}<number>': delete it, and the release is started anew") from error
