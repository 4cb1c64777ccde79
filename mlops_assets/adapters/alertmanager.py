"""Alertmanager as the :class:`~mlops_assets.ports.Pager`, by its API v2."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import quote, urlsplit

from mlops_assets.adapters.plain_http import NoAnswer, ask
from mlops_assets.core.alert import Alert, Cause, Firing
from mlops_assets.core.errors import Unavailable
from mlops_assets.ports import Clock

_ACTIVE = "/api/v2/alerts?active=true&silenced=false&inhibited=true&filter=" + quote('cause=~".+"')
_OURS = ("alertname", "model", "cause", "severity")
_REMEMBERED_SECONDS = 2.0


class AlertmanagerPager:
    """The Alertmanager at ``url`` (``http://host:port``).

    It forgets alerts when it is restarted, as it expects of Prometheus to tell it again and again; so must others who fire.

    Every method raises :class:`Unavailable` if it does not answer within ``timeout`` seconds, or refuses.
    """

    def __init__(self, url: str, clock: Clock = lambda: datetime.now(UTC), timeout: float = 5.0) -> None:
        self._url, self._clock, self._timeout = url, clock, timeout
        self._known: tuple[float, Sequence[Firing]] = (-_REMEMBERED_SECONDS, ())

    def fire(self, alerts: Sequence[Alert], until: datetime) -> None:
        if alerts:
            self._post([_document(alert, self._clock(), until) for alert in alerts])

    def resolve(self, alerts: Sequence[Alert]) -> None:
        if alerts:
            now = self._clock()
            self._post([_document(alert, now, now) for alert in alerts])

    def firing(self, model: str) -> Sequence[Firing]:
        """Asked for all models at once and remembered for a moment: a look at a thousand models is one question."""
        read_at, known = self._known
        if time.monotonic() - read_at >= _REMEMBERED_SECONDS:
            known = [firing for each in self._call("GET", _ACTIVE) if (firing := _firing(each)) is not None]
            self._known = (time.monotonic(), known)
        return [firing for firing in known if firing.alert.model == model]

    def _post(self, documents: list[Mapping[str, Any]]) -> None:
        self._call("POST", "/api/v2/alerts", json.dumps(documents))
        self._known = (-_REMEMBERED_SECONDS, ())

    def _call(self, method: str, path: str, body: str | None = None) -> Any:
        parts = urlsplit(self._url)
        headers = {"content-type": "application/json"}
        try:
            answer = ask(parts.netloc, method, parts.path.rstrip("/") + path, self._timeout, body, headers)
        except NoAnswer as error:
            message = f"Alertmanager at {self._url} does not answer ({error}): start it, or unset MLOPS_ALERTMANAGER_URL"
            raise Unavailable(message) from error
        if answer.status != 200:
            got = f"{answer.status} {answer.beginning(300)}"
            raise Unavailable(f"Alertmanager at {self._url} answered {method} {path.partition('?')[0]} with {got}, expected 200")
        return json.loads(answer.body) if method == "GET" else None


def _document(alert: Alert, now: datetime, ends: datetime) -> Mapping[str, Any]:
    """Of an alert that it knows Alertmanager keeps the earlier beginning; without any it would take the end for the beginning."""
    told = {"summary": alert.summary, "runbook_url": alert.runbook}
    document = {
        "labels": dict(alert.identity),
        "annotations": {name: value for name, value in told.items() if value},
        "startsAt": now.astimezone(UTC).isoformat(),
        "endsAt": ends.astimezone(UTC).isoformat(),
    }
    return document | ({"generatorURL": alert.link} if alert.link else {})


def _firing(document: Mapping[str, Any]) -> Firing | None:
    """An alert of ours; None for one of somebody else who uses the same Alertmanager."""
    labels, told = document["labels"], document["annotations"]
    if not set(_OURS) <= set(labels) or labels["cause"] not in get_args(Cause) or labels["severity"] not in ("page", "ticket"):
        return None
    others = {name: value for name, value in labels.items() if name not in _OURS}
    summary, runbook = told.get("summary", ""), told.get("runbook_url", "")
    name, model, cause, severity = (labels[each] for each in _OURS)
    alert = Alert(name, model, cause, severity, summary, document.get("generatorURL", ""), runbook, others)
    return Firing(alert, datetime.fromisoformat(document["startsAt"]))
