"""The services of the local stack: how each is started, where it listens, and how one knows that it is well."""

import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_assets.adapters.envoy import prepare
from mlops_assets.adapters.envoy_access import Access
from mlops_assets.adapters.envoy_config import bootstrap
from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.adapters.release_client import answers_ready
from mlops_assets.adapters.supervisor import PROGRAMS, SOCKET, Program
from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.credentials import Credentials
from mlops_assets.dagster_instance import instance_config
from mlops_assets.settings import HOST, Settings, without_password
from mlops_assets.stack_monitoring import ALERTMANAGER, EXPORTER, PROMETHEUS, program, prometheus_url

S3, MLFLOW, CODE, WEBSERVER, DAEMON, GATEWAY = "s3", "mlflow", "code", "webserver", "daemon", "envoy"
ALL = (S3, MLFLOW, CODE, WEBSERVER, DAEMON, GATEWAY)
GATEWAY_CONFIG = "envoy/bootstrap.json"
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Service:
    """One service.

    Args:
        program: how supervisord runs it.
        ports: on which it listens, all on loopback.
        well: asks it; may be called at any time and answers within a second.
        after: the services that must be well before it starts, among those that are selected.
        url: where a person or a client finds it.
    """

    program: Program
    ports: tuple[int, ...] = ()
    well: Callable[[], bool] = lambda: True
    after: tuple[str, ...] = ()
    url: str = ""

    @property
    def name(self) -> str:
        return self.program.name


def build(settings: Settings, definitions: str) -> Mapping[str, Service]:
    """Every service of the stack, by name. ``definitions`` is the module with the Dagster definitions."""
    every = (
        _s3(settings),
        _mlflow(settings),
        _code(settings, definitions),
        _webserver(settings),
        _daemon(settings),
        _gateway(settings),
        *_monitoring(settings, definitions),
    )
    return {service.name: service for service in every}


