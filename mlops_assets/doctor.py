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
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from mlops_assets import credentials
from mlops_assets.adapters.databases import PostgresDatabase
from mlops_assets.adapters.s3 import S3PolicyStore
from mlops_assets.core.errors import AlreadyExists, MlopsError, Unavailable
from mlops_assets.core.verdict import Outcome
from mlops_assets.ports import Platform, model_key
from mlops_assets.settings import HOST, Settings, without_password

ROOM_GB = 2.0
"""Free space below which SeaweedFS and the prediction log soon take nothing more."""

LEAST_POSTGRES = 14
"""Older ones are mended no more."""

MAX_SKEW = timedelta(seconds=5)
"""Between this clock and the object store's: canary steps, cooldowns and the names of logged files are made of times."""

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
        table.add_row(finding.what, f"[{_COLOURS[finding.outcome]}]{finding.outcome}[/]", finding.got, finding.mend)
    (console or Console()).print(table)
    return all(finding.outcome is not Outcome.FAIL for finding in found)


@dataclass(frozen=True)
class Doctor:
    """Looks at everything, whatever else is broken.

    Args:
        settings: where things are.
        connect: makes the platform, which takes a stack that was up once.
    """

    settings: Settings
    connect: Callable[[], Platform]

    @cached_property
    def platform(self) -> Platform:
        return self.connect()

    def examine(self) -> list[Finding]:
        looks: dict[str, Callable[[], Iterator[Finding]]] = {
            "packages": self.packages,
            "home": self.home,
            "object store": self.object_store,
            "policies": self.policies,
            "databases": self.databases,
            "MLflow": self.registry,
            "Dagster": self.orchestrator,
            "gateway": self.gateway,
            "online store": self.online_store,
        }
        found: list[Finding] = []
        for name, look in looks.items():
            try:
                found += look()
            except (MlopsError, OSError) as error:
                found.append(Finding(name, Outcome.FAIL, str(error), "see that it runs: 'mlops status'"))
        return found

    def packages(self) -> Iterator[Finding]:
        from packaging.requirements import Requirement

        python = ".".join(map(str, sys.version_info[:3]))
        yield _judged("Python", sys.version_info[:2] == (3, 11), python, "install Python 3.11, then 'make install'")
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
        yield _judged("packages", not wrong, "; ".join(wrong) or "as pyproject.toml says", "make install")

    def home(self) -> Iterator[Finding]:
        if not self.settings.home.is_dir():
            yield Finding("home", Outcome.INCONCLUSIVE, f"there is no {self.settings.home}", "'mlops up' makes it")
            return
        probe = self.settings.home / f".doctor-{uuid4().hex}"
        probe.write_text("")
        probe.unlink()
        free = shutil.disk_usage(self.settings.home).free / 1e9
        mend = f"make room: below {ROOM_GB:g} GB the log spools and S3 refuses"
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
            yield _judged("object store", kept, self.settings.s3_url, "it does not give back what was written: look at its log")
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
            yield Finding(f"policy of {model}", Outcome.FAIL, str(error), "bring an earlier version of the document back")
            return
        wanted = sorted(policy.live_releases(self.platform.clock()))
        there = {info.key for info in self.platform.objects.list(f"models/{model}/")}
        lost = [release for release in wanted if model_key(model, release) not in there]
        told = f"no file of {', '.join(lost)}" if lost else f"the files of {', '.join(wanted) or 'no release'}"
        mend = "bring the files back: such a release does not start again"
        yield _judged(f"policy of {model}", not lost, f"generation {policy.generation}, {told}", mend)

    def databases(self) -> Iterator[Finding]:
        """Of each Postgres that is configured its version, whether tables can be made in it, and its clock."""
        urls = {"Dagster": self.settings.dagster_database, "MLflow": self.settings.mlflow_database}
        servers = {name: url for name, url in urls.items() if url and not url.startswith("sqlite")}
        for name, url in servers.items():
            try:
                yield from self._postgres(name, url)
            except MlopsError as error:
                yield Finding(f"Postgres of {name}", Outcome.FAIL, str(error), f"see that {without_password(url)} runs and lets us in")
        if servers:
            found = shutil.which("pg_dump")
            mend = "install Postgres' client, at least as new as the server: 'mlops backup' needs it"
            yield _judged("pg_dump", found is not None, found or "not on the path", mend)

    def _postgres(self, name: str, url: str) -> Iterator[Finding]:
        asked = "SELECT current_setting('server_version'), now(), has_schema_privilege(current_schema(), 'CREATE')"
        ((told, at, permitted),) = PostgresDatabase(name, url, ()).ask(asked)
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
        yield _judged("MLflow", same, f"{theirs} at {_shown(url)}, {ours} here", "run the same minor version on both sides")

    def orchestrator(self) -> Iterator[Finding]:
        ours, theirs = version("dagster"), str(_read(f"{self.settings.dagster_url}/server_info").json()["dagster_version"])
        mend = "restart it after an upgrade: 'mlops down', 'mlops up'"
        yield _judged("Dagster", ours == theirs, f"{theirs} at {self.settings.dagster_url}, {ours} here", mend)
        from dagster import DagsterInstance

        if not (self.settings.dagster_home / "dagster.yaml").exists():
            return
        with DagsterInstance.from_config(str(self.settings.dagster_home)) as instance:
            silent = [kind for kind, status in instance.get_daemon_statuses().items() if status.required and not status.healthy]
        told = f"no heartbeat of {', '.join(silent)}" if silent else "all of it has a heartbeat"
        yield _judged("daemon", not silent, told, "look at daemon.log, 'mlops up'")

    def gateway(self) -> Iterator[Finding]:
        told = _read(f"http://{HOST}:{self.settings.gateway_admin_port}/server_info").json()
        state = str(told["state"])
        yield _judged("gateway", state == "LIVE", f"Envoy {str(told['version']).split('/')[1]} is {state}", "look at envoy.log, 'mlops up'")

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
            raise Unavailable(f"Redis at {_shown(url)} does not answer: {error}") from error
        evicts = policy not in ("", "noeviction") and int(told.get("maxmemory", 0)) > 0
        got = f"Redis {told['redis_version']} at {_shown(url)}" + (f", maxmemory-policy {policy}" if policy else "")
        mend = "set maxmemory-policy noeviction: what is evicted counts as missing"
        yield _judged("online store", not evicts, got, mend)


def _judged(what: str, well: bool, got: str, mend: str) -> Finding:
    return Finding(what, Outcome.PASS if well else Outcome.FAIL, got, "" if well else mend)


def _read(url: str) -> Any:
    import httpx

    try:
        answer = httpx.get(url, timeout=4)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise Unavailable(f"{_shown(url)} does not answer: {error}") from error
    return answer


def _shown(url: str) -> str:
    """An address without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
