"""Fields that tell who somebody is: hashed with a key, or left out, before anything of them is kept."""

import hmac
from typing import Literal

from mlops_assets.core.errors import SpecError

Pii = Literal["hash", "drop"]

KEY_VARIABLE = "MLOPS_PII_KEY"
SHORTEST_KEY = 16
"""Characters: 128 bits in hexadecimal are 32 of them."""

HIDDEN = "a value that is not shown"
"""Stands for a value of a marked field in errors and in the UI."""


def pseudonym(key: str, model: str, field: str, value: str) -> str:
    """What stands for a value of a field: the first 128 bits of an HMAC-SHA256 (RFC 2104) in hexadecimal.

    The same value is the same pseudonym in every release of the model, and another one in another field or model, so that two logs cannot
    be joined by it. Without the key nobody can try all values there are, as with a plain hash of a card number.

    >>> pseudonym("0123456789abcdef", "fraud-detector", "card", "4000 1234")
    'a2fb55cf52f3f26ca07e4b6f2bc95aac'
    """
    return hmac.digest(key.encode(), "\0".join((model, field, value)).encode(), "sha256")[:16].hex()


def require_key(key: str, model: str, fields: str) -> None:
    """See that there is a key to hash ``fields`` with, else :class:`SpecError`. The key itself is never told."""
    if len(key) < SHORTEST_KEY:
        got = f"fewer than {SHORTEST_KEY} characters" if key else "nothing"
        raise SpecError(
            f"{model}: {fields} is marked pii: hash, and {KEY_VARIABLE} holds {got}: set it to a secret of {SHORTEST_KEY} characters or "
            "more in the environment of the releases and of Dagster (on one machine, of 'mlops up'), the same in all and for good"
        )
