"""Small pictures in a materialization's metadata."""

import base64
import io

import dagster as dg

from mlops_assets.core.policy import Change, Policy


def trajectory_plot(policy: Policy, release: str) -> dg.MarkdownMetadataValue:
    """The traffic of a release over its canary: its share at each change of the policy, as a step line."""
    from matplotlib.figure import Figure

    changes = [change for change in policy.log if release in (change.release, change.left) and records_traffic(change)]
    shares = [0 if change.left == release else change.weight for change in changes]
    figure = Figure(figsize=(6, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.step([change.at for change in changes], shares, where="post", marker="o", color="#4f43dd")
    for change, share in zip(changes, shares, strict=True):
        axes.annotate(change.step_name or change.action, (change.at, share), textcoords="offset points", xytext=(4, 5), fontsize=7)
    axes.set(ylim=(-5, 112), ylabel="% of the units", title=f"{policy.model} {release}")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![traffic of {release}](data:image/png;base64,{encoded})")


def records_traffic(change: Change) -> bool:
    """Whether the change moved traffic."""
    return change.action in ("begin", "advance", "abort", "promote", "rollback")
