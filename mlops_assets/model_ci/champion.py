"""What a new model is held against: production's champion, or what the commit before the change makes."""

from collections.abc import Callable
from datetime import date, timedelta
from importlib import import_module
from importlib.util import find_spec

from mlops_assets.adapters import landing
from mlops_assets.assets.baseline import baseline_key
from mlops_assets.changes import change
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import AlreadyExists, MlopsError, NotFound, Unavailable
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Author, Policy
from mlops_assets.ports import Platform, ReleaseInfo, TrainingRun, model_key

AUTHOR = Author("model-ci", "the champion that a new model is held against")


def champion_of(production: Platform | None, model: str) -> ReleaseInfo | None:
    """Production's champion of a model; None if there is none, or no production within reach."""
    if production is None:
        return None
    try:
        champion = production.policies.read(model).champion
        return production.registry.release(model, champion) if champion else None
    except (NotFound, Unavailable):
        return None


def days_wanted(spec: ModelSpec) -> timedelta:
    """How long the landed data must reach back for a training."""
    return spec.training.window + spec.holdout.window + spec.label.horizon + spec.features.lookback + timedelta(days=1)


def landed_days(platform: Platform, model: str) -> dict[str, date]:
    """The files that landed for a model, each with its day."""
    return {info.key: day for info in platform.objects.list(landing.prefix(model)) if (day := _day_of(info.key))}


def copy_data(production: Platform, own: Platform, spec: ModelSpec) -> int:
    """Copy the newest landed files that a training needs; returns how many.

    Raises:
        NotFound: if production has none.
    """
    found = landed_days(production, spec.name)
    if not found:
        raise NotFound(f"production holds no landed file of {spec.name}, so there is nothing to train on: land some first")
    first = max(found.values()) - days_wanted(spec)
    wanted = [key for key, day in found.items() if day >= first]
    for key in wanted:
        own.objects.put(key, production.objects.get(key))
    return len(wanted)


def land_sample(own: Platform, spec: ModelSpec) -> int:
    """Land the model's sample data, as much as a training needs; returns how many files.

    Raises:
        NotFound: if the model brings none.
    """
    module = f"mlops_assets.defs.{spec.slug}.sample"
    if find_spec(module) is None:
        raise NotFound(
            f"{spec.name} has no {module} with land(objects, days), and no production is within reach: write it, or set MLOPS_HOME"
        )
    landed: int = import_module(module).land(own.objects, days_wanted(spec).days + 1)
    return landed


def copy_release(production: Platform, own: Platform, info: ReleaseInfo) -> str:
    """Register production's release on the stack of one's own, with its file; returns its name there."""
    run = TrainingRun(info.model, info.tags.get("training_set", ""), {}, {}, {"training_key": f"production/{info.release}/{info.digest}"})
    data = production.objects.get(info.uri)
    copied = own.registry.register(info.model, own.registry.log_run(run, {"model.onnx": data}), info.digest, dict(info.tags))
    _create(own, model_key(info.model, copied.release), data)
    _create(own, baseline_key(info.model, copied.release), production.objects.get(baseline_key(info.model, info.release)))
    change(own, info.model, lambda policy: policy_changes.register(policy, copied.release, info.digest, AUTHOR, own.clock()))
    return copied.release


def crown(own: Platform, spec: ModelSpec, release: str) -> Policy:
    """Make a registered release champion, without the canary that it needs no second time."""
    now, first = own.clock(), spec.canary.steps[0]
    moves: list[Callable[[Policy], Policy]] = [
        lambda policy: policy_changes.stage(policy, release, AUTHOR, now),
        lambda policy: policy_changes.accept(policy, release, AUTHOR, now),
        lambda policy: policy_changes.begin(policy, release, first, AUTHOR, now),
        lambda policy: policy_changes.promote(policy, AUTHOR, now, timedelta()),
    ]
    for move in moves:
        crowned = change(own, spec.name, move)
    return crowned


def _create(own: Platform, key: str, data: bytes) -> None:
    try:
        own.objects.create(key, data)
    except AlreadyExists as error:
        raise MlopsError(f"{key} is there already with another content: delete the folder of the stack, and try again") from error


def _day_of(key: str) -> date | None:
    parts = key.split("/")
    try:
        return date.fromisoformat(parts[3]) if len(parts) == 5 else None
    except ValueError:
        return None
