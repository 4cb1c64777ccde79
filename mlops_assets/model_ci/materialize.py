"""Materialize assets of one model in a process of its own, and print as JSON what came of it.

It is run with the code of one tree or another (``python - ARGUMENTS < materialize.py``), so it imports nothing of its neighbours.
"""

import json
import sys
from typing import Any

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.definitions import defs, load_specs


def materialize(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the assets ``nouns`` of ``model``, for a ``partition`` or the days from ``first`` to ``last``, with ``config`` by noun.

    Returns whether all went well, the checks that failed with their reason, and what the run's failures said.
    """
    spec = next(spec for spec in load_specs() if spec.name == asked["model"])
    days = (
        {"dagster/asset_partition_range_start": asked["first"], "dagster/asset_partition_range_end": asked["last"]}
        if "first" in asked
        else {}
    )
    config = {keys.key(spec, noun).to_python_identifier(): {"config": values} for noun, values in asked.get("config", {}).items()}
    with dg.DagsterInstance.get() as instance:
        result = (
            defs()
            .resolve_implicit_global_asset_job_def()
            .execute_in_process(
                instance=instance,
                asset_selection=[keys.key(spec, noun) for noun in asked["nouns"]],
                partition_key=asked.get("partition"),
                run_config={"ops": config},
                tags=days,
                raise_on_error=False,
            )
        )
    evaluations = result.get_asset_check_evaluations()
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return {
        "success": result.success,
        "checks": {f"{one.asset_key.path[-1]}.{one.check_name}": one.passed for one in evaluations},
        "failed": [f"{one.asset_key.path[-1]}.{one.check_name}: {one.description}" for one in evaluations if not one.passed],
        "errors": [" ".join((error.cause or error).message.split()) for error in failures if error],
    }


if __name__ == "__main__":
    # runs print what they like: the answer is the last line
    print(json.dumps(materialize(json.loads(sys.argv[1]))))
