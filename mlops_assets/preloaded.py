"""What every run needs, imported: by the process that runs are forked from."""

import importlib
from contextlib import suppress

for name in (
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

with suppress(Exception):  # the users' modules may raise anything, and then each run says what
    importlib.import_module("mlops_assets.definitions").load_specs()
