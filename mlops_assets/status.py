"""``mlops status``: what runs, what is live, and what is not as the policies say."""

from rich.console import Console
from rich.table import Table

from mlops_assets.adapters.local import local_platform
from mlops_assets.core.policy import describe
from mlops_assets.ports import Platform
from mlops_assets.reconcile import differences
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack


def show(console: Console | None = None) -> bool:
    """Print the state of this machine's stack, if that is where releases run, and of every model; returns whether all is well."""
    console = console or Console()
    settings = Settings.from_environment()
    if settings.target == "kubernetes":
        return show_models(local_platform(settings), console)
    services = Stack(settings).status()
    table = Table("service", "state", "pid", "address")
    for service in services:
        colour = "green" if service.well else "red"
        table.add_row(service.name, f"[{colour}]{service.state}[/]", str(service.pid or ""), service.url)
    console.print(table)
    if not any(service.well for service in services):
        console.print("nothing runs: 'mlops up' starts it")
        return False
    return show_models(local_platform(settings), console) and all(service.well for service in services)


def show_models(platform: Platform, console: Console) -> bool:
    """Print each model's policy and what differs from it; returns whether nothing does."""
    table = Table("model", "generation", "live", "last change", "as the policy says")
    well = True
    for model in platform.policies.models():
        policy = platform.policies.read(model)
        wrong = differences(platform, model)
        well = well and not wrong
        last = policy.log[-1] if policy.log else None
        change = f"{last.action} {last.release} by {last.author.who}: {last.author.why}" if last else ""
        verdict = "[green]yes[/]" if not wrong else "\n".join(f"[red]{d.what}: expected {d.expected}, got {d.got}[/]" for d in wrong)
        table.add_row(model, str(policy.generation), describe(policy), change, verdict)
    console.print(table)
    return well
