"""``mlops migrate``: the databases of Dagster and MLflow as the installed versions want them. Run it once after an upgrade."""

from collections.abc import Callable, Collection
from enum import StrEnum

from mlops_assets.core.errors import Unavailable
from mlops_assets.settings import Settings, without_password

Progress = Callable[[str], None]


class Database(StrEnum):
    """Whose database it is."""

    DAGSTER = "dagster"
    MLFLOW = "mlflow"


def migrate(settings: Settings, progress: Progress, whose: Collection[Database] = tuple(Database)) -> None:
    """Bring databases to the newest schema, empty ones as well. Harmless if they are.

    Raises:
        Unavailable: if a database does not answer, or refuses.
    """
    if Database.DAGSTER in whose:
        _migrate_dagster(settings, progress)
    if Database.MLFLOW in whose:
        _migrate_mlflow(settings, progress)


def _migrate_dagster(settings: Settings, progress: Progress) -> None:
    from dagster import DagsterInstance
    from dagster_postgres.utils import DagsterPostgresException
    from sqlalchemy.exc import SQLAlchemyError

    from mlops_assets.dagster_instance import instance_config

    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    if not (config := settings.dagster_home / "dagster.yaml").exists():
        config.write_text(instance_config(settings))
    try:
        with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            instance.upgrade(lambda line: progress(f"Dagster: {line}") if line else None)
            instance.reindex(lambda line: progress(f"Dagster: {line}") if line else None)
    except (SQLAlchemyError, DagsterPostgresException) as error:
        raise _refused("Dagster", settings.dagster_database or str(settings.dagster_home), error) from error
    progress("Dagster's database is as this version wants it")


def _migrate_mlflow(settings: Settings, progress: Progress) -> None:
    from mlflow.store.db import utils
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    (settings.home / "mlflow").mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(settings.mlflow_database)
        try:
            # as 'mlflow db upgrade URL' does, which would have the password on its command line
            (utils._initialize_tables if utils._is_empty_database(engine) else utils._upgrade_db)(engine)
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        raise _refused("MLflow", settings.mlflow_database, error) from error
    progress("MLflow's database is as this version wants it")


def _refused(whose: str, url: str, error: Exception) -> Unavailable:
    cause = " ".join(str(getattr(error, "orig", None) or error).split())
    return Unavailable(
        f"the database of {whose} ({without_password(url)}) does not answer or refuses: {cause}. See that it runs, then again"
    )
