"""Where the local stack lives and listens. One place reads the environment; everything binds to loopback."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import unquote, urlsplit

from mlops_assets.core.errors import MlopsError

Target = Literal["processes", "kubernetes", "ray"]
HOST = "127.0.0.1"
_BASE_PORTS = range(1024, 55_000)
"""SeaweedFS takes ports 10,000 above its own."""


DAGSTER_DATABASE, MLFLOW_DATABASE = "MLOPS_DAGSTER_DATABASE_URL", "MLOPS_MLFLOW_DATABASE_URL"
"""The variables that name a Postgres database each. They hold a password, so no file and no command line repeats them."""

DRIVER = "postgresql+psycopg2://"

_SECRET = re.compile(r"(PASSWORD|TOKENS?|_KEY)$")
"""The variables that hold nothing but a secret, by the end of their names."""

_LEAST = 4
"""Shorter ones are found in any text."""


def sqlite_url(file: Path) -> str:
    """The address of an online store in a file.

    >>> sqlite_url(Path("/var/my store.db"))
    'sqlite:///var/my%20store.db'
    """
    return file.absolute().as_uri().replace("file", "sqlite", 1)


def without_password(url: str) -> str:
    """An address without user, password and options: what may be shown, also of one that is not well formed.

    >>> without_password("postgresql://me:secret@db:5432/dagster?sslmode=require"), without_password("redis://:a/b#c@db:6379/0")
    ('postgresql://db:5432/dagster', 'redis://db:6379/0')
    """
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    return scheme + slashes + re.split(r"[?#]", rest.rpartition("@")[2])[0]


def without_secrets(text: str) -> str:
    """Somebody else's words, such as an error's, without users and passwords of addresses and without what the environment keeps secret.

    >>> without_secrets("cannot reach http://me:secret@mlflow:5000/version")
    'cannot reach http://mlflow:5000/version'
    """
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"(?<=://)\S*@", "", text)
    return re.sub(r"(?i)(password|token|secret)=[^\s&]+", r"\1=***", text)


def _secrets() -> Iterator[str]:
    """What the environment keeps secret, whole and in the pieces into which it is cut by who takes a password for a part of an address."""
    for name, value in os.environ.items():
        users = value.partition("://")[2].rpartition("@")[0]
        for secret in (value.strip() if _SECRET.search(name) else "", users.partition(":")[2]):
            for said in (secret, unquote(secret)):
                yield from (part for part in (said, *re.split(r"[\s/?#@:,\[\]]+", said)) if len(part) >= _LEAST)


def _postgres_url(variable: str) -> str | None:
    """The address in a variable; None if it is not set.

    Raises:
        MlopsError: if it is of no Postgres database; without what it says, which may be a password.
    """
    url = os.environ.get(variable)
    try:
        has_name = bool(url and urlsplit(url).path.strip("/"))
    except ValueError:  # a bracket that is not percent-encoded
        has_name = False
    # With SQLAlchemy 2.1 a bare postgresql:// asks for psycopg 3, which dagster-postgres does not speak.
    if url and not (url.startswith(DRIVER) and has_name):
        raise MlopsError(f"{variable}: got another address, expected {DRIVER}user:password@host:5432/name, its parts percent-encoded")
    return url or None


@dataclass(frozen=True)
class Settings:
    """The local stack's folder and ports.

    Ports follow from ``base_port``, so that two stacks live side by side: ``MLOPS_BASE_PORT=14000``. ``home`` holds all
    state; it is ``.mlops`` in the present folder unless ``MLOPS_HOME`` says otherwise.
    """

    home: Path
    base_port: int = 4000

    @classmethod
    def from_environment(cls) -> "Settings":
        """What the environment says, else the defaults.

        Raises:
            MlopsError: if ``MLOPS_BASE_PORT`` is no port that a stack can begin at.
        """
        home, port = Path(os.environ.get("MLOPS_HOME", ".mlops")).resolve(), os.environ.get("MLOPS_BASE_PORT", "4000")
        if not port.isdecimal() or int(port) not in _BASE_PORTS:
            raise MlopsError(f"MLOPS_BASE_PORT: got {port!r}, expected a port from {_BASE_PORTS[0]} to {_BASE_PORTS[-1]}, e.g. 14000")
        return cls(home, int(port))

    @property
    def dagster_port(self) -> int:
        return self.base_port

    @property
    def code_server_port(self) -> int:
        return self.base_port + 1

    @property
    def mlflow_port(self) -> int:
        return self.base_port + 2

    @property
    def gateway_port(self) -> int:
        return self.base_port + 3

    @property
    def gateway_admin_port(self) -> int:
        return self.base_port + 4

    @property
    def s3_port(self) -> int:
        return self.base_port + 5

    @property
    def weed_ports(self) -> dict[str, int]:
        """SeaweedFS's own components, by the flag that sets them; each also takes the port 10,000 above for gRPC."""
        return {"master": self.base_port + 6, "volume": self.base_port + 7, "filer": self.base_port + 8}

    @property
    def exporter_port(self) -> int:
        return self.base_port + 13

    @property
    def prometheus_port(self) -> int:
        return self.base_port + 14

    @property
    def alertmanager_port(self) -> int:
        return self.base_port + 15

    @property
    def release_ports(self) -> range:
        """One for each release that runs."""
        return range(self.base_port + 20, self.base_port + 500)

    @property
    def sensor_seconds(self) -> int:
        """How often each sensor looks."""
        return int(os.environ.get("MLOPS_SENSOR_SECONDS", "30"))

    @property
    def pace(self) -> float:
        """How many seconds of declared waiting pass in one."""
        return float(os.environ.get("MLOPS_PACE", "1"))

    @property
    def rules_folder(self) -> Path:
        """Where Prometheus finds the rules of all models."""
        return self.home / "monitoring" / "rules"

    @property
    def has_own_s3(self) -> bool:
        """Whether S3 is the stack's own rather than one that ``MLOPS_S3_URL`` names."""
        return "MLOPS_S3_URL" not in os.environ

    @property
    def s3_url(self) -> str:
        return os.environ.get("MLOPS_S3_URL", f"http://{HOST}:{self.s3_port}")

    @property
    def target(self) -> Target:
        """Where releases run, as ``MLOPS_TARGET`` says: ``processes`` of this machine, ``kubernetes`` or ``ray``. The gateway is this
        machine's own for the first and the last.

        Raises:
            MlopsError: if it is none of them.
        """
        said = os.environ.get("MLOPS_TARGET", "processes")
        if said not in get_args(Target):
            raise MlopsError(f"MLOPS_TARGET: got {said!r}, expected {' or '.join(get_args(Target))}")
        return cast(Target, said)

    @property
    def ray_address(self) -> str:
        """``host:port`` of the head of the Ray cluster of ``MLOPS_TARGET=ray``."""
        return os.environ.get("MLOPS_RAY_ADDRESS", f"{HOST}:6379")

    @property
    def ray_proxy(self) -> str:
        """``host:port`` of the proxy of Ray Serve."""
        return os.environ.get("MLOPS_RAY_PROXY", f"{HOST}:8000")

    @property
    def namespace(self) -> str:
        """The namespace of releases and gateways on Kubernetes."""
        return os.environ.get("MLOPS_NAMESPACE", "mlops")

    @property
    def cluster_domain(self) -> str:
        return os.environ.get("MLOPS_CLUSTER_DOMAIN", "cluster.local")

    @property
    def gateways(self) -> tuple[str, ...]:
        """``host:port`` of the sidecars of a cluster's gateways, separated by commas; a name stands for all its addresses."""
        own = f"mlops-gateway-sidecars.{self.namespace}.svc.{self.cluster_domain}:9902"
        return tuple(one.strip() for one in os.environ.get("MLOPS_GATEWAYS", own).split(",") if one.strip())

    @property
    def serving_image(self) -> str:
        """The image of releases on Kubernetes; empty if ``MLOPS_SERVING_IMAGE`` does not say: then none can be started."""
        return os.environ.get("MLOPS_SERVING_IMAGE", "")

    @property
    def online_url(self) -> str:
        """Where the online features are: ``redis://host:port/db`` if ``MLOPS_ONLINE_URL`` says so, else a SQLite file below ``home``."""
        return os.environ.get("MLOPS_ONLINE_URL") or sqlite_url(self.home / "feast" / "online" / "store.db")

    @property
    def alertmanager_url(self) -> str | None:
        """Where people are told of what is wrong: what ``MLOPS_ALERTMANAGER_URL`` says, else the stack's own if it is asked for."""
        own = f"http://{HOST}:{self.alertmanager_port}" if self.is_monitored else None
        return os.environ.get("MLOPS_ALERTMANAGER_URL") or own

    @property
    def runbooks_url(self) -> str:
        """The address of the runbooks, which alerts link to."""
        return os.environ.get("MLOPS_RUNBOOKS_URL", "docs/guides/runbooks.md")

    @property
    def is_monitored(self) -> bool:
        """Whether exporter, Prometheus and Alertmanager are part of the stack: ``MLOPS_MONITORING=1``."""
        return os.environ.get("MLOPS_MONITORING") == "1"

    @property
    def dagster_database(self) -> str | None:
        """Dagster's Postgres, ``postgresql+psycopg2://user:password@host:port/name``; None where its SQLite files below ``home`` do."""
        return _postgres_url(DAGSTER_DATABASE)

    @property
    def mlflow_database(self) -> str:
        """The Postgres of the MLflow server, else a SQLite file below ``home``."""
        return _postgres_url(MLFLOW_DATABASE) or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def mlflow_url(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI", f"http://{HOST}:{self.mlflow_port}")

    @property
    def dagster_url(self) -> str:
        """Dagster's UI, which alerts and pages link to: what ``MLOPS_DAGSTER_URL`` says, else the Service of the cluster in which releases
        run, else that of this machine."""
        if told := os.environ.get("MLOPS_DAGSTER_URL"):
            return told.rstrip("/")
        if self.target == "kubernetes":
            return f"http://dagster-dagster-webserver.{self.namespace}.svc.{self.cluster_domain}:8080"
        return f"http://{HOST}:{self.dagster_port}"

    @property
    def gateway_url(self) -> str:
        scheme = "https" if os.environ.get("MLOPS_GATEWAY_TLS") else "http"
        return f"{scheme}://{HOST}:{self.gateway_port}"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"
