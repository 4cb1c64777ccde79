"""Exporter, Prometheus and Alertmanager as services of the local stack, for who asks for them (``MLOPS_MONITORING=1``)."""

import importlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from string import Template
from typing import Any

import yaml

from mlops_assets import alert_rules
from mlops_assets.adapters.envoy_config import SCRAPED
from mlops_assets.adapters.processes import TARGETS
from mlops_assets.adapters.supervisor import Program
from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.settings import HOST, Settings

EXPORTER, PROMETHEUS, ALERTMANAGER = "exporter", "prometheus", "alertmanager"
BINARIES = {PROMETHEUS: "prometheus", ALERTMANAGER: "prometheus-alertmanager"}
"""As Debian calls them."""

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
RETENTION = "35d"
_GROUP_WAIT, _GROUP_INTERVAL, _LEAST = timedelta(seconds=30), timedelta(minutes=5), timedelta(seconds=1)


def selected(settings: Settings) -> tuple[str, ...]:
    """The services of the monitoring that are asked for."""
    return (EXPORTER, PROMETHEUS, ALERTMANAGER) if settings.is_monitored else ()


def programs(settings: Settings, definitions: str) -> Mapping[str, Sequence[str]]:
    """How each is started."""
    home = _home(settings)
    return {
        EXPORTER: (sys.executable, "-m", "mlops_assets.exporter", "--port", str(settings.exporter_port), "--module-name", definitions),
        PROMETHEUS: (
            BINARIES[PROMETHEUS],
            f"--config.file={home / 'prometheus.yml'}",
            f"--storage.tsdb.path={home / 'prometheus'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={HOST}:{settings.prometheus_port}",
            f"--web.external-url={prometheus_url(settings)}",
            "--web.enable-lifecycle",
            "--log.level=warn",
        ),
        ALERTMANAGER: (
            BINARIES[ALERTMANAGER],
            f"--config.file={home / 'alertmanager.yml'}",
            f"--storage.path={home / 'alertmanager'}",
            f"--web.listen-address={HOST}:{settings.alertmanager_port}",
            f"--web.external-url=http://{HOST}:{settings.alertmanager_port}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ),
    }


def prometheus_url(settings: Settings) -> str:
    return f"http://{HOST}:{settings.prometheus_port}"


def write_files(settings: Settings, definitions: str) -> None:
    """The files that the three read when they start; the rules of all models among them.

    Raises:
        MlopsError: if one of the programs is not there.
    """
    home, missing = _home(settings), [binary for binary in BINARIES.values() if shutil.which(binary) is None]
    if missing:
        told = f"{', '.join(missing)} is not there: run 'bash deploy/monitoring_tools.sh', or unset MLOPS_MONITORING"
        raise MlopsError(f"MLOPS_MONITORING=1 asks for Prometheus and Alertmanager, and {told}")
    for folder in (home, settings.home / TARGETS, home / "prometheus", home / "alertmanager"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / "prometheus.yml").write_text(prometheus_config(settings))
    key = _routing_key(home)
    replace_file(
        home / "alertmanager.yml",
        alertmanager_config(settings.pace, key, os.environ.get("MLOPS_PAGERDUTY_URL", PAGERDUTY_URL)),
        private=True,
    )
    write_rules(settings.rules_folder, settings, importlib.import_module(definitions).load_specs())


def write_rules(folder: Path, settings: Settings, specs: Sequence[ModelSpec]) -> Sequence[Path]:
    """The rules of these models, as a Prometheus of this stack reads them."""
    return alert_rules.write(folder, specs, alert_rules.Rules(settings.runbooks_url, settings.pace))


def prometheus_config(settings: Settings) -> str:
    """``deploy/prometheus/prometheus.yml`` with this stack's addresses."""
    interval = max(round(alert_rules.scrape_interval(settings.pace).total_seconds()), 1)
    return Template((DEPLOY / "prometheus" / "prometheus.yml").read_text()).substitute(
        interval=f"{interval}s",
        rules=settings.rules_folder,
        targets=settings.home / TARGETS,
        scraped=SCRAPED,
        gateway=f"{HOST}:{settings.gateway_admin_port}",
        exporter=f"{HOST}:{settings.exporter_port}",
        prometheus=f"{HOST}:{settings.prometheus_port}",
        alertmanager=f"{HOST}:{settings.alertmanager_port}",
    )


def alertmanager_config(pace: float, routing_key_file: Path | None, pagerduty_url: str) -> str:
    """``deploy/alertmanager/alertmanager.yml`` with PagerDuty if there is a routing key; the key itself stays in its file."""
    text = Template((DEPLOY / "alertmanager" / "alertmanager.yml").read_text()).substitute(
        pagerduty_url=pagerduty_url,
        routing_key_file=routing_key_file or "none",
        group_wait=_at_pace(_GROUP_WAIT, pace),
        group_interval=_at_pace(_GROUP_INTERVAL, pace),
    )
    document: dict[str, Any] = yaml.safe_load(text)
    if routing_key_file is None:
        document["receivers"] = [{"name": receiver["name"]} for receiver in document["receivers"]]
    return yaml.safe_dump(document, sort_keys=False)


def _routing_key(home: Path) -> Path | None:
    """The file that holds PagerDuty's routing key: the one that ``MLOPS_PAGERDUTY_KEY_FILE`` names, or one for what
    ``MLOPS_PAGERDUTY_KEY`` holds; None without either."""
    if file := os.environ.get("MLOPS_PAGERDUTY_KEY_FILE"):
        return Path(file).resolve()
    if key := os.environ.get("MLOPS_PAGERDUTY_KEY"):
        replace_file(home / "pagerduty.key", key, private=True)
        return home / "pagerduty.key"
    return None


def _at_pace(declared: timedelta, pace: float) -> str:
    return f"{max(declared / pace, _LEAST) // timedelta(milliseconds=1)}ms"


def _home(settings: Settings) -> Path:
    return settings.home / "monitoring"


def program(settings: Settings, name: str, definitions: str) -> Program:
    """One of the three as supervisord keeps it."""
    directory = Path(__file__).resolve().parent.parent if name == EXPORTER else None
    return Program(
        name,
        programs(settings, definitions)[name],
        settings.home / "logs" / f"{name}.log",
        retries=5,
        stop_wait=15,
        autostart=False,
        directory=directory,
    )
