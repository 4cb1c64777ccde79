"""What a release is told by its environment, wherever it runs. :class:`serving.configuration.Configuration` reads it."""

from collections.abc import Mapping

from mlops_assets.core.serving_spec import Serving


def release_environment(model: str, release: str, digest: str, serving: Serving) -> Mapping[str, str]:
    """What the release is and may use; no secrets. Where it keeps files and finds other systems is the deployment's to add."""
    return {
        "MLOPS_MODEL": model,
        "MLOPS_RELEASE": release,
        "MLOPS_MODEL_DIGEST": digest,
        "MLOPS_THREADS": str(serving.threads),
        "MLOPS_WORKERS": str(serving.workers),
        "MLOPS_LOG_DURABILITY": serving.log_durability,
        "MLOPS_ON_LOG_FULL": serving.on_log_full,
        "MLOPS_TIMEOUT_SECONDS": f"{serving.timeout.total_seconds():g}",
        "MLOPS_ONLINE_TIMEOUT_SECONDS": f"{serving.online_timeout.total_seconds():g}",
        "MLOPS_ON_ONLINE_DOWN": serving.on_online_down,
        # by default each of its threads may keep a heap of its own
        "MALLOC_ARENA_MAX": "2",
    }
