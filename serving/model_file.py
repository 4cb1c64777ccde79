"""Gets a release's ONNX file: from the disk if it was there before, so that a restart does not need the object store."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mlops_assets.core.errors import DigestMismatch
from mlops_assets.ports import ObjectStore


def fetch(objects: ObjectStore, home: Path, model: str, release: str, digest: str, folder: Path | None = None) -> bytes:
    """The bytes whose SHA-256 is ``digest``. They are kept as ``<home>/models/<digest>.onnx``.

    ``folder`` may hold them too, under the same name: an image of one release brings its model there.

    Raises:
        DigestMismatch: if the object store holds other bytes under the release's name.
        NotFound: if it holds none, and neither does the disk.
        Unavailable: if it does not answer, and the disk does not have them.
    """
    kept = home / "models" / f"{digest}.onnx"
    for path in (kept, folder / kept.name) if folder else (kept,):
        if path.exists() and _digest(data := path.read_bytes()) == digest:
            return data
    key = f"models/{model}/{release}/model.onnx"
    data = objects.get(key)
    if _digest(data) != digest:
        raise DigestMismatch(
            f"object {key}: got sha256 {_digest(data)}, expected {digest}: it was changed since it was registered; restore it"
        )
    _keep(kept, data)
    return data


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        draft.write(data)
        draft.flush()
        os.fsync(draft.fileno())
    Path(draft.name).replace(path)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
