"""``mlops experiment``: how many units, the hash to declare, and the answer."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_assets.told import told

if TYPE_CHECKING:  # a rollback does not wait for statistics
    from mlops_assets.core.experiment import Answer
    from mlops_assets.core.experiment_power import Criteria, SampleSize

experiment = typer.Typer(help="Experiments: how many units, the hash to declare, and the answer.", no_args_is_help=True)
size = typer.Typer(help="How many units find an effect, in a test that looks once.", no_args_is_help=True)
experiment.add_typer(size, name="size")

Effect = Annotated[float, typer.Option("--effect", help="Treatment minus control, in the metric's unit.")]
Alpha = Annotated[float, typer.Option("--alpha", help="How often a difference may be claimed where there is none, two-sided.")]
Power = Annotated[float, typer.Option("--power", help="How often the effect is to be found.")]
Ratio = Annotated[float, typer.Option("--ratio", help="Units of the treatment for each of the control.")]
File = Annotated[Path, typer.Argument(help="YAML or JSON with the sections design, declared and results.")]


@size.command()
def proportion(
    baseline: Annotated[float, typer.Option("--baseline", help="The control's share, e.g. 0.1.")],
    effect: Effect,
    alpha: Alpha = 0.05,
    power: Power = 0.8,
    ratio: Ratio = 1.0,
) -> None:
    """For a share of the units, such as conversion."""
    from mlops_assets.core.experiment_power import Criteria, size_for_proportions

    with told():
        criteria = Criteria(alpha, power, ratio)
        _print(size_for_proportions(baseline, effect, criteria), criteria)


@size.command()
def mean(
    effect: Effect,
    deviation: Annotated[float, typer.Option("--sd", help="Standard deviation of one unit.")],
    correlation: Annotated[float, typer.Option("--correlation", help="With the unit's own value before the start (CUPED).")] = 0.0,
    alpha: Alpha = 0.05,
    power: Power = 0.8,
    ratio: Ratio = 1.0,
) -> None:
    """For a mean of the units, such as revenue."""
    from mlops_assets.core.experiment_power import Criteria, size_for_means
    from mlops_assets.core.experiment_samples import Pair, adjusted

    with told():
        pair = Pair(2, (0.0, 0.0), (deviation**2, deviation**2), correlation * deviation**2)
        criteria = Criteria(alpha, power, ratio)
        _print(size_for_means(effect, adjusted(pair, pair)[0].variance ** 0.5, criteria), criteria)


@size.command("ratio")
def of_ratio(
    effect: Effect,
    numerator: Annotated[tuple[float, float], typer.Option("--numerator", help="Mean and standard deviation of a unit.")],
    denominator: Annotated[tuple[float, float], typer.Option("--denominator", help="Mean and standard deviation of a unit.")],
    correlation: Annotated[float, typer.Option("--correlation", help="Between the two, of a unit.")],
    alpha: Alpha = 0.05,
    power: Power = 0.8,
    ratio: Ratio = 1.0,
) -> None:
    """For a ratio of two sums, such as clicks over views, where the customer is the unit."""
    from mlops_assets.core.experiment_power import Criteria, size_for_ratios
    from mlops_assets.core.experiment_samples import Pair
    from mlops_assets.core.experiment_samples import ratio as by_delta

    with told():
        (y, y_sd), (x, x_sd) = numerator, denominator
        sample = by_delta(Pair(2, (y, x), (y_sd**2, x_sd**2), correlation * y_sd * x_sd))
        criteria = Criteria(alpha, power, ratio)
        _print(size_for_ratios(effect, sample.variance, criteria), criteria)


@experiment.command()
def declare(file: File) -> None:
    """Print the design's hash: write it under 'declared' before the start, and commit the file."""
    from mlops_assets.experiment_file import read

    with told():
        typer.echo(read(file).design.digest)


@experiment.command()
def analyse(file: File) -> None:
    """Ship, stop or keep running, and why. The design must be the one that was declared."""
    from mlops_assets.core.errors import SpecError
    from mlops_assets.core.experiment import analyse as answer_of
    from mlops_assets.experiment_file import read

    with told():
        read_file = read(file)
        if read_file.results is None:
            raise SpecError(f"{file}: there is no section 'results': add what was counted of control and treatment")
        _show(answer_of(read_file.design, read_file.declared, read_file.results), read_file.design.name)


def _print(needed: "SampleSize", criteria: "Criteria") -> None:
    from mlops_assets.core.experiment_groups import group_factor
    from mlops_assets.core.experiment_sequential import always_valid_factor

    looks = group_factor("obrien-fleming", criteria.alpha, criteria.power, (0.2, 0.4, 0.6, 0.8, 1.0))
    factor = always_valid_factor(criteria.alpha, criteria.power)
    typer.echo(
        f"control {needed.control}, treatment {needed.treatment}, together {needed.total} units: power {needed.power:.4f} in one look"
    )
    typer.echo(f"looked at five times (group-sequential), {looks:.2f} times as many at the last look: {math.ceil(needed.total * looks)}")
    typer.echo(f"looked at all the time (always-valid), {factor:.2f} times as many are enough: {math.ceil(needed.total * factor)}")


def _show(answer: "Answer", name: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    measured = Table("metric", "control", "treatment", "difference", "lower", "upper")
    for one in answer.estimates:
        found = one.difference
        bounds = (f"{value:+.4g}" for value in (found.effect, found.lower, found.upper)) if found else ("", "", "")
        measured.add_row(one.name, f"{one.control:.4g}", f"{one.treatment:.4g}", *bounds)
    console.print(measured)
    judged = Table("verdict", "outcome", "reason")
    for verdict in answer.verdicts:
        judged.add_row(verdict.name, verdict.outcome.value, verdict.reason)
    console.print(judged)
    console.print(
        f"[bold]{name}: {answer.action}[/] at {answer.information:.4g} of the planned information: {answer.reason}", highlight=False
    )
