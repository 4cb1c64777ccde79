"""What every run needs, imported: by the process that runs are forked from."""

import importlib
from contextlib import suppress

from mlops_assets.settings import Settings

for name in (
    # of Dagster's instance, which each run opens anew
    "dagster._core.launcher.default_run_launcher",
    "dagster._core.run_coordinator.queued_run_coordinator",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "dagster._core.storage.legacy_storage",
    # ours, and what they import late
    "mlops_assets.event_log",
    "mlops_assets.definitions",
    "mlops_assets.adapters.local",
    "mlops_assets.adapters.envoy",
    "mlops_assets.adapters.feast",
    "mlops_assets.adapters.mlflow",
    "mlops_assets.adapters.processes",
    "mlops_assets.adapters.s3",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
):
    importlib.import_module(name)

if Settings.from_environment().dagster_database:
    importlib.import_module("dagster_postgres")

with suppress(Exception):  # the users' modules may raise anything, and then each run says what
    importlib.import_module("mlops_assets.definitions").load_specs()
