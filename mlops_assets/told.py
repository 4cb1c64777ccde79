"""How a command tells a person of an error."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlops_assets.core.errors import MlopsError


@contextmanager
def told() -> Iterator[None]:
    """An error of ours is a message and exit code 1, not a traceback."""
    try:
        yield
    except MlopsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
