"""``mlops backup`` and ``mlops restore``: which databases there are, and who must be up for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def restore_stack(settings: Settings, folder: Path, author: Author, force: bool, progress: Progress) -> None:
    """Restore into what is configured. Of the local stack nothing may run; its own object store is started for it, and stopped.

    Raises:
        IllegalChange: if the stack runs.
    """
    from mlops_assets.migrate import migrate

    with _object_store(settings):
        platform = local_platform(settings)
        made = backup.restore(platform, databases_of(settings), folder, author, lambda model: _followed(platform, settings, model), force)
    migrate(settings, progress)
    told = ", ".join(f"{model} at generation {generation}" for model, generation in made.generations.items())
    progress(f"restored what was at {made.made_at:%Y-%m-%d %H:%M:%S} UTC: {told or 'no policy'}; start Dagster and MLflow now ('mlops up')")


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


def _followed(platform: Platform, settings: Settings, model: str) -> int:
    """The newest generation that any gateway follows, or will when it starts again."""
    try:
        return max(platform.gateway.applied(model).values(), default=0)
    except Unavailable:
        return read_state(settings.home / "envoy").get(model, Entry()).generation
