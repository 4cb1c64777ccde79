"""The code location: every model under ``defs/``, and what all of them share."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dagster as dg
import yaml

from mlops_assets.assets.documents import document_io_manager
from mlops_assets.assets.hourly_monitoring import build_hourly_monitoring
from mlops_assets.assets.retention import build_retention_asset
from mlops_assets.components import ModelComponent
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.executors import executor
from mlops_assets.resources import LocalPlatform
from mlops_assets.schedules import drill_schedule, freshness_schedule, retention_schedule, slo_schedule
from mlops_assets.sensors import build_sensors
from mlops_assets.settings import Settings


def shared_definitions(specs: Sequence[ModelSpec]) -> dg.Definitions:
    """Hourly monitoring, retention, sensors, schedule, resources and executor: one of each, however many models there are."""
    return dg.Definitions(
        assets=[*build_hourly_monitoring(specs), build_retention_asset(specs)],
        sensors=build_sensors(specs, Settings.from_environment().sensor_seconds),
        schedules=[freshness_schedule(specs), drill_schedule(specs), slo_schedule(specs), retention_schedule()] if specs else [],
        resources={"platform": LocalPlatform(), "io_manager": document_io_manager},
        executor=executor(),
    )


def load_specs() -> list[ModelSpec]:
    """What is declared of every model."""
    with _fast_loading():
        return [component.spec for component in _tree().get_all_components(of_type=ModelComponent)]


@dg.definitions
def defs() -> dg.Definitions:
    with _fast_loading():
        return dg.Definitions.merge(_tree().build_defs(), shared_definitions(load_specs()))


@cache
def _tree() -> dg.ComponentTree:
    return dg.ComponentTree.for_project(Path(__file__).parent.parent)


@contextmanager
def _fast_loading() -> Iterator[None]:
    """Read YAML by libyaml, which gives the same values and positions sooner (2 ms a file for 9), and collect no garbage meanwhile.

    Dagster derives its loader from ``yaml.SafeLoader`` at each file. What is loaded stays for good, so to search it for garbage
    again and again took 16 % of the time that fifty models need.
    """
    before, collecting = yaml.SafeLoader, gc.isenabled()
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", before)  # type: ignore[misc]
    gc.disable()
    try:
        yield
    finally:
        yaml.SafeLoader = before  # type: ignore[misc]
        if collecting:
            gc.enable()
