"""The local stack's own credentials: made once at random, kept in ``<home>/credentials.json``, readable by its owner only."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.adapters.whole_file import replace_file
from mlops_assets.core.errors import BadData, NotFound

FILE = "credentials.json"


@dataclass(frozen=True)
class Credentials:
    """Key and secret of the local S3."""

    access_key: str
    secret_key: str

    def environment(self) -> Mapping[str, str]:
        """The variables under which boto3 finds them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key, "AWS_DEFAULT_REGION": "us-east-1"}

    def __repr__(self) -> str:
        return "Credentials(...)"


def read(home: Path) -> Credentials:
    """The credentials of the stack in ``home``.

    Raises:
        NotFound: if the stack was never up.
        BadData: if the file cannot be understood.
    """
    path = home / FILE
    try:
        return Credentials(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path}: 'mlops up' makes it, and MLOPS_HOME says where the stack lives") from error
    except (ValueError, TypeError) as error:
        raise BadData(
            f"{path} does not hold an access_key and a secret_key: delete it while the stack is down, and it is made anew"
        ) from error


def ensure(home: Path) -> Credentials:
    """The credentials of the stack in ``home``, made now if there are none."""
    if not (home / FILE).exists():
        made = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_urlsafe(30)}
        replace_file(home / FILE, json.dumps(made), private=True)
    return read(home)
