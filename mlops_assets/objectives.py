"""What the gateways counted for a model's objectives, kept where a restart of anything loses none of it."""

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.core.errors import NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.core.policy import Policy
from mlops_assets.core.slo import History, count
from mlops_assets.ports import Platform


def history_key(model: str) -> str:
    return f"evidence/{model}/slo.json"


def look(platform: Platform, spec: ModelSpec, policy: Policy) -> History:
    """What was counted until now; the first look begins the history. Who looks beside us counts the same: one of both is kept."""
    key = history_key(spec.name)
    try:
        before = decode(History, platform.objects.get(key), key)
    except NotFound:
        before = History()
    serving = frozenset(release for release, weight in policy.weights.items() if weight > 0)
    history = count(before, platform.gateway.sample(spec.name), serving, spec.slo, platform.clock(), platform.pace)
    platform.objects.put(key, encode(history))
    return history
