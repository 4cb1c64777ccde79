"""Act on a budget that burns: roll the champion back if its model says so, else have a person look."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import dagster as dg

from mlops_assets.adapters.codec import encode
from mlops_assets.assets import keys
from mlops_assets.core.alert import Alert
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.core.remedy import AUTHOR, remedy
from mlops_assets.core.slo import History, judge, pages
from mlops_assets.objectives import look
from mlops_assets.rollout import evidence_key
from mlops_assets.sensors.tick import Tick, ask_for_run, without_figures
from mlops_assets.settings import Settings

UNTIL_TOLD_AGAIN = timedelta(hours=1)
"""An alert of a sensor that does not look any more is over by then; that it does not look is another alert."""


@dataclass(frozen=True)
class Violation:
    """A fast burn of the champion: what was seen, where one looks at it, and what was counted if we did."""

    reason: str
    link: str
    history: History | None = None


def look_at_slo(tick: Tick, spec: ModelSpec) -> None:
    """Roll back a champion that burns its budget fast, by an alert that fires or by what the gateways counted themselves.

    Of models that only page nothing is looked at: their alerts are Prometheus'. While a run of the model's releases is under way
    nothing is decided.
    """
    if spec.slo.on_slo_violation != "rollback" or (spec.name, "release") in tick.busy:
        return
    policy = tick.platform.policies.read(spec.name)
    if policy.champion is None:
        return
    found = _by_alert(tick, spec, policy) or _by_counts(tick, spec, policy)
    if found is None:
        _over(tick, spec)
        return
    chosen = remedy(spec.slo, policy, tick.platform.clock(), tick.platform.pace)
    _tell(tick, spec, f"{found.reason}; {chosen.reason}: {found.link}")
    if chosen.action == "rollback":
        _roll_back(tick, spec, policy, found)
    else:
        _page(tick, spec, policy.champion, f"{found.reason}. It is not rolled back by itself: {chosen.reason}", found.link)


def _by_alert(tick: Tick, spec: ModelSpec, policy: Policy) -> Violation | None:
    """A page for a budget of this very champion."""
    for firing in tick.platform.pager.firing(spec.name):
        alert = firing.alert
        is_page = alert.severity == "page" and alert.cause in ("slo-availability", "slo-latency")
        if is_page and alert.labels.get("release") == policy.champion:
            return Violation(f"the alert {alert.name} fires since {firing.since:%Y-%m-%d %H:%M:%S} UTC: {alert.summary}", alert.link)
    return None


def _by_counts(tick: Tick, spec: ModelSpec, policy: Policy) -> Violation | None:
    assert policy.champion is not None
    history = look(tick.platform, spec, policy)
    burning = pages(spec.slo, judge(spec.slo, history, policy.champion, tick.platform.clock(), tick.platform.pace))
    if not burning:
        return None
    return Violation(burning[0].reason, _where(spec), history)


def _where(spec: ModelSpec) -> str:
    """Where one looks at what was counted: the model's report, and its alerts, which the same counts raise."""
    settings = Settings.from_environment()
    report = f"{settings.dagster_url}/assets/{'/'.join(keys.key(spec, 'slo_report').path)}"
    wanted = quote(f'{{model="{spec.name}"}}')
    return f"{report} (alerts: {settings.alertmanager_url}/#/alerts?filter={wanted} )" if settings.alertmanager_url else report


def _roll_back(tick: Tick, spec: ModelSpec, policy: Policy, found: Violation) -> None:
    intent = f"{spec.name}/{policy.champion}/rollback/{policy.generation}"
    reason = f"{found.reason}: {found.link}"
    config: dict[str, Any] = {"who": AUTHOR, "reason": reason, "expected_generation": policy.generation}
    if found.history is not None:
        data = encode(found.history)
        config["evidence"] = evidence_key(spec.name, data)
        tick.platform.objects.create(config["evidence"], data)
    run_config = {"ops": {f"{spec.slug}__rollback": {"config": config}}}
    ask_for_run(tick, spec, intent, ("rollback", "production"), "release", run_config, policy.champion, for_ever=True)


def _page(tick: Tick, spec: ModelSpec, champion: str, summary: str, link: str) -> None:
    """Told at each look, and to a person once: by its labels the alert is the same."""
    tick.state = {**tick.state, "refused": champion}
    until = tick.platform.clock() + UNTIL_TOLD_AGAIN
    tick.platform.pager.fire([_refused(spec, champion, summary, link)], until)


def _over(tick: Tick, spec: ModelSpec) -> None:
    if champion := tick.state.get("refused"):
        tick.platform.pager.resolve([_refused(spec, champion)])
    if "burning" in tick.state:
        tick.events.append(_slo_check(spec, True, "no budget burns fast any more"))
    tick.state = {}


def _refused(spec: ModelSpec, champion: str, summary: str = "", link: str = "") -> Alert:
    runbook = f"{Settings.from_environment().runbooks_url}#rollback-refused"
    return Alert("RollbackRefused", spec.name, "rollback-refused", "page", summary, link, runbook, {"release": champion})


def _tell(tick: Tick, spec: ModelSpec, description: str) -> None:
    """The check says what is going on, once for each thing that does."""
    known = without_figures(description)
    if tick.state.get("burning") != known:
        tick.state = {**tick.state, "burning": known}
        tick.events.append(_slo_check(spec, False, description))


def _slo_check(spec: ModelSpec, passed: bool, description: str) -> dg.AssetCheckEvaluation:
    outcome = {"outcome": "pass" if passed else "fail"}
    key = keys.key(spec, "slo_report")
    return dg.AssetCheckEvaluation(asset_key=key, check_name="slo", passed=passed, metadata=outcome, description=description)
