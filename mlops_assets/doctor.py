"""``mlops doctor``: whether what the platform depends on is there, of the right version, permits what we need, and tells the right time."""

import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_assets import credentials
from mlops_assets.adapters.databases import PostgresDatabase
from mlops_assets.adapters.kubernetes_api import KubernetesApi
from mlops_assets.adapters.kubernetes_manifests import Target, release_companions, release_deployment
from mlops_assets.adapters.s3 import S3PolicyStore
from mlops_assets.core.errors import AlreadyExists, BadData, MlopsError, Unavailable
from mlops_assets.core.serving_spec import Serving
from mlops_assets.core.verdict import Outcome
from mlops_assets.ports import Platform, model_key
from mlops_assets.settings import DAGSTER_DATABASE, HOST, Settings, without_password, without_secrets

ROOM_GB = 2.0
"""Free space below which SeaweedFS and the prediction log soon take nothing more."""

LEAST_POSTGRES = 14
"""Older ones are mended no more."""

MAX_SKEW = timedelta(seconds=5)
"""Between this clock and the object store's: canary steps, cooldowns and the names of logged files are made of times."""

FOLLOWED_WITHIN = timedelta(seconds=16)
"""How long gateways may take to follow a policy: ten seconds for a release to be healthy, five for Envoy, and their next look."""

PROBE = "doctor"
"""A model that there is not, whose release is made in a dry run."""

_CONNECT_SECONDS = "4"
_PODS = {
    "object store": "app.kubernetes.io/name=mlops-s3",
    "policies": "app.kubernetes.io/name=mlops-s3",
    "MLflow": "app.kubernetes.io/name=mlops-mlflow",
    "Dagster": "component=dagster-webserver",
    "daemon": "component=dagster-daemon",
    "gateway": "app.kubernetes.io/name=mlops-gateway",
    "routes": "app.kubernetes.io/name=mlops-gateway",
    "online store": "app.kubernetes.io/name=mlops-redis",
}
"""The labels of what a look is at, where the cluster has it."""

