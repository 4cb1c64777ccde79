"""Sample data for a stack of its own: the first days of the year, as they would have landed."""

from datetime import timedelta

from mlops_assets.defs.flight_delay.landing import FIRST_DAY, files_known_by
from mlops_assets.ports import ObjectStore


def land(objects: ObjectStore, days: int) -> int:
    """Write the files of the first ``days`` days; returns how many there are."""
    files = files_known_by(FIRST_DAY + timedelta(days=days))
    for file in files:
        objects.put(file.key, file.data)
    return len(files)
