"""Repair what is not as the policies say, and record what no run recorded."""

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.core import policy as policies
from mlops_assets.core.errors import MlopsError
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.reconcile import reconcile
from mlops_assets.records import write_missing
from mlops_assets.sensors.tick import Tick, without_figures


def look_at_world(tick: Tick, spec: ModelSpec) -> None:
    """Reconcile, and record what no run recorded. Left alone while a run of the model's releases is at it, a drill included.

    What keeps the world from being as the policy says fails ``serves_champion``, and passes it when it is over.
    """
    if {(spec.name, "release"), (spec.name, "drill")} & tick.busy:
        return
    recorded, shown, trouble = (tick.state.get(name) for name in ("recorded", "shown", "trouble"))
    try:
        policy = tick.platform.policies.read(spec.name)
        if policy.generation == 0:
            return
        recorded = write_missing(tick.instance, spec, policy, recorded or 0)
        shown = reconcile(tick.platform, spec.name, spec.serving, shown or 0).generation
    except MlopsError as error:
        tick.state = {"recorded": recorded, "shown": shown, "trouble": without_figures(str(error))}
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
