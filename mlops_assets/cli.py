"""``mlops``: the stack on this machine, and what an operator does by hand.

Imports are late on purpose: ``mlops rollback`` must act within a second, with Dagster and MLflow down.
"""

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlops_assets.core.errors import NotFound
from mlops_assets.core.policy import Author, describe
from mlops_assets.experiment_cli import experiment
from mlops_assets.told import told

if TYPE_CHECKING:
    from mlops_assets.core.model_spec import ModelSpec
    from mlops_assets.operations import Operator

app = typer.Typer(
    help="The whole life of a model, on this machine.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

app.add_typer(experiment, name="experiment")

Model = Annotated[str, typer.Argument(help="The model's name, e.g. flight-delay.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is recorded with your name.")]


@app.command()
def up() -> None:
    """Start the stack: S3, MLflow, Dagster and the gateway. Harmless if it runs."""
    from mlops_assets.settings import Settings
    from mlops_assets.stack import Stack

    settings = Settings.from_environment()
    with told():
        Stack(settings).up(typer.echo)
        typer.echo(
            f"Dagster  {settings.dagster_url}\nMLflow   {settings.mlflow_url}\ngateway  {settings.gateway_url}/models/<model>/predict"
        )


@app.command()
def rules(
    folder: Annotated[Path | None, typer.Argument(help="Where Prometheus looks for rules; by default where the stack's own does.")] = None,
) -> None:
    """Write Prometheus' rules of all models, from their defs.yaml. Prometheus reads them when it is reloaded (SIGHUP)."""
    from mlops_assets.definitions import load_specs
    from mlops_assets.settings import Settings
    from mlops_assets.stack_monitoring import write_rules

    settings = Settings.from_environment()
    with told():
        for path in write_rules(folder or settings.rules_folder, settings, load_specs()):
            typer.echo(f"wrote {path}")


@app.command()
def migrate(only: Annotated[Literal["dagster", "mlflow"] | None, typer.Option("--only", help="One of both.")] = None) -> None:
    """Bring the databases of Dagster and MLflow to what the installed versions want. Back up first, and stop both."""
    from mlops_assets.migrate import Database
    from mlops_assets.migrate import migrate as bring_up_to_date
    from mlops_assets.settings import Settings

    with told():
        bring_up_to_date(Settings.from_environment(), typer.echo, [Database(only)] if only else tuple(Database))


@app.command()
def down() -> None:
    """Stop the stack and every release."""
    from mlops_assets.settings import Settings
    from mlops_assets.stack import Stack

    with told():
        Stack(Settings.from_environment()).down(typer.echo)


@app.command()
def status() -> None:
    """Services, what is live of each model, and whether the world is as the policies say (exit code 1 if not)."""
    from mlops_assets.status import show

    with told():
        if not show():
            raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Whether every dependency, of this machine or a cluster, is there, of the right version, permits what is needed and tells the right
    time (exit code 1 if not; what cannot be told from here is no failure)."""
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.doctor import Doctor, show
    from mlops_assets.settings import Settings

    with told():
        if not show(Doctor(Settings.from_environment(), local_platform)):
            raise typer.Exit(1)


@app.command()
def drift(
    model: Model, file: Annotated[Path, typer.Argument(help="A Parquet file with a column for each feature.", exists=True, dir_okay=False)]
) -> None:
    """Hold the rows of a file against the champion's baseline; they count as one window. Exit code 1 if a feature has drifted."""
    from rich.console import Console

    from mlops_assets.adapters.local import local_platform
    from mlops_assets.core.verdict import Outcome
    from mlops_assets.drift_file import compare, show

    with told():
        ranked = compare(local_platform(), _spec(model), file)
        show(ranked, Console())
        if any(entry.verdict.outcome is Outcome.FAIL for entry in ranked):
            raise typer.Exit(1)


@app.command()
def demo(stay: Annotated[bool, typer.Option(help="Stay up until Ctrl-C when the story is over.")] = True) -> None:
    """Play four months of flights: training, canary, a bad release, drift, rollback. Stops the stack at the end."""
    from mlops_assets.demo.play import play

    with told():
        if not play(stay=stay):
            raise typer.Exit(1)


@app.command("new-model")
def new_model(name: Annotated[str, typer.Argument(help="Lower-case words joined by hyphens, e.g. fraud-detector.")]) -> None:
    """Scaffold a model that runs: one defs.yaml, its training code, its features and sample data."""
    from mlops_assets.scaffold import new_model as scaffold

    with told():
        for path in scaffold(name, Path.cwd()):
            typer.echo(f"wrote {path}")


@app.command()
def rollback(
    model: Model, reason: Reason, to: Annotated[str | None, typer.Option("--to", help="A release that was in production, e.g. v3.")] = None
) -> None:
    """Take the champion out: traffic goes to the release before it, at once."""
    with told():
        typer.echo(describe(_operator(model, reason).rollback(to)))


@app.command()
def pause(model: Model, reason: Reason) -> None:
    """Keep the canary at its step until it is resumed. Harm still aborts it."""
    with told():
        typer.echo(describe(_operator(model, reason).pause()))


@app.command()
def resume(model: Model, reason: Reason) -> None:
    """Let a paused canary go on, or approve the step that waits for a person."""
    with told():
        typer.echo(describe(_operator(model, reason).resume()))


@app.command()
def abort(model: Model, reason: Reason) -> None:
    """End the canary: all traffic is the champion's again."""
    with told():
        typer.echo(describe(_operator(model, reason).abort()))


@app.command()
def restart(model: Model, reason: Reason, release: Annotated[str, typer.Option("--release", help="An aborted release, e.g. v3.")]) -> None:
    """Let an aborted release try its canary again, from the first step."""
    with told():
        typer.echo(describe(_operator(model, reason).restart(release)))


@app.command()
def promote(model: Model, reason: Reason) -> None:
    """Make the challenger champion now, whatever its canary says; its quality gate must have passed."""
    with told():
        typer.echo(describe(_operator(model, reason).promote(_spec(model))))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder.", file_okay=False)],
    everything: Annotated[bool, typer.Option("--all", help="Also what others landed, and the raw prediction log.")] = False,
) -> None:
    """Copy policies, models, evidence, tables and the databases of Dagster and MLflow, while everything runs."""
    from mlops_assets.settings import Settings
    from mlops_assets.stack_backup import back_up_stack

    with told():
        back_up_stack(Settings.from_environment(), folder, everything, typer.echo)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="What 'mlops backup' wrote.", exists=True, file_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace what is there, and delete what the backup does not have.")] = False,
    seen: Annotated[
        int | None,
        typer.Option("--seen", min=0, help="Which generation gateways that do not answer follow at most: 0 if they are gone for good."),
    ] = None,
) -> None:
    """Bring a backup back, once every file was held against its digest. Dagster and MLflow must be stopped ('mlops down')."""
    from mlops_assets.settings import Settings
    from mlops_assets.stack_backup import restore_stack

    author = Author(getpass.getuser(), f"restored from {folder.resolve().name}")
    with told():
        restore_stack(Settings.from_environment(), folder, author, force, typer.echo, seen)