_COLOURS = {Outcome.PASS: "green", Outcome.FAIL: "red", Outcome.INCONCLUSIVE: "yellow"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was got, and how to mend it if it is not well."""

    what: str
    outcome: Outcome
    got: str
    mend: str = ""


def show(doctor: "Doctor", console: Console | None = None) -> bool:
    """Print what was found; returns whether nothing has to be mended."""
    table = Table("what", "", "got", "mend")
    found = doctor.examine()
    for finding in found:
        outcome = f"[{_COLOURS[finding.outcome]}]{finding.outcome}[/]"
        table.add_row(escape(finding.what), outcome, escape(finding.got), escape(finding.mend))  # an error's text may have brackets
    (console or Console()).print(table)
    return all(finding.outcome is not Outcome.FAIL for finding in found)


@dataclass(frozen=True)
class Doctor:
    """Looks at everything, whatever else is broken.

    Args:
        settings: where things are.
        connect: makes the platform, which takes a stack that was up once.
        api: of the cluster, by its namespace.
    """

    settings: Settings
    connect: Callable[[], Platform]
    api: Callable[[str], KubernetesApi] = KubernetesApi

    @cached_property
    def platform(self) -> Platform:
        if self.in_cluster and self.settings.has_own_s3:
            raise MlopsError("MLOPS_S3_URL is not set, expected the object store of the cluster: its ConfigMap mlops has the address")
        return self.connect()

    @cached_property
    def in_cluster(self) -> bool:
        """Whether releases and gateways are a cluster's, so that what is broken is mended by kubectl."""
        with suppress(MlopsError):  # each look that needs the platform says what is wrong with MLOPS_TARGET
            return self.settings.target == "kubernetes"
        return False

    def examine(self) -> list[Finding]:
        looks: dict[str, Callable[[], Iterator[Finding]]] = {
            "packages": self.packages,
            "home": self.home,
            "object store": self.object_store,
            "policies": self.policies,
            "databases": self.databases,
            "MLflow": self.registry,
            "Dagster": self.webserver,
            "daemon": self.daemon,
            **({"Kubernetes": self.kubernetes, "gateway": self.gateways, "routes": self.routes} if self.in_cluster else {}),
            **({} if self.in_cluster else {"gateway": self.gateway}),
            "online store": self.online_store,
        }
        found: list[Finding] = []
        for name, look in looks.items():
            try:
                found += look()
            except Exception as error:  # whatever it is, the others are looked at
                found.append(_broken(name, error, self._see(name)))
        return found

    def _see(self, what: str) -> str:
        """How to find out whether something runs."""
        if not self.in_cluster:
            return "see that it runs: 'mlops status'"
        selected = f" -l {_PODS[what]}" if what in _PODS else ""
        return f"see that it runs: '{self._kubectl} get pods{selected}'"

    @property
    def _kubectl(self) -> str:
        return f"kubectl -n {self.settings.namespace}"

    def packages(self) -> Iterator[Finding]:
        from packaging.requirements import Requirement

        python = ".".join(map(str, sys.version_info[:3]))
        mend = "install Python 3.11, then 'make install'; 'make images' for an image"
        yield _judged("Python", sys.version_info[:2] == (3, 11), python, mend)
        wrong = []
        for line in requires("mlops-assets") or []:
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            try:
                have = version(wanted.name)
            except PackageNotFoundError:
                have = "none"
            if have == "none" or not wanted.specifier.contains(have, prereleases=True):
                wrong.append(f"{wanted.name} {have}, expected {wanted.specifier}")
        yield _judged("packages", not wrong, "; ".join(wrong) or "as pyproject.toml says", "'make install'; 'make images' for an image")

    def home(self) -> Iterator[Finding]:
        if not self.settings.home.is_dir():
            mend = "set MLOPS_HOME to a folder of this pod's or machine's" if self.in_cluster else "'mlops up' makes it"
            yield Finding("home", Outcome.INCONCLUSIVE, f"there is no {self.settings.home}", mend)
            return
        probe = self.settings.home / f".doctor-{uuid4().hex}"
        probe.write_text("")
        probe.unlink()
        free = shutil.disk_usage(self.settings.home).free / 1e9
        at_stake = "the node soon evicts its pods" if self.in_cluster else "the log spools and S3 refuses"
        mend = f"make room: below {ROOM_GB:g} GB {at_stake}"
        yield _judged("disk", free >= ROOM_GB, f"{free:.1f} GB free in {self.settings.home}", mend)
        secret = self.settings.home / credentials.FILE
        if secret.exists():
            mode = stat.S_IMODE(secret.stat().st_mode)
            yield _judged("credentials", mode & 0o077 == 0, f"{secret.name} has mode {mode:o}", f"chmod 600 {secret}")

    def object_store(self) -> Iterator[Finding]:
        """Whether it answers, keeps what is written once, and tells the same time."""
        key = f"tables/doctor/{uuid4().hex}"
        objects = self.platform.objects
        objects.create(key, b"once")
        try:
            (written,) = objects.list(key)
            kept = objects.get(key) == b"once"
            mend = "it does not give back what was written: look at its log"
            yield _judged("object store", kept, without_password(self.settings.s3_url), mend)
            try:
                objects.create(key, b"twice")
                refused = False
            except AlreadyExists:
                refused = True
            mend = "use a store that heeds If-None-Match: releases could be overwritten"
            yield _judged("write once", refused, "a second write was " + ("refused" if refused else "taken"), mend)
            skew = abs(self.platform.clock() - written.modified)
            mend = "set both clocks by NTP"
            yield _judged("clock", skew <= MAX_SKEW, f"{skew.total_seconds():.1f} s from the object store's", mend)
        finally:
            objects.delete(key)

    def policies(self) -> Iterator[Finding]:
        """Whether a policy is changed by whom saw the newest one alone, and whether every policy can be read and served."""
        if isinstance(self.platform.policies, S3PolicyStore):
            heeded = self.platform.policies.swaps()
            mend = "use a store that heeds If-Match: two operators could overwrite each other"
            yield _judged("compare and swap", heeded, "a stale write was " + ("refused" if heeded else "taken"), mend)
        for model in self.platform.policies.models():
            yield from self._releases(model)

    def _releases(self, model: str) -> Iterator[Finding]:
        try:
            policy = self.platform.policies.read(model)
        except MlopsError as error:
            yield _broken(f"policy of {model}", error, "bring an earlier version of the document back")
            return
        wanted = sorted(policy.live_releases(self.platform.clock()))
        there = {info.key for info in self.platform.objects.list(f"models/{model}/")}
        lost = [release for release in wanted if model_key(model, release) not in there]
        told = f"no file of {', '.join(lost)}" if lost else f"the files of {', '.join(wanted) or 'no release'}"
        mend = "bring the files back: such a release does not start again"
        yield _judged(f"policy of {model}", not lost, f"generation {policy.generation}, {told}", mend)

    def databases(self) -> Iterator[Finding]:
        """Of each Postgres that is configured its version, whether tables can be made in it, and its clock."""
        addresses: dict[str, Callable[[], str | None]] = {
            "Dagster": lambda: self.settings.dagster_database,
            "MLflow": lambda: self.settings.mlflow_database,
        }
        any_server = False
        for name, address in addresses.items():
            url = None
            try:
                url = address()
                if url and not url.startswith("sqlite"):
                    any_server = True
                    yield from self._postgres(name, url)
            except Exception as error:  # the other one is looked at
                yield _broken(f"Postgres of {name}", error, f"see that {without_password(url)} runs and lets us in" if url else "")
        if any_server:
            yield self._client()

    def _client(self) -> Finding:
        found = shutil.which("pg_dump")
        if self.in_cluster and not found:  # the platform's image has none
            mend = "run 'mlops backup' from a machine that has Postgres' client, or back the databases up by their own means"
            return Finding("pg_dump", Outcome.INCONCLUSIVE, "not on the path, and 'mlops backup' needs it", mend)
        mend = "install Postgres' client, at least as new as the server: 'mlops backup' needs it"
        return _judged("pg_dump", found is not None, found or "not on the path", mend)

    def _postgres(self, name: str, url: str) -> Iterator[Finding]:
        asked = "SELECT current_setting('server_version'), now(), has_schema_privilege(current_schema(), 'CREATE')"
        ((told, at, permitted),) = PostgresDatabase(name, _impatient(url), ()).ask(asked)
        recent = int(str(told).split(".")[0]) >= LEAST_POSTGRES
        mend = f"run Postgres {LEAST_POSTGRES} or newer"
        yield _judged(f"Postgres of {name}", recent, f"{told} at {without_password(url)}", mend)
        may = "may" if permitted else "may not"
        yield _judged(f"tables of {name}", bool(permitted), f"{may} be made", "grant CREATE on the schema: migrations need it")
        assert isinstance(at, datetime)
        skew = abs(self.platform.clock() - at)
        yield _judged(f"clock of {name}'s Postgres", skew <= MAX_SKEW, f"{skew.total_seconds():.1f} s from ours", "set both clocks by NTP")

    def registry(self) -> Iterator[Finding]:
        url = self.settings.mlflow_url
        ours, theirs = version("mlflow"), _read(f"{url}/version").text
        same = ours.split(".")[:2] == theirs.split(".")[:2]
        yield _judged("MLflow", same, f"{theirs[:80]} at {without_password(url)}, {ours} here", "run the same minor version on both sides")

    def webserver(self) -> Iterator[Finding]:
        """Whether the webserver runs the Dagster that is installed here."""
        ours, url = version("dagster"), self.settings.dagster_url
        try:
            theirs = _fields(f"{url}/server_info", "dagster_version")["dagster_version"]
        except Unavailable as error:
            if not self.in_cluster:
                raise
            got = f"{error}. In a cluster that is no news: a NetworkPolicy lets none but its login reach it"
            yield Finding("Dagster", Outcome.INCONCLUSIVE, got, self._see("Dagster"))
            return
        mend = "restart it after an upgrade: 'mlops down', 'mlops up'"
        if self.in_cluster:
            mend = f"give it the image of this pod: 'make install-kubernetes', then '{self._kubectl} get pods -l {_PODS['Dagster']}'"
        yield _judged("Dagster", ours == theirs, f"{theirs} at {without_password(url)}, {ours} here", mend)

    def daemon(self) -> Iterator[Finding]:
        """Whether each part of the daemon has a heartbeat, which it leaves in Dagster's storage."""
        url, home = self.settings.dagster_database, self.settings.dagster_home
        if url:  # Dagster itself would ask six times, and make the tables that it does not find
            PostgresDatabase("Dagster", _impatient(url), ()).ask("SELECT 1 FROM daemon_heartbeats LIMIT 1")
            silent = _silent_by_url(self.settings)
        elif any(home.rglob("*.db")):
            silent = _silent_daemons(home)
        else:
            if self.in_cluster:
                got = f"its heartbeats are in Dagster's Postgres, which {DAGSTER_DATABASE} does not name here"
                yield Finding("daemon", Outcome.INCONCLUSIVE, got, self._see("daemon"))
            return
        told = f"no heartbeat of {', '.join(silent)}" if silent else "all of it has a heartbeat"
        mend = f"'{self._kubectl} logs -l {_PODS['daemon']}'" if self.in_cluster else "look at daemon.log, 'mlops up'"
        yield _judged("daemon", not silent, told, mend)

    def gateway(self) -> Iterator[Finding]:
        """The Envoy of this machine."""
        told = _fields(f"http://{HOST}:{self.settings.gateway_admin_port}/server_info", "state", "version")
        state = told["state"]
        yield _judged("gateway", state == "LIVE", f"Envoy {told['version'].split('/')[1]} is {state}", "look at envoy.log, 'mlops up'")

    def gateways(self) -> Iterator[Finding]:
        """Those of a cluster: whether all that are ready answer us."""
        names = self.platform.gateway.applied(PROBE)
        yield Finding("gateway", Outcome.PASS, f"{', '.join(sorted(names))} answer")

    def routes(self) -> Iterator[Finding]:
        """Whether every gateway of a cluster follows the newest policy of every model."""
        models, late = self.platform.policies.models(), 0
        for model in models:
            try:
                policy = self.platform.policies.read(model)
            except BadData:  # the look at the policies tells of it
                continue
            applied = self.platform.gateway.applied(model)
            behind = {name: generation for name, generation in applied.items() if generation < policy.generation}
            if not behind:
                continue
            late += 1
            is_new = bool(policy.log) and self.platform.clock() - policy.log[-1].at < FOLLOWED_WITHIN
            told = ", ".join(f"{name} follows {generation if generation >= 0 else 'none'}" for name, generation in sorted(behind.items()))
            mend = f"its log says why: '{self._kubectl} logs -l {_PODS['gateway']} -c sidecar'"
            outcome = Outcome.INCONCLUSIVE if is_new else Outcome.FAIL
            got = f"generation {policy.generation}{' is a moment old' if is_new else ''}, {told}"
            yield Finding(f"routes of {model}", outcome, got, "look again in a moment" if is_new else mend)
        if not late:
            yield Finding("routes", Outcome.PASS, f"every gateway follows the newest policy of {len(models)} models")

    def kubernetes(self) -> Iterator[Finding]:
        """Whether our account may list releases, and make one with all that stands beside it: in a dry run, which changes nothing."""
        namespace, image, what = self.settings.namespace, self.settings.serving_image, "Kubernetes"
        try:
            self.platform.deployments.running(PROBE)
            yield Finding(what, Outcome.PASS, f"releases can be listed in the namespace {namespace}")
            what = "start a release"
            if not image:
                mend = "'make install-kubernetes' with SERVING_IMAGE writes it into the ConfigMap mlops"
                yield Finding(what, Outcome.FAIL, "MLOPS_SERVING_IMAGE is not set", mend)
                return
            target, api = Target(namespace, image, self.settings.s3_url, domain=self.settings.cluster_domain), self.api(namespace)
            offer = api.offer()
            made = api.apply(release_deployment(target, PROBE, "v0", "0" * 64, Serving()), dry_run=True)
            for manifest in release_companions(target, PROBE, "v0", Serving(), offer, made["metadata"]["uid"]):
                api.apply(manifest, dry_run=True)
            yield Finding(what, Outcome.PASS, "a dry run was accepted, of all that a release consists of")
        except MlopsError as error:
            mend = f"'{self._kubectl} describe role mlops-platform' shows what is allowed, 'make install-kubernetes' brings it up to date"
            yield _broken(what, error, mend)

    def online_store(self) -> Iterator[Finding]:
        url = self.settings.online_url
        if url.startswith("sqlite"):
            yield Finding("online store", Outcome.PASS, "a SQLite file, for one machine")
            return
        import redis

        try:
            with redis.Redis.from_url(url, socket_timeout=2) as client:
                told: dict[str, Any] = client.info()
                policy = ""
                with suppress(redis.RedisError):  # managed ones do not tell their configuration
                    policy = str(client.config_get("maxmemory-policy")["maxmemory-policy"])
        except redis.RedisError as error:
            raise Unavailable(f"Redis at {without_password(url)} does not answer: {error}") from error
        evicts = policy not in ("", "noeviction") and int(told.get("maxmemory", 0)) > 0
        got = f"Redis {told['redis_version']} at {without_password(url)}" + (f", maxmemory-policy {policy}" if policy else "")
        mend = "set maxmemory-policy noeviction: what is evicted counts as missing"
        yield _judged("online store", not evicts, got, mend)


def _judged(what: str, well: bool, got: str, mend: str) -> Finding:
    return Finding(what, Outcome.PASS if well else Outcome.FAIL, got, "" if well else mend)


def _broken(what: str, error: Exception, mend: str) -> Finding:
    """What a look ended with. An error that is not ours may say anything, an address with its password too."""
    told = str(error) if isinstance(error, MlopsError) else " ".join(f"{type(error).__name__}: {error}".split())
    return Finding(what, Outcome.FAIL, without_secrets(told), mend)


def _read(url: str) -> Any:
    """What is answered to a GET.

    Raises:
        Unavailable: if nothing good is; without httpx's own words, which have the whole address.
        MlopsError: if that is no address.
    """
    import httpx

    shown = without_password(url)
    try:
        answer = httpx.get(url, timeout=4)
        answer.raise_for_status()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise MlopsError(f"{shown} is no address, expected http://host:port or https://host, user and password percent-encoded") from error
    except httpx.HTTPStatusError as error:
        raise Unavailable(f"{shown} answered {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{shown} does not answer: {type(error).__name__}") from error
    return answer


def _fields(url: str, *names: str) -> dict[str, str]:
    """Fields of a JSON document. Errors as of :func:`_read`; somebody else who answers at this address is :class:`Unavailable` too."""
    answer = _read(url)
    try:
        told = answer.json()
        return {name: str(told[name]) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"{without_password(url)} answered without {' and '.join(names)}: somebody else listens there") from error


def _impatient(url: str) -> str:
    """The address of a Postgres with a limit to how long is waited for a connection: by itself libpq waits as long as the kernel does."""
    from sqlalchemy import make_url

    made = make_url(url)
    options = {"connect_timeout": _CONNECT_SECONDS, **made.query}
    return made.set(query=options).render_as_string(hide_password=False)


def _silent_daemons(home: Path) -> list[str]:
    """The parts of the daemon that must have a heartbeat in the storage of this ``dagster.yaml``, and have none."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(home)) as instance:
        return [kind for kind, status in instance.get_daemon_statuses().items() if status.required and not status.healthy]


def _silent_by_url(settings: Settings) -> list[str]:
    """The same where the environment names the database: an operator's pod has no ``dagster.yaml``."""
    from mlops_assets.dagster_instance import instance_config

    with TemporaryDirectory() as folder:
        (Path(folder) / "dagster.yaml").write_text(instance_config(settings))
        return _silent_daemons(Path(folder))
