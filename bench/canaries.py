"""A fleet in mid-canary on the in-memory adapters: each model with a champion, and a challenger that has 5 % of the units."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mlops_assets.adapters.memory_gateway import MemoryGateway
from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core import policy_changes
from mlops_assets.core.canary_spec import Guardrails
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy
from mlops_assets.ports import Platform, TrainingRun
from mlops_assets.reconcile import reconcile
from mlops_assets.rollout import GATE_TAG

CHAMPION, CHALLENGER = "v1", "v2"
STEP = 1
"""Index of the step at which the challengers are: ``canary-5`` of flight-delay's plan."""

REQUESTS = 1000
"""How many :func:`traffic` has; about 50 of them are the challenger's."""

MIN_REQUESTS = 20
"""What a step waits for here instead of the plan's hundreds, so that a thousand models need not be sent a million requests."""

GUARDRAILS = Guardrails(max_error_rate=0.4, max_error_increase=0.4, latency_quantile=0.6, max_score_shift=0.6)
"""So wide that so few requests can show that nothing is beyond."""

DIGESTS = {CHAMPION: "1" * 64, CHALLENGER: "2" * 64}
_AUTHOR = Author("bench", "a fleet in canary")


def fleet(count: int) -> list[ModelSpec]:
    """``count`` models like flight-delay under other names: model-0000, model-0001, ..."""
    import mlops_assets.defs

    path = Path(mlops_assets.defs.__path__[0]) / "flight_delay" / "defs.yaml"
    like = build(ModelSpec, ModelAttributes.model_validate(yaml.safe_load(path.read_text())["attributes"]))
    steps = tuple(replace(step, min_requests=MIN_REQUESTS) for step in like.canary.steps)
    canary = replace(like.canary, steps=steps, guardrails=GUARDRAILS)
    return [replace(like, name=f"model-{number:04}", canary=canary) for number in range(count)]


def start_release(model: str, release: str, digest: str):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """A model whose score is its first feature."""
    return lambda matrix: matrix[:, 0]


def put_in_canary(platform: Platform, spec: ModelSpec) -> Policy:
    """Register two releases, write the policy in which the second has reached canary-5, and make the world so."""
    for release, digest in DIGESTS.items():
        run_id = platform.registry.log_run(TrainingRun(spec.name, release, {}, {}, {}), {})
        platform.registry.register(spec.name, run_id, digest, {GATE_TAG: "pass"})
    policy = in_canary(spec, platform.clock())
    platform.policies.write(policy, 0)
    return reconcile(platform, spec.name, spec.serving)


def in_canary(spec: ModelSpec, now: datetime) -> Policy:
    """The policy of a model whose challenger has entered canary-5, by the ten changes that lead there."""
    policy = Policy(spec.name)
    for release, digest in DIGESTS.items():
        policy = policy_changes.register(policy, release, digest, _AUTHOR, now)
        policy = policy_changes.stage(policy, release, _AUTHOR, now)
        policy = policy_changes.accept(policy, release, _AUTHOR, now)
        policy = policy_changes.begin(policy, release, spec.canary.steps[0], _AUTHOR, now)
        if release == CHAMPION:
            policy = policy_changes.promote(policy, _AUTHOR, now, timedelta())
    return policy_changes.advance(policy, STEP, spec.canary.steps[STEP], _AUTHOR, now)


def traffic(now: datetime) -> pd.DataFrame:
    """The requests that each model of the fleet is sent."""
    ids = [f"r{number:04}" for number in range(REQUESTS)]
    return pd.DataFrame({"request_id": ids, "unit": ids, "event_time": now, "risk": np.linspace(0.01, 0.99, REQUESTS)})


def send(gateway: MemoryGateway, specs: Sequence[ModelSpec], now: datetime) -> None:
    """Send each model its traffic."""
    rows = traffic(now)
    for spec in specs:
        gateway.send(spec.name, rows)


def aborted(policy: Policy, now: datetime) -> Policy:
    """The policy after its canary was given up."""
    return policy_changes.abort(policy, _AUTHOR, now)
