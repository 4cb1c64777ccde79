"""One look at one model, and the runs that it asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dagster as dg
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG

from mlops_assets.assets import keys
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

MODEL_TAG, STAGE_TAG, INTENT_TAG = "mlops/model", "mlops/stage", "mlops/intent"
TRIGGER_TAG, CAUSE_TAG = "mlops/trigger", "mlops/cause"
"""What made somebody ask for a run, and where a person finds it."""
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
"""Of runs that have not ended."""

TRIES = 3
"""How often a run for the same intent may fail before a person has to look."""

MOST_RUNS = 3 * TRIES
"""How many runs an intent gets at most. One that was killed has not failed; nor does one seem to that brings down its machine."""

RETRY_SECONDS = 10.0
"""The wait before a second try; it doubles with each further one ..."""

LONGEST_RETRY_SECONDS = 3600.0
"""... up to this."""


@dataclass
class Tick:
    """What one look at one model may use, and what it asks for."""

    instance: dg.DagsterInstance
    platform: Platform
    busy: frozenset[tuple[str, str]]
    state: dict[str, Any]
    requests: list[dg.RunRequest] = field(default_factory=list)
    events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = field(default_factory=list)


def ask_for_run(
    tick: Tick,
    spec: ModelSpec,
    intent: str,
    nouns: Sequence[str],
    stage: str,
    config: dict[str, Any],
    partition: str | None,
    for_ever: bool = False,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Ask for a run for an intent, unless that was tried often enough and is not to be tried ``for_ever``, or not long enough ago.

    The try is in the run key, which counts for ever.
    """
    past = runs_of(tick.instance, intent)
    if not for_ever and is_given_up(past):
        return
    if past and tick.platform.clock() < past[0].create_timestamp + timedelta(
        seconds=min(RETRY_SECONDS * 2 ** (len(past) - 1), LONGEST_RETRY_SECONDS)
    ):
        return
    run = dg.RunRequest(
        run_key=f"{intent}/{len(past)}",
        run_config=config,
        partition_key=partition,
        asset_selection=[keys.key(spec, noun) for noun in nouns],
        tags={MODEL_TAG: spec.name, STAGE_TAG: stage, INTENT_TAG: intent, **(tags or {})},
    )
    tick.requests.append(run)


def runs_of(instance: dg.DagsterInstance, intent: str) -> Sequence[dg.RunRecord]:
    """The runs that were started for an intent, newest first."""
    return instance.get_run_records(dg.RunsFilter(tags={INTENT_TAG: intent}))


def is_given_up(past: Sequence[dg.RunRecord]) -> bool:
    """Whether an intent was tried often enough: ``TRIES`` of its runs failed, or there were ``MOST_RUNS``."""
    return sum(not _was_killed(record.dagster_run) for record in past) >= TRIES or len(past) >= MOST_RUNS


def _was_killed(run: dg.DagsterRun) -> bool:
    """Whether a run's process was ended from outside, by which nothing is said about the work."""
    reason = run.tags.get(RUN_FAILURE_REASON_TAG)
    return run.status is dg.DagsterRunStatus.FAILURE and reason in (None, RunFailureReason.UNEXPECTED_TERMINATION.value)


def without_figures(text: str) -> str:
    """A text by which the same trouble is known again, however much of it there is."""
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in text.split())
