"""``mlops backup`` and ``mlops restore``: which databases there are, and who must be up for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mlops_assets import backup
from mlops_assets.adapters.databases import Database, PostgresDatabase, SqliteFiles
from mlops_assets.adapters.envoy_state import Entry, read_state
from mlops_assets.adapters.local import local_platform
from mlops_assets.core.errors import IllegalChange, Unavailable
from mlops_assets.core.policy import Author
from mlops_assets.ports import Platform
from mlops_assets.settings import Settings
from mlops_assets.stack import Stack
from mlops_assets.stack_processes import left_behind
from mlops_assets.stack_services import S3

Progress = Callable[[str], None]
_DAGSTER_FILES = ("history/runs.db", "schedules/schedules.db", "history/runs/*.db")
"""Runs first: an event of a run that is not there is passed over, a run without its events is not."""


def databases_of(settings: Settings) -> Sequence[Database]:
    """Dagster's, MLflow's, and the online features if they are in a file; those in a Redis are materialized anew."""
    tells = {"dagster": ("runs",), "mlflow": ("registered_models", "runs")}
    dagster: Database = SqliteFiles("dagster", settings.dagster_home, _DAGSTER_FILES, tells["dagster"])
    if settings.dagster_database:
        dagster = PostgresDatabase("dagster", settings.dagster_database, tells["dagster"])
    mlflow: Database = SqliteFiles("mlflow", settings.home / "mlflow", ("mlflow.db",), tells["mlflow"])
    if not settings.mlflow_database.startswith("sqlite"):
        mlflow = PostgresDatabase("mlflow", settings.mlflow_database, tells["mlflow"])
    online = [SqliteFiles("online", settings.home / "feast" / "online", ("*.db",), ())] if settings.online_url.startswith("sqlite") else []
    return (dagster, mlflow, *online)


def back_up_stack(settings: Settings, folder: Path, everything: bool, progress: Progress) -> None:
    """Back up what is configured. The object store must run; Dagster and MLflow may."""
    buckets = (*backup.BUCKETS, *(backup.LARGE if everything else ()))
    made = backup.back_up(local_platform(settings), databases_of(settings), folder, buckets)
    total = sum(file.size for file in made.files)
    progress(f"{len(made.files)} files, {total:,} bytes in {folder}: {', '.join(made.databases)}, policies, {', '.join(made.buckets)}")


def restore_stack(settings: Settings, folder: Path, author: Author, force: bool, progress: Progress, seen: int | None = None) -> None:
    """Restore into what is configured. Of the local stack nothing may run; its own object store is started for it, and stopped.

    Args:
        seen: the generation that gateways which do not answer follow at most; None if nobody knows.

    Raises:
        IllegalChange: if the stack runs.
        Unavailable: if the gateways of a cluster do not answer and ``seen`` is None; nothing is changed then.
    """
    from mlops_assets.migrate import migrate

    with _object_store(settings):
        platform = local_platform(settings)
        followed = partial(_followed, platform, settings, seen)
        made = backup.restore(platform, databases_of(settings), folder, author, followed, force)
        unknown = [model for model in platform.policies.models() if model not in made.generations]
    migrate(settings, progress)
    told = [f"{model} at generation {generation}" for model, generation in made.generations.items()] or ["no policy"]
    told += [f"nothing of {model}, which was made later" for model in unknown]
    at = f"{made.made_at:%Y-%m-%d %H:%M:%S} UTC"
    progress(f"restored what was at {at}: {', '.join(told)}; start Dagster and MLflow now ('mlops up')")


@contextmanager
def _object_store(settings: Settings) -> Iterator[None]:
    if not settings.has_own_s3:
        yield
        return
    if Stack(settings).runs() or left_behind(settings.home):
        raise IllegalChange(f"the stack in {settings.home} runs: 'mlops down' first, since its databases are replaced")
    stack = Stack(settings, (S3,))
    stack.up()
    try:
        yield
    finally:
        stack.down()


def _followed(platform: Platform, settings: Settings, seen: int | None, model: str) -> int:
    """The newest generation that any gateway follows, or will when it starts again; ``seen`` at least.

    Raises:
        Unavailable: if gateways that keep their state themselves do not tell, and ``seen`` is None.
    """
    least = seen or 0
    try:
        return max([least, *platform.gateway.applied(model).values()])
    except Unavailable as error:
        if not platform.gateway.follows_policies:  # it is this machine's, and so is its state
            return max(least, read_state(settings.home / "envoy").get(model, Entry()).generation)
        if seen is not None:
            return seen
        raise Unavailable(
            f"nothing was restored: gateways ignore a policy that is no newer than the one they follow, and do not tell which one of "
            f"{model} that is ({error}). See that MLOPS_GATEWAYS names all of them as they are reached from here and MLOPS_GATEWAY_TOKEN "
            f"is theirs, or say by --seen which generation they follow at most: 0 if they are gone for good"
        ) from error
