"""The night shift: five sensors, each for all models at once.

``new_data`` ingests what landed, ``retrain`` trains on new data or drift, ``release`` takes a release through its stages,
``drift`` has reports made, and ``reconcile`` repairs whatever is not as the policies say. Each is a loop over models around one small
function; a model that raises is logged and does not stop the others.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from mlops_assets.adapters import landing, tables
from mlops_assets.assets import keys
from mlops_assets.assets.data import data_time, partition_ranges
from mlops_assets.core import policy as policies
from mlops_assets.core.canary import Move
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy, newest_ahead, next_waiting, release_number
from mlops_assets.ports import Platform
from mlops_assets.reconcile import reconcile
from mlops_assets.records import write_missing
from mlops_assets.rollout import change, decide_now, keep_hold
from mlops_assets.schedules import TRAINING_NOUNS

MODEL_TAG, STAGE_TAG, INTENT_TAG = "mlops/model", "mlops/stage", "mlops/intent"
TRIES = 3
"""How often a run for the same intent is started before a person has to look."""

RETRY_SECONDS = 10.0
"""The wait before a second try; it doubles with each further one ..."""

LONGEST_RETRY_SECONDS = 3600.0
"""... up to this."""

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_EDGE = timedelta(seconds=60)
QUIET = timedelta(seconds=3)
"""Files that are still landing are waited for, so that a batch is one run ..."""

LONGEST_WAIT = timedelta(seconds=60)
"""... but not for ever, where something always lands."""


@dataclass
class Tick:
    """What one look at one model may use, and what it asks for."""

    instance: dg.DagsterInstance
    platform: Platform
    busy: frozenset[tuple[str, str]]
    state: dict[str, Any]
    requests: list[dg.RunRequest] = field(default_factory=list)
    events: list[dg.AssetObservation | dg.AssetCheckEvaluation] = field(default_factory=list)


Look = Callable[[Tick, ModelSpec], None]


def build_sensors(specs: Sequence[ModelSpec], interval_seconds: int = 30) -> list[dg.SensorDefinition]:
    """The five sensors over these models."""
    looks: dict[str, tuple[Look, str]] = {
        "new_data": (look_for_new_data, "Ingests the days whose files are new, late or rewritten."),
        "retrain": (look_for_training, "Trains the first release, and again on new data or drift."),
        "release": (look_at_release, "Evaluates and stages a new release, then takes it step by step through its canary."),
        "drift": (look_at_drift, "Has a drift report made while there is traffic."),
        "reconcile": (look_at_world, "Repairs what is not as the policies say, and records what happened outside of runs."),
    }
    return [_shared_sensor(name, look, text, specs, interval_seconds) for name, (look, text) in looks.items()]


def _shared_sensor(name: str, look: Look, description: str, specs: Sequence[ModelSpec], interval_seconds: int) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        description=description,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def shared(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
        return look_at_all(context, platform, specs, look)

    return shared


def look_at_all(context: dg.SensorEvaluationContext, platform: Platform, specs: Sequence[ModelSpec], look: Look) -> dg.SensorResult:
    """Look at each model; what one model's trouble is stays with it."""
    states: dict[str, dict[str, Any]] = json.loads(context.cursor) if context.cursor else {}
    busy = in_flight(context.instance)
    requests, events = [], []
    for spec in specs:
        tick = Tick(context.instance, platform, busy, states.get(spec.name, {}))
        try:
            look(tick, spec)
        except MlopsError as error:
            context.log.error(f"{spec.name}: {error}")
        requests += tick.requests
        events += tick.events
        if tick.state:
            states[spec.name] = tick.state
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=json.dumps(states))


