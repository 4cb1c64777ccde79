"""An object store whose connection can be cut."""

from collections.abc import Sequence

from mlops_assets.adapters.memory import MemoryObjectStore
from mlops_assets.core.errors import Unavailable
from mlops_assets.ports import ObjectInfo


class CuttableObjectStore:
    """A store in memory. While ``down`` it does not answer; while ``deaf`` it does what it is asked, and the answer is lost."""

    def __init__(self) -> None:
        self.kept = MemoryObjectStore()
        self.down = self.deaf = False

    def get(self, key: str) -> bytes:
        self._require_up()
        return self.kept.get(key)

    def put(self, key: str, data: bytes) -> None:
        self._require_up()
        self.kept.put(key, data)

    def create(self, key: str, data: bytes) -> None:
        self._require_up()
        self.kept.create(key, data)
        if self.deaf:
            raise Unavailable("the connection was cut before the answer")

    def list(self, prefix: str, after: str = "") -> Sequence[ObjectInfo]:
        self._require_up()
        return self.kept.list(prefix, after)

    def delete(self, key: str) -> None:
        self._require_up()
        self.kept.delete(key)

    def _require_up(self) -> None:
        if self.down:
            raise Unavailable("the object store does not answer")
