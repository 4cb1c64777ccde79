"""``dagster.yaml`` of the local stack: storage, run queue, pools and run monitoring. A cluster's lies in ``deploy/dagster``."""

from typing import Any

import yaml

from mlops_assets import event_log
from mlops_assets.settings import DAGSTER_DATABASE, Settings

POOL_LIMIT = 1
"""Runs at once in a pool that nobody has given another limit: a model has one training, and one step of its canary, at a time."""


def instance_config(settings: Settings) -> str:
    """The file, with the database by reference alone: Dagster reads its address from the environment."""
    config: dict[str, Any] = {
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        "concurrency": {"runs": {"max_concurrent_runs": 3}, "pools": {"default_limit": POOL_LIMIT, "granularity": "run"}},
        # a run is a process here, and cannot be taken up again once that is gone: the sensors ask for another
        "run_monitoring": {"enabled": True, "poll_interval_seconds": 5, "start_timeout_seconds": 120, "max_resume_run_attempts": 0},
        "sensors": {"use_threads": True, "num_workers": 4},
        "schedules": {"use_threads": True, "num_workers": 2},
    }
    if settings.dagster_database:
        config["storage"] = {"postgres": {"postgres_url": {"env": DAGSTER_DATABASE}}}
    else:
        config["event_log_storage"] = event_log.config(settings.dagster_home)
    return yaml.safe_dump(config, sort_keys=False)
