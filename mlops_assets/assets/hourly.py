"""What an hourly report is, and what its making is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from mlops_assets.core.hourly import HOUR
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform

LEAST = timedelta(seconds=60)
"""Between two hourly runs, where the pace makes hours of milliseconds."""


def hour_at(pace: float) -> timedelta:
    """How long the clock takes from one hourly run to the next: an hour at the platform's pace, and :data:`LEAST` where that is less."""
    return max(HOUR / pace, LEAST)


@dataclass(frozen=True)
class Asked:
    """What a run is asked for.

    Args:
        hours: the event hours that it makes anew; none for whatever is new.
        only_due: leave out what is not due yet by the model's own cadence, or would say the same again.
        html: make the HTML report too.
        html_reports: what is still to be written of these at the run's end, as they take seconds each.
    """

    hours: tuple[datetime, ...] = ()
    only_due: bool = False
    html: bool = False
    html_reports: list[tuple[ModelSpec, str, datetime]] = field(default_factory=list)


Made = Mapping[datetime, dg.MaterializeResult]
"""By event hour, what is told of it."""


@dataclass(frozen=True)
class HourlyReport:
    """One noun of the monitoring group that the shared hourly run makes for each model.

    Args:
        noun: of its asset.
        make: reads, calculates and writes; an empty answer says that there was nothing to do.
        deps: the nouns that it is made of. None of a partitioned asset that the run does not make itself: Dagster would ask the run for its
            partitions, and the run for what is new has none (ADR 21).
        checks: those that its results may carry. When ``make`` raises, they fail with its error.
    """

    noun: str
    make: Callable[[Platform, ModelSpec, Asked], Made]
    deps: tuple[str, ...]
    description: str
    checks: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()