def write_files(settings: Settings, credentials: Credentials) -> None:
    """The files that the services read when they start."""
    for folder in ("logs", "s3", "mlflow", "dagster", PROGRAMS):
        (settings.home / folder).mkdir(parents=True, exist_ok=True)
    key = {"accessKey": credentials.access_key, "secretKey": credentials.secret_key}
    identity = {"name": "mlops", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    replace_file(settings.home / "s3.json", json.dumps({"identities": [identity]}), private=True)
    prepare(**_gateway_is_told(settings))
    (settings.dagster_home / "dagster.yaml").write_text(instance_config(settings))
    (settings.dagster_home / "workspace.yaml").write_text(_workspace(settings))


def gateway_config(settings: Settings) -> str:
    """What the gateway is started with; callers' tokens are in it."""
    return bootstrap(**_gateway_is_told(settings))


def _gateway_is_told(settings: Settings) -> dict[str, Any]:
    ports = {"port": settings.gateway_port, "admin_port": settings.gateway_admin_port}
    return {"directory": (settings.home / GATEWAY_CONFIG).parent, **ports, "access": Access.from_environment()}


def supervisord_conf(settings: Settings, selected: Mapping[str, Service]) -> str:
    """supervisord's configuration. Secrets stay in its environment."""
    databases = [without_password(url) for url in (settings.dagster_database, settings.mlflow_database) if url]
    head = f"""; base port {settings.base_port}, databases {_comment(databases)}

[unix_http_server]
file=%(here)s/{SOCKET}
chmod=0700

[supervisord]
logfile=%(here)s/logs/supervisord.log
logfile_maxbytes=10MB
logfile_backups=2
pidfile=%(here)s/supervisord.pid
childlogdir=%(here)s/logs

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files={PROGRAMS}/*.conf
"""
    return "\n".join([head, *(service.program.section() for service in selected.values())])


def _comment(urls: Sequence[str]) -> str:
    return " ".join(urls).replace("%", "%%")


def _program(settings: Settings, name: str, *command: str, directory: Path | None = None, **environment: str) -> Program:
    # Started by 'up', in their order: at supervisord's own start nothing is there yet that they need.
    log = settings.home / "logs" / f"{name}.log"
    return Program(name, command, log, environment, retries=5, stop_wait=15, autostart=False, directory=directory)


def _binary(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _s3(settings: Settings) -> Service:
    first = settings.s3_port
    # Left alone, these would listen on ports of their own choice, the same for every stack on the machine.
    fixed = {"s3.port": first, "s3.port.grpc": first + 4, "master.port.grpc": first + 5, "volume.port.grpc": first + 6}
    fixed |= {
        "filer.port.grpc": first + 7,
        "admin.port": first + 11,
        **{f"{name}.port": port for name, port in settings.weed_ports.items()},
    }
    options = {
        **fixed,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": settings.home / "s3.json",
        "dir": settings.home / "s3",
        "ip": HOST,
        "ip.bind": HOST,
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
    }
    command = [_binary("weed"), "mini", *(f"-{name}={value}" for name, value in options.items())]
    program = _program(settings, S3, *command, WEED_MASTER_VOLUME_GROWTH_COPY_1="1")
    # The worker finds the admin server's gRPC only at 10,000 above its port.
    ports = (*fixed.values(), fixed["admin.port"] + 10_000)
    return Service(program, ports, _holds_objects(first, settings.weed_ports["master"]), url=f"http://{HOST}:{first}")


def _mlflow(settings: Settings) -> Service:
    port = settings.mlflow_port
    # Its database comes from MLFLOW_BACKEND_STORE_URI, which is in supervisord's own environment: a command line shows a password.
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *options, "--serve-artifacts", "--artifacts-destination", "s3://mlflow"]
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_S3_ENDPOINT_URL": settings.s3_url}
    program = _program(settings, MLFLOW, *command, directory=settings.home / "mlflow", **environment)
    return Service(program, (port,), _answers(port, "/health"), (S3,), f"http://{HOST}:{port}")


def _code(settings: Settings, definitions: str) -> Service:
    port = settings.code_server_port
    command = [sys.executable, "-m", "mlops_assets.code_server", "--host", HOST, "--port", str(port), "--module-name", definitions]
    command += ["--location-name", "mlops_assets", "--log-level", "warning"]
    program = _program(settings, CODE, *command, directory=PROJECT)
    return Service(program, (port,), _listens(port), (S3,))


def _webserver(settings: Settings) -> Service:
    port, workspace = settings.dagster_port, str(settings.dagster_home / "workspace.yaml")
    command = [_binary("dagster-webserver"), "--host", HOST, "--port", str(port), "--workspace", workspace, "--log-level", "warning"]
    return Service(_program(settings, WEBSERVER, *command), (port,), _answers(port, "/server_info"), (CODE,), f"http://{HOST}:{port}")


def _daemon(settings: Settings) -> Service:
    workspace = str(settings.dagster_home / "workspace.yaml")
    command = [sys.executable, "-m", "mlops_assets.daemon", "run", "--workspace", workspace, "--log-level", "warning"]
    return Service(_program(settings, DAEMON, *command, directory=PROJECT), after=(CODE,))


def _gateway(settings: Settings) -> Service:
    port, admin = settings.gateway_port, settings.gateway_admin_port
    config = str(settings.home / GATEWAY_CONFIG)
    command = [_binary("envoy"), "-c", config, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]
    return Service(_program(settings, GATEWAY, *command), (port, admin), _answers(admin, "/ready"), url=settings.gateway_url)


def _monitoring(settings: Settings, definitions: str) -> tuple[Service, ...]:
    exporter, prometheus, alertmanager = settings.exporter_port, settings.prometheus_port, settings.alertmanager_port
    asked = {
        EXPORTER: ((exporter,), _answers(exporter, "/metrics"), (S3,), f"http://{HOST}:{exporter}/metrics"),
        PROMETHEUS: ((prometheus,), _answers(prometheus, "/-/ready"), (), prometheus_url(settings)),
        ALERTMANAGER: ((alertmanager,), _answers(alertmanager, "/-/ready"), (), f"http://{HOST}:{alertmanager}"),
    }
    return tuple(Service(program(settings, name, definitions), *how) for name, how in asked.items())


def _answers(port: int, path: str) -> Callable[[], bool]:
    return lambda: answers_ready(f"{HOST}:{port}", path, timeout=1.0)


def _holds_objects(port: int, master: int) -> Callable[[], bool]:
    """S3 answers at once, but its master may know the volumes only seconds later; until then each object is an error 500."""

    def check() -> bool:
        if not answers_ready(f"{HOST}:{port}", "/healthz", timeout=1.0):
            return False
        try:
            topology = json.loads(ask(f"{HOST}:{master}", "GET", "/dir/status", 1.0).body)["Topology"]
        except (NoAnswer, ValueError, KeyError):
            return False
        return int(topology["Max"]) > 0

    return check


def _listens(port: int) -> Callable[[], bool]:
    def check() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((HOST, port)) == 0

    return check


def _workspace(settings: Settings) -> str:
    server = {"host": HOST, "port": settings.code_server_port, "location_name": "mlops_assets"}
    return json.dumps({"load_from": [{"grpc_server": server}]}, indent=1)