def in_flight(instance: dg.DagsterInstance) -> frozenset[tuple[str, str]]:
    """Model and stage of every run of ours that has not ended."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return frozenset((run.tags[MODEL_TAG], run.tags.get(STAGE_TAG, "")) for run in runs if MODEL_TAG in run.tags)


def look_for_new_data(tick: Tick, spec: ModelSpec) -> None:
    """Ingest what is new, and have the online store follow when that is done and nothing else of the model is under way.

    It waits for a while, since a training that the same data gives reason to goes first: both would wait for the same feature store.
    """
    _ingest(tick, spec)
    newest, due = tick.state.get("online", (None, None))
    is_busy = tick.requests or any(model == spec.name for model, _ in tick.busy)
    if newest is None or is_busy or tick.platform.clock() < datetime.fromisoformat(due):
        return
    intent = f"{spec.name}/online/{newest}"
    past = _runs_of(tick.instance, intent)
    if past and past[0].dagster_run.is_success:
        tick.state = {name: value for name, value in tick.state.items() if name != "online"}
        return
    request = _request(tick, spec, intent, ("online_features",), "online", {}, None, None)
    tick.requests += [request] if request else []


def _ingest(tick: Tick, spec: ModelSpec) -> None:
    """Ask for one run a contiguous range of days with changed files. Newest times are remembered, not every file."""
    asked = _ask_again(tick, spec) if (spec.name, "ingest") not in tick.busy else tick.state.get("asked", [])
    found = tick.platform.objects.list(landing.prefix(spec.name))
    newest = max((info.modified for info in found), default=None)
    tick.state = {**tick.state, "asked": asked}
    if newest is None or (timedelta(0) <= tick.platform.clock() - newest < QUIET and _waited_less(tick, LONGEST_WAIT)):
        return
    since = datetime.fromisoformat(tick.state["since"]) if "since" in tick.state else None
    seen = set(tick.state.get("edge", []))
    fresh = [info for info in found if (since is None or info.modified >= since - _EDGE) and _identity(info.key, info.etag) not in seen]
    days = {date.fromisoformat(part) for info in fresh if (part := _day_part(info.key)) and _in_range(spec, part)}
    pending = set(tick.state.get("pending", [])) | {day.isoformat() for day in days}
    edge = [_identity(info.key, info.etag) for info in found if info.modified >= newest - _EDGE]
    kept = {"online": tick.state["online"]} if "online" in tick.state else {}
    tick.state = {"since": newest.isoformat(), "edge": edge, "pending": sorted(pending), "asked": asked, **kept}
    if pending and (spec.name, "ingest") not in tick.busy and not tick.requests:
        ranges = partition_ranges([date.fromisoformat(day) for day in pending])
        tick.state["asked"] = asked + [[start.isoformat(), end.isoformat(), newest.isoformat()] for start, end in ranges]
        tick.state["pending"] = []
        _ask_again(tick, spec)


def _ask_again(tick: Tick, spec: ModelSpec) -> list[list[str]]:
    """Ask for the runs that have not succeeded yet, ever more seldom and without end: nothing that landed is forgotten.

    What has succeeded is due for the online store. Returns what is still to succeed; each is the first and the last of its days, and the
    time of the newest file when it was asked for.
    """
    open_ = []
    for start, end, newest in tick.state.get("asked", []):
        intent = f"{spec.name}/ingest/{start}/{end}/{newest}"
        past = _runs_of(tick.instance, intent)
        if past and past[0].dagster_run.is_success:
            tick.state["online"] = [newest, (tick.platform.clock() + LONGEST_WAIT).isoformat()]
            continue
        open_.append([start, end, newest])
        days = {"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end}
        request = _request(tick, spec, intent, (*spec.data.datasets, "features"), "ingest", {}, None, None, days)
        tick.requests += [request] if request else []
    return open_


def look_for_training(tick: Tick, spec: ModelSpec) -> None:
    """Ask for a training when there is reason to, none is under way, and no release is still on its way."""
    policy = tick.platform.policies.read(spec.name)
    if (spec.name, "train") in tick.busy or (spec.name, "ingest") in tick.busy or policy.challenger or policy.candidates:
        return
    if _retried_training(tick, spec):
        return
    days = tables.days(tick.platform.objects, spec.name, "events")
    if not days:
        return
    as_of = data_time(tick.platform, spec)
    trained = last_training(tick.instance, spec)
    if trained is None:
        if days[-1] - days[0] + timedelta(days=1) >= spec.holdout.window + spec.label.horizon + spec.retrain.first_after:
            _request_training(tick, spec, as_of, "new_data", spec.retrain.after_days_gate)
    elif as_of <= trained:
        return
    elif has_drifted(tick, spec):
        _request_training(tick, spec, as_of, "drift", spec.retrain.on_drift_gate)
    elif spec.retrain.after_days is not None and as_of - trained >= timedelta(days=spec.retrain.after_days):
        _request_training(tick, spec, as_of, "new_data", spec.retrain.after_days_gate)


def look_at_release(tick: Tick, spec: ModelSpec) -> None:
    """One move of the model's releases: the canary's first, else the next in line, else what is newly registered."""
    if (spec.name, "release") in tick.busy:
        return
    policy = refuse_overtaken(tick.platform, tick.platform.policies.read(spec.name))
    if policy.challenger is not None:
        _move_challenger(tick, spec, policy)
    elif (waiting := next_waiting(policy)) is not None:
        reason = "passed its smoke test, and no other release is in canary"
        _request_action(tick, spec, policy, "canary", waiting, f"{waiting} {reason}", ("canary",))
    registered = [c.release for c in policy.candidates if c.state in ("registered", "staging")]
    if registered and not tick.requests:
        newest = max(registered, key=release_number)
        if not _request_evaluation(tick, spec, newest):
            author = Author("release sensor", f"its evaluation or staging run failed {TRIES} times: look at the run's log")
            change(tick.platform, spec.name, lambda p: policies.refuse(p, newest, author, tick.platform.clock()))


def look_at_drift(tick: Tick, spec: ModelSpec) -> None:
    """Ask for a drift report when the champion answered requests since the last one, and that is old enough."""
    policy = tick.platform.policies.read(spec.name)
    if policy.champion is None or (spec.name, "drift") in tick.busy:
        return
    now = tick.platform.clock()
    if now < datetime.fromisoformat(tick.state.get("due", now.isoformat())):
        return
    answered = {
        s.gateway: [s.epoch, s.traffic[policy.champion].requests]
        for s in tick.platform.gateway.sample(spec.name)
        if policy.champion in s.traffic
    }
    if not any(requests for _, requests in answered.values()) or answered == tick.state.get("answered"):
        return
    tick.state = {"due": (now + spec.drift.every / tick.platform.pace).isoformat(), "answered": answered}
    tick.requests.append(dg.RunRequest(asset_selection=[keys.key(spec, "drift_report")], tags={MODEL_TAG: spec.name, STAGE_TAG: "drift"}))


def look_at_world(tick: Tick, spec: ModelSpec) -> None:
    """Reconcile, and record what no run recorded. Left alone while a run of the model's releases is at it.

    What keeps the world from being as the policy says fails ``serves_champion``, and passes it when it is over.
    """
    if (spec.name, "release") in tick.busy:
        return
    recorded, shown, trouble = (tick.state.get(name) for name in ("recorded", "shown", "trouble"))
    try:
        policy = tick.platform.policies.read(spec.name)
        if policy.generation == 0:
            return
        recorded = write_missing(tick.instance, spec, policy, recorded or 0)
        shown = reconcile(tick.platform, spec.name, spec.serving, shown or 0).generation
    except MlopsError as error:
        tick.state = {"recorded": recorded, "shown": shown, "trouble": _without_figures(str(error))}
        if tick.state["trouble"] != trouble:
            tick.events.append(_serves_champion(spec, False, str(error)))
        raise
    tick.state = {"recorded": recorded, "shown": shown}
    if trouble:
        tick.events.append(_serves_champion(spec, True, policies.describe(policy)))


def _serves_champion(spec: ModelSpec, passed: bool, description: str) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=keys.key(spec, "production"), check_name="serves_champion", passed=passed, metadata={}, description=description
    )


def refuse_overtaken(platform: Platform, policy: Policy) -> Policy:
    """Candidates older than the champion or the challenger go no further."""
    newest = newest_ahead(policy)
    author = Author("release sensor", f"overtaken by v{newest}")
    for candidate in policy.candidates:
        if release_number(candidate.release) < newest:
            policy = change(platform, policy.model, lambda p, r=candidate.release: policies.refuse(p, r, author, platform.clock()))  # type: ignore[misc]
    return policy


def last_training(instance: dg.DagsterInstance, spec: ModelSpec) -> datetime | None:
    """The data time of the newest training set."""
    event = instance.get_latest_materialization_event(keys.key(spec, "training_set"))
    if event is None or event.asset_materialization is None:
        return None
    return datetime.fromtimestamp(event.asset_materialization.metadata["as_of"].value, tz=UTC)


def has_drifted(tick: Tick, spec: ModelSpec) -> bool:
    """Whether the newest drift report is bad enough to train on, and the last training is a cooldown ago.

    Under the policy ``calibrated`` a PSI that the baseline's own windows have too is not.
    """
    limit = spec.retrain.on_drift_above
    report = tick.instance.get_latest_materialization_event(keys.key(spec, "drift_report"))
    if limit is None or report is None or report.asset_materialization is None:
        return False
    found = report.asset_materialization.metadata
    largest = found.get("largest_psi")
    if largest is None or largest.value <= limit or (spec.drift.policy == "calibrated" and not found["drifted"].value):
        return False
    event = tick.instance.get_latest_materialization_event(keys.key(spec, "training_set"))
    return (
        event is None or tick.platform.clock().timestamp() - event.timestamp >= (spec.drift.cooldown / tick.platform.pace).total_seconds()
    )


def _move_challenger(tick: Tick, spec: ModelSpec, policy: Policy) -> None:
    assert policy.challenger is not None
    decision, seen = decide_now(tick.platform, spec, policy)
    release, reason = policy.challenger.release, decision.reason
    if decision.move is Move.ADVANCE:
        _request_action(tick, spec, policy, "canary", release, reason, ("canary",))
    elif decision.move is Move.PROMOTE:
        _request_action(tick, spec, policy, "promotion", release, reason, ("promotion", "production"))
    elif decision.move is Move.ABORT:
        _request_action(tick, spec, policy, "rollback", release, reason, ("rollback", "production"))
    elif tick.state.get("held") != _held(policy, reason):
        tick.state = {"held": _held(policy, reason)}
        keep_hold(tick.platform, spec, policy, seen, decision)
        # Dagster shows an observation's metadata among the materialization's: another name, or it would hide why it advanced.
        metadata = {"last_hold": f"{policy.challenger.step_name}: {reason}"}
        tick.events.append(dg.AssetObservation(keys.key(spec, "canary"), partition=release, metadata=metadata))


def _held(policy: Policy, reason: str) -> str:
    """What a hold is about, so that it is observed once."""
    return f"{policy.generation} {_without_figures(reason)}"


def _without_figures(text: str) -> str:
    return " ".join("#" if any(c.isdigit() for c in word) else word for word in text.split())


def _request_action(tick: Tick, spec: ModelSpec, policy: Policy, noun: str, release: str, reason: str, nouns: tuple[str, ...]) -> None:
    intent = f"{spec.name}/{release}/{noun}/{policy.generation}"
    config = {"who": "release sensor", "reason": reason, "expected_generation": policy.generation}
    op = f"{spec.slug}__{noun}"
    request = _request(tick, spec, intent, nouns, "release", {"ops": {op: {"config": config}}}, release, tries=None)
    tick.requests += [request] if request else []


def _request_evaluation(tick: Tick, spec: ModelSpec, release: str) -> bool:
    """Whether the release may still be tried."""
    intent = f"{spec.name}/{release}/evaluate"
    if len(_runs_of(tick.instance, intent)) >= TRIES:
        return False
    request = _request(tick, spec, intent, ("evaluation", "staging"), "release", {}, release, tries=TRIES)
    tick.requests += [request] if request else []
    return True


def _retried_training(tick: Tick, spec: ModelSpec) -> bool:
    """Whether the training asked for last ended badly and is still being tried again."""
    asked = tick.state.get("asked")
    if asked is None:
        return False
    past = _runs_of(tick.instance, _training_intent(spec, asked["as_of"]))
    if not past or past[0].dagster_run.is_success or len(past) >= TRIES:
        tick.state = {"done": asked["as_of"]}
        return False
    _request_training(tick, spec, datetime.fromisoformat(asked["as_of"]), asked["trigger"], asked["gate"])
    return True


def _training_intent(spec: ModelSpec, as_of: str) -> str:
    return f"{spec.name}/train/{as_of}"


def _request_training(tick: Tick, spec: ModelSpec, as_of: datetime, trigger: str, gate: str) -> None:
    config = {"as_of": as_of.isoformat(), "trigger": trigger, "gate": gate}
    tick.state = {"asked": config}
    op = keys.key(spec, "training_set").to_python_identifier()
    intent = _training_intent(spec, as_of.isoformat())
    request = _request(tick, spec, intent, TRAINING_NOUNS, "train", {"ops": {op: {"config": config}}}, None, tries=TRIES)
    tick.requests += [request] if request else []


def _request(
    tick: Tick,
    spec: ModelSpec,
    intent: str,
    nouns: Sequence[str],
    stage: str,
    config: dict[str, Any],
    partition: str | None,
    tries: int | None,
    tags: Mapping[str, str] | None = None,
) -> dg.RunRequest | None:
    """A run for an intent, unless it was tried often enough or not long enough ago. The try is in the run key, which counts for ever."""
    past = _runs_of(tick.instance, intent)
    if tries is not None and len(past) >= tries:
        return None
    if past and tick.platform.clock() < past[0].create_timestamp + timedelta(
        seconds=min(RETRY_SECONDS * 2 ** (len(past) - 1), LONGEST_RETRY_SECONDS)
    ):
        return None
    return dg.RunRequest(
        run_key=f"{intent}/{len(past)}",
        run_config=config,
        partition_key=partition,
        asset_selection=[keys.key(spec, noun) for noun in nouns],
        tags={MODEL_TAG: spec.name, STAGE_TAG: stage, INTENT_TAG: intent, **(tags or {})},
    )


def _runs_of(instance: dg.DagsterInstance, intent: str) -> Sequence[dg.RunRecord]:
    """The runs that were started for an intent, newest first."""
    return instance.get_run_records(dg.RunsFilter(tags={INTENT_TAG: intent}))


def _waited_less(tick: Tick, longest: timedelta) -> bool:
    """Whether this model's landing files have been waited for less than ``longest``."""
    now = tick.platform.clock()
    began = datetime.fromisoformat(tick.state.get("waiting_since", now.isoformat()))
    tick.state = {**tick.state, "waiting_since": began.isoformat()}
    return now - began < longest


def _identity(key: str, etag: str) -> str:
    return hashlib.sha256(f"{key} {etag}".encode()).hexdigest()[:12]


def _day_part(key: str) -> str | None:
    """The day folder of a landed file: ``landing/<model>/<dataset>/<day>/<name>``."""
    parts = key.split("/")
    return parts[3] if len(parts) == 5 and _is_day(parts[3]) else None


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _in_range(spec: ModelSpec, day: str) -> bool:
    return spec.data.start <= date.fromisoformat(day) and (spec.data.end is None or date.fromisoformat(day) < spec.data.end)
