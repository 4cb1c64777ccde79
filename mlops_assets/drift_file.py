"""``mlops drift``: the rows of a Parquet file against the champion's baseline, before they are scored or after."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlops_assets.adapters.profile_parquet import profile_parquet
from mlops_assets.assets.baseline import baseline_of
from mlops_assets.assets.drift import Ranked, rank
from mlops_assets.core.drift import judge
from mlops_assets.core.errors import NotFound
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform


def compare(platform: Platform, spec: ModelSpec, path: Path) -> tuple[Ranked, ...]:
    """The features of the file's rows, which count as one window of the drift policy, in the order of how much their drift matters.

    Raises:
        NotFound: if there is no champion.
        BadData: if the file cannot be read, or lacks a feature.
    """
    champion = platform.policies.read(spec.name).champion
    if champion is None:
        raise NotFound(f"{spec.name} has no release in production, so there is no baseline to compare with: promote one first")
    base = baseline_of(platform, spec, champion).only(spec.features.names)
    current = profile_parquet(base.profile, path, spec.features.inputs)
    return rank(base, current, judge(base, current, spec.drift, spec.drift.window, spec.watched))


def show(ranked: tuple[Ranked, ...], console: Console) -> None:
    """Print a line a feature, what matters most first."""
    table = Table("feature", "verdict", "PSI", "moved by (std)", "importance", "why")
    for entry in ranked:
        figures = (entry.verdict.value, entry.distances.wasserstein_normed, entry.importance)
        told = ("" if figure is None else f"{figure:.3f}" for figure in figures)
        table.add_row(entry.verdict.name, entry.verdict.outcome.value, *told, entry.verdict.reason)
    console.print(table)
