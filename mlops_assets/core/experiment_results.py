"""What was counted in an experiment, as people report it, and what it comes to by kind of metric."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from mlops_assets.core.errors import BadData, SpecError
from mlops_assets.core.experiment_design import Design, Metric
from mlops_assets.core.experiment_samples import Pair, Sample, adjusted, proportion, ratio

_NEEDED = {
    "proportion": ("successes",),
    "mean": ("mean", "sd"),
    "adjusted mean": ("mean", "sd", "before_mean", "before_sd", "correlation"),
    "ratio": ("numerator_mean", "numerator_sd", "denominator_mean", "denominator_sd", "correlation"),
}


@dataclass(frozen=True)
class Figures:
    """One metric of one variant: of a proportion ``successes``, of a mean ``mean`` and ``sd``, of a unit each; and so on.

    ``before_...`` is the same metric of the same units before the start; ``correlation`` is between it and the metric, or between numerator
    and denominator.
    """

    successes: int | None = None
    mean: float | None = None
    sd: float | None = None
    before_mean: float | None = None
    before_sd: float | None = None
    numerator_mean: float | None = None
    numerator_sd: float | None = None
    denominator_mean: float | None = None
    denominator_sd: float | None = None
    correlation: float | None = None


@dataclass(frozen=True)
class Variant:
    """The units that were assigned to a variant, and their figures by metric."""

    units: int
    metrics: dict[str, Figures]

    def __post_init__(self) -> None:
        if self.units < 0:
            raise SpecError(f"units: got {self.units}, expected a number from 0 up")


@dataclass(frozen=True)
class Results:
    """What is known at one look. ``earlier_looks``: group-sequential, the fractions of the planned information at the looks before."""

    started_at: datetime
    until: datetime
    control: Variant
    treatment: Variant
    earlier_looks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        zones = {self.started_at.tzinfo is None, self.until.tzinfo is None}
        if len(zones) > 1:
            raise SpecError("started_at and until: give both a time zone, or none, e.g. 2026-11-01T00:00:00+00:00")
        if self.until < self.started_at:
            raise SpecError(f"until: {self.until} is before started_at, {self.started_at}: swap them")

    @property
    def lasted(self) -> timedelta:
        return self.until - self.started_at


def samples(design: Design, results: Results) -> Mapping[str, tuple[Sample, Sample]]:
    """Control and treatment of each declared metric, by its name.

    Raises:
        BadData: if a declared metric was not measured, one was measured that is not declared, or figures are missing or impossible.
    """
    declared = {metric.name: metric for metric in (design.success, *(guardrail.metric for guardrail in design.guardrails))}
    for name, variant in (("control", results.control), ("treatment", results.treatment)):
        if variant.metrics.keys() != declared.keys():
            raise BadData(
                f"results.{name}: got {', '.join(sorted(variant.metrics)) or 'no metrics'}, expected exactly those that were declared: "
                f"{', '.join(sorted(declared))}"
            )
    return {name: _samples(metric, results) for name, metric in declared.items()}


def _samples(metric: Metric, results: Results) -> tuple[Sample, Sample]:
    variants = {"control": results.control, "treatment": results.treatment}
    control, treatment = (_read(metric, name, variant) for name, variant in variants.items())
    if isinstance(control, Pair) and isinstance(treatment, Pair):
        return adjusted(control, treatment) if metric.adjusted else (ratio(control), ratio(treatment))
    assert isinstance(control, Sample)
    assert isinstance(treatment, Sample)
    return control, treatment


def _read(metric: Metric, variant: str, given: Variant) -> Sample | Pair:
    where, kind = f"results.{variant}.metrics.{metric.name}", "adjusted mean" if metric.adjusted else metric.kind
    values = {field.name: getattr(given.metrics[metric.name], field.name) for field in fields(Figures)}
    present = {name: float(value) for name, value in values.items() if value is not None}
    if set(present) != set(_NEEDED[kind]):
        raise BadData(f"{where}: got {', '.join(present) or 'nothing'}, expected of a metric of kind {kind}: {', '.join(_NEEDED[kind])}")
    wrong = [f"{name} = {value}" for name, value in present.items() if not math.isfinite(value) or (name.endswith("sd") and value < 0)]
    if wrong:
        raise BadData(f"{where}: got {', '.join(wrong)}, expected finite numbers, and a standard deviation of 0 or more")
    if kind == "proportion":
        return proportion(given.units, int(present["successes"]))
    if kind == "mean":
        return Sample(given.units, present["mean"], present["sd"] ** 2)
    first, second = ("", "before_") if kind == "adjusted mean" else ("numerator_", "denominator_")
    means = present[f"{first}mean"], present[f"{second}mean"]
    deviations = present[f"{first}sd"], present[f"{second}sd"]
    if abs(present["correlation"]) > 1:
        raise BadData(f"{where}.correlation: got {present['correlation']}, expected from -1 to 1")
    covariance = present["correlation"] * deviations[0] * deviations[1]
    return Pair(given.units, means, (deviations[0] ** 2, deviations[1] ** 2), covariance)
