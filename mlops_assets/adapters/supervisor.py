"""supervisord, which keeps the local processes: its configuration, and its XML-RPC over a unix socket."""

import http.client
import shlex
import socket
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from mlops_assets.core.errors import BadData, MlopsError, Unavailable

SOCKET = "supervisor.sock"
PROGRAMS = "supervisor"
"""The folder, in the stack's home, with one file for each release."""


class Fault(IntEnum):
    """The faults of supervisord that mean something to us."""

    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    NOT_RUNNING = 70
    ALREADY_STARTED = 60
    ALREADY_ADDED = 90
    STILL_RUNNING = 91
    CANT_REREAD = 92


@dataclass(frozen=True)
class Program:
    """One process that supervisord keeps alive.

    Args:
        name: without colon or blank.
        command: the program and its arguments.
        log: the file that takes its output; rotated at 10 MB, two old ones are kept.
        environment: beside what supervisord itself has. It lies in a file: no secrets.
        retries: how often in a row it may end within a second before supervisord gives up.
        stop_wait: seconds between TERM and KILL.
        directory: where it runs; by default where supervisord does.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    retries: int = 30
    stop_wait: int = 10
    autostart: bool = True
    directory: Path | None = None

    def section(self) -> str:
        """The program as a section of supervisord's configuration.

        >>> print(Program("web", ["/bin/serve", "a b"], Path("/log/web"), {"SHARE": "5%"}).section())
        [program:web]
        command=/bin/serve 'a b'
        environment=SHARE="5%%"
        autostart=true
        autorestart=true
        startsecs=1
        startretries=30
        stopwaitsecs=10
        stopasgroup=true
        killasgroup=true
        redirect_stderr=true
        stdout_logfile=/log/web
        stdout_logfile_maxbytes=10MB
        stdout_logfile_backups=2
        <BLANKLINE>
        """
        environment = ",".join(f'{name}="{_plain(value)}"' for name, value in sorted(self.environment.items()))
        lines = [
            f"[program:{self.name}]",
            f"command={_escape(shlex.join(self.command))}",
            *([f"environment={environment}"] if environment else []),
            *([f"directory={_escape(str(self.directory))}"] if self.directory else []),
            f"autostart={str(self.autostart).lower()}",
            "autorestart=true",
            "startsecs=1",
            f"startretries={self.retries}",
            f"stopwaitsecs={self.stop_wait}",
            "stopasgroup=true",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_escape(str(self.log))}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
        return "\n".join(lines) + "\n"


class Supervisor:
    """The supervisord whose socket lies at ``path``.

    Methods raise :class:`Unavailable` if nobody listens there, or if it is shutting down, when it does nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=_UnixTransport(path))

    def call(self, method: str, *arguments: Any, harmless: Sequence[Fault] = ()) -> Any:
        """Call ``supervisor.<method>``; ``None`` if it failed with one of the ``harmless`` faults."""
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in harmless:
                return None
            if fault.faultCode == Fault.SHUTDOWN_STATE:
                raise Unavailable(f"supervisord at {self._path} is shutting down: 'mlops down' again ends what is left") from fault
            if fault.faultCode == Fault.CANT_REREAD:
                message = f"supervisord cannot read its configuration ({fault.faultString}): mend or delete the file under {PROGRAMS}/"
                raise BadData(message) from fault
            raise MlopsError(f"supervisord refused {method}{arguments}: {fault.faultString}. 'mlops status' says what runs") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(f"supervisord does not answer at {self._path} ({error}): start the stack with 'mlops up'") from error

    def process(self, name: str) -> Mapping[str, Any] | None:
        """What supervisord says of a program; ``None`` if it does not know it."""
        info: Mapping[str, Any] | None = self.call("getProcessInfo", name, harmless=[Fault.BAD_NAME])
        return info

    def add(self, name: str) -> None:
        """Read the configuration again and take up the program ``name``; harmless if it is there."""
        self.call("reloadConfig")
        self.call("addProcessGroup", name, harmless=[Fault.ALREADY_ADDED])

    def ensure_started(self, name: str) -> None:
        """Start a known program that has stopped or was given up."""
        self.call("startProcess", name, False, harmless=[Fault.ALREADY_STARTED])

    def remove(self, name: str) -> bool:
        """Forget a stopped program; harmless if it is not known. Returns whether it is forgotten: not if it runs."""
        self.call("removeProcessGroup", name, harmless=[Fault.BAD_NAME, Fault.STILL_RUNNING])
        return self.process(name) is None


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or that there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            kept = file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return f"(no log at {path})"
    return "\n".join(kept) or f"(nothing in {path})"


def _escape(value: str) -> str:
    return value.replace("%", "%%")


def _plain(value: str) -> str:
    if '"' in value or "\n" in value:
        raise BadData(f"got {value!r} for a process's environment, expected a value without double quotes and line breaks")
    return _escape(value)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        # Longer than any program's stop_wait: stopping answers when the process is gone.
        super().__init__("supervisor", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)