@app.command()
def retire(model: Model, reason: Reason) -> None:
    """Take a model out of use: no traffic, no releases that run, no trainings. Its history stays, and 'reinstate' undoes it."""
    with told():
        typer.echo(describe(_operator(model, reason).retire()))


@app.command()
def reinstate(model: Model, reason: Reason) -> None:
    """Bring a retired model back: its last champion has all traffic, and the sensors look after it again."""
    with told():
        typer.echo(describe(_operator(model, reason).reinstate()))


@app.command()
def retention(
    model: Annotated[str | None, typer.Argument(help="By default all models.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it now. Without this nothing is changed.")] = False,
) -> None:
    """Show what is past the time that retention of defs.yaml says. It is deleted once a day by the asset platform/retention."""
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.definitions import load_specs
    from mlops_assets.retention import delete as delete_past
    from mlops_assets.retention import look

    with told():
        platform = local_platform()
        for spec in [_spec(model)] if model else load_specs():
            found = look(platform, spec)
            if delete:
                delete_past(platform, spec, found)
            for row in found.counts():
                typer.echo(f"{spec.name} {row.kind}: {row.objects} objects, {row.size:,} bytes")
            typer.echo(f"{spec.name} releases that are kept no longer: {', '.join(found.releases) or 'none'}")
        typer.echo("deleted" if delete else "nothing was deleted: --delete does it")


