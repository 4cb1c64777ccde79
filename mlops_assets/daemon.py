"""Dagster's daemon, with sensors that look as often as they say.

Dagster's own loop over sensors takes at least 5 seconds a round, whatever their ``minimum_interval_seconds``, and has no setting for it.
"""

from dagster._daemon import sensor
from dagster._daemon.cli import main

from mlops_assets.settings import Settings

if __name__ == "__main__":
    sensor.MIN_INTERVAL_LOOP_TIME = min(sensor.MIN_INTERVAL_LOOP_TIME, Settings.from_environment().sensor_seconds)
    main()
