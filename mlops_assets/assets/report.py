"""The asset ``report``: a page that tells what is known of a model to whoever has a browser and nothing else."""

import base64

import dagster as dg

from mlops_assets.assets import keys
from mlops_assets.assets.report_facts import gather
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.ports import Platform
from mlops_assets.report import charts, render
from mlops_assets.report.facts import Facts
from mlops_assets.report.page import releases_of, standalone
from mlops_assets.settings import Settings


def build_report_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    nouns = ("production", "drift_report", "training_serving_skew", "rollback_drill")

    @dg.asset(
        key=keys.key(spec, "report"),
        deps=[keys.key(spec, noun) for noun in nouns],
        group_name=keys.group(spec, "monitoring"),
        owners=list(spec.owners),
        kinds={"html"},
        description="What is live and how it does, on one page that needs no network. 'mlops report' fetches it.",
    )
    def report(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        facts = gather(context.instance, platform, spec, Settings.from_environment())
        page = render(facts).encode()
        platform.objects.put(report_key(spec.name), page)
        return dg.MaterializeResult(
            metadata={
                "page": dg.MetadataValue.path(f"s3://{report_key(spec.name)}"),
                "bytes": len(page),
                "live": facts.live,
                **plots(facts),
            }
        )

    return report


def report_key(model: str) -> str:
    """Where the newest page of a model lies."""
    return f"tables/{model}/report.html"


def plots(facts: Facts) -> dict[str, dg.MarkdownMetadataValue]:
    """The charts of traffic and scores, as Dagster shows them."""
    releases = releases_of(facts)
    drawn = {"traffic": charts.shares(facts.spans, releases, facts.made_at), "scores": charts.histogram(facts.scores, releases)}
    return {
        name: dg.MetadataValue.md(f"![{name}](data:image/svg+xml;base64,{base64.b64encode(standalone(svg).encode()).decode()})")
        for name, svg in drawn.items()
        if svg
    }
