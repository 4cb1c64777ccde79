"""What is wrong with a request."""

from __future__ import annotations

import msgspec

from mlops_assets.core.errors import MlopsError


class BadRequest(MlopsError):
    """The request cannot be answered as it is. ``field`` is the path of what is wrong, e.g. ``rows[3].inputs.hour``."""

    def __init__(self, field: str, got: str, expected: str, mend: str) -> None:
        super().__init__(f"{field}: got {got}, expected {expected}: {mend}")
        self.field, self.got, self.expected, self.mend = field, got, expected, mend

    def body(self) -> bytes:
        """The JSON answer."""
        return msgspec.json.encode({"error": {"field": self.field, "got": self.got, "expected": self.expected, "mend": self.mend}})