def _spec(model: str) -> "ModelSpec":
    from mlops_assets.definitions import load_specs

    specs = {spec.name: spec for spec in load_specs()}
    if model not in specs:
        raise NotFound(f"there is no model {model!r}, expected one of {', '.join(specs)}")
    return specs[model]


@app.command()
def replay(
    model: Model,
    release: Annotated[str, typer.Option("--release", help="A past release, e.g. v3.")],
    policy: Annotated[Path | None, typer.Option("--policy", help="A defs.yaml, or a file with canary: or gates: to lay over.")] = None,
) -> None:
    """Decide a past release again from its stored evidence: its gate, and each look of its canary.

    --policy tells what another plan or other gates would have done. Without it the exit code is 1 if any figure differs.
    """
    from rich.console import Console

    from mlops_assets.adapters.local import local_platform
    from mlops_assets.replay import overlay_of, replay_release, show

    with told():
        replayed = replay_release(local_platform(), model, release, overlay_of(policy) if policy else None)
    show(replayed, model, release, policy, Console())
    if policy is None and not all(one.same for one in replayed):
        raise typer.Exit(1)


@app.command()
def report(
    model: Model, to: Annotated[Path | None, typer.Option("--to", help="The file; by default MODEL.html.", dir_okay=False)] = None
) -> None:
    """Fetch the newest report page of a model: one HTML file for any browser. Materialize ``report`` to have it made anew."""
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.assets.report import report_key

    file = to or Path(f"{model}.html")
    with told():
        file.write_bytes(local_platform().objects.get(report_key(model)))
        typer.echo(f"wrote {file}")


@app.command("triton-repository")
def triton_repository(
    model: Model,
    release: Annotated[str, typer.Argument(help="A registered release, e.g. v12.")],
    folder: Annotated[Path, typer.Argument(help="As `tritonserver --model-repository` is told; it is made.", file_okay=False)],
) -> None:
    """Write a release as an entry of a Triton model repository, by what `triton` and `serving` of its defs.yaml say."""
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.adapters.triton import write_entry

    with told():
        platform, spec = local_platform(), _spec(model)
        known = platform.registry.release(model, release)
        data = platform.objects.get(known.uri)
        typer.echo(f"wrote {write_entry(folder, model, release, known.digest, data, spec.triton, spec.serving.threads)}")


@app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="The id of a request, as its answer and the header x-request-id have it.")],
    model: Annotated[str | None, typer.Option("--model", help="Whose; by default the logs of all models are looked through.")] = None,
    since: Annotated[str, typer.Option("--since", help="How far back to look, e.g. 24h or 30d.")] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Which release answered a request, from which features and data, and what let it into production."""
    from rich.console import Console

    from mlops_assets.adapters.local import local_platform
    from mlops_assets.components.attributes import duration
    from mlops_assets.explain import explain as look
    from mlops_assets.explain_page import show
    from mlops_assets.settings import Settings

    try:
        back = duration("--since", since)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with told():
        found = look(local_platform(), Settings.from_environment(), request_id, model, back, _spec)
    if as_json:
        typer.echo(json.dumps([one.to_document() for one in found], indent=1))
    else:
        show(found, Console())


def _operator(model: str, reason: str) -> "Operator":
    from mlops_assets.adapters.local import local_platform
    from mlops_assets.operations import Operator

    return Operator(local_platform(), model, Author(getpass.getuser(), reason), lambda text: typer.echo(f"warning: {text}", err=True))
