"""Load the code location of the project in the working directory as Dagster's code server does, and print what it cost as JSON.

``python -m bench.fleet`` runs this file in a process of its own, with ``PYTHONPATH`` at the project that it made.
"""

import json
import resource
import sys
import time
import warnings


def main() -> None:
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    laps = {}

    def lap(name: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        laps[name] = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time(), "peak_rss_mb": peak}

    from dagster._core.remote_representation.external_data import RepositorySnap
    from dagster._serdes import serialize_value

    from mlops_assets import definitions

    lap("imported")
    repository = definitions.defs().get_repository_def()
    lap("defined")
    # What the code server does at its start, and what it sends to the webserver and to the daemon.
    repository.load_all_definitions()
    lap("loaded")
    snapshot = serialize_value(RepositorySnap.from_def(repository))
    lap("served")
    found = {
        "laps": laps,
        "snapshot_mb": len(snapshot) / 1e6,
        "assets": len(repository.asset_graph.get_all_asset_keys()),
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
        "module": definitions.__file__,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
