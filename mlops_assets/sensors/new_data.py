"""Ingest what landed, late or rewritten files included, and have the online store follow; then what was served can be computed again."""

import hashlib
from datetime import date, datetime, timedelta

from mlops_assets.adapters import landing
from mlops_assets.assets.data import partition_ranges
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.sensors.tick import Tick, ask_for_run, runs_of

_EDGE = timedelta(seconds=60)
QUIET = timedelta(seconds=3)
"""Files that are still landing are waited for, so that a batch is one run ..."""

LONGEST_WAIT = timedelta(seconds=60)
"""... but not for ever, where something always lands."""

TRAINING_FIRST = timedelta(minutes=5)
"""How long the online store lets a training go first that the same data gives reason to: both would wait for the same feature store."""


def look_for_new_data(tick: Tick, spec: ModelSpec) -> None:
    """Ingest what is new, and have the online store follow when that is done and nothing else of the model is under way.

    What lands for a retired model is left where it is, and ingested if the model is reinstated.
    """
    if tick.platform.policies.read(spec.name).retired_at is not None:
        return
    _ingest(tick, spec)
    newest, due = tick.state.get("online", (None, None))
    is_busy = tick.requests or any(model == spec.name for model, _ in tick.busy)
    if newest is None or is_busy or tick.platform.clock() < datetime.fromisoformat(due):
        return
    intent = f"{spec.name}/online/{newest}"
    past = runs_of(tick.instance, intent)
    if past and past[0].dagster_run.is_success:
        tick.state = {name: value for name, value in tick.state.items() if name != "online"}
        return
    ask_for_run(tick, spec, intent, ("online_features", "training_serving_skew"), "online", {}, None, for_ever=True)


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
    waited = {name: value for name, value in tick.state.items() if name != "waiting_since"}  # that is over
    tick.state = {**waited, "since": newest.isoformat(), "edge": edge, "pending": sorted(pending), "asked": asked}
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
        past = runs_of(tick.instance, intent)
        if past and past[0].dagster_run.is_success:
            tick.state["online"] = [newest, (tick.platform.clock() + TRAINING_FIRST).isoformat()]
            continue
        open_.append([start, end, newest])
        days = {"dagster/asset_partition_range_start": start, "dagster/asset_partition_range_end": end}
        ask_for_run(tick, spec, intent, (*spec.data.datasets, "features"), "ingest", {}, None, for_ever=True, tags=days)
    return open_


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
