"""Copy what lives and bring it back: the databases of Dagster and MLflow, the policies, and what lies in the object store.

A backup is taken while everything runs. What is copied first may be older than what is copied after, never newer, and the order is such
that this does no harm: Dagster, then the policies, then MLflow and the objects. So Dagster lacks at most the newest changes of a policy,
which the reconciler records again, and everything that a policy names is there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from mlops_assets.adapters.codec import decode, encode
from mlops_assets.adapters.databases import DUMP, Database, PostgresDatabase
from mlops_assets.adapters.hours import is_progress
from mlops_assets.adapters.s3 import policy_key
from mlops_assets.core import policy as policies
from mlops_assets.core import policy_changes
from mlops_assets.core.errors import BadData, IllegalChange, NotFound
from mlops_assets.core.policy import Author, Policy
from mlops_assets.ports import Platform, model_key

MANIFEST, OBJECTS, POLICIES = "manifest.json", "objects", "policies"
VERSION = 1
BUCKETS = ("models", "evidence", "tables", "monitoring", "mlflow")
"""What a platform cannot do without, or could compute again at the cost of days."""

LARGE = ("landing", "predictions")
"""What others landed, and the raw log: only if it is asked for."""

UNREADABLE = 0
"""Stands for the generation of a stored policy that cannot be read; a stored one has at least 1."""

_AT_ONCE = 8


@dataclass(frozen=True)
class File:
    """One file of a backup, by its path below the backup's folder."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a backup is made of. It is written last: a folder without one is no backup."""

    made_at: datetime
    versions: dict[str, str]
    databases: tuple[str, ...]
    buckets: tuple[str, ...]
    generations: dict[str, int]
    files: tuple[File, ...]


def back_up(platform: Platform, databases: Sequence[Database], folder: Path, buckets: Sequence[str] = BUCKETS) -> Manifest:
    """Copy everything into ``folder``, which must be empty or missing.

    Args:
        databases: Dagster's first.

    Raises:
        IllegalChange: if the folder holds something.
        BadData: if a release that a policy needs is not there with its digest: such a backup would bring nothing back.
        Unavailable: if a system does not answer.
    """
    if folder.exists() and any(folder.iterdir()):
        raise IllegalChange(f"{folder} is not empty: a backup goes into a folder of its own")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    first, *others = databases
    first.copy(folder / first.name)
    found = [platform.policies.read(model) for model in platform.policies.models()]
    for policy in found:
        _write(folder / POLICIES / f"{policy.model}.json", encode(policy))
    for database in others:
        database.copy(folder / database.name)
    for bucket in buckets:
        _copy_bucket(platform, bucket, folder / OBJECTS)
    for policy in found:
        _require_whole(policy, folder, platform.clock())
    manifest = Manifest(
        made_at=platform.clock(),
        versions={name: version(name) for name in ("mlops-assets", "dagster", "mlflow")},
        databases=tuple(database.name for database in databases),
        buckets=tuple(buckets),
        generations={policy.model: policy.generation for policy in found},
        files=tuple(_files(folder)),
    )
    document = {"version": VERSION, **asdict(manifest), "made_at": manifest.made_at.isoformat()}
    _write(folder / MANIFEST, json.dumps(document, indent=1).encode())
    return manifest


def read(folder: Path) -> Manifest:
    """The manifest of a backup, after every file was held against its digest.

    Raises:
        BadData: if there is none, it is of another version, or a file is not as it was written.
    """
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
        if document.pop("version") != VERSION:
            raise BadData(f"{folder} is a backup of another version than {VERSION}: restore it by the program that made it")
        files = tuple(File(**file) for file in document.pop("files"))
        lists = {name: tuple(document.pop(name)) for name in ("databases", "buckets")}
        manifest = Manifest(datetime.fromisoformat(document.pop("made_at")), files=files, **lists, **document)
    except FileNotFoundError as error:
        raise BadData(f"{folder} has no {MANIFEST}: it is no backup, or one that was not finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{folder / MANIFEST} cannot be read ({error}): use another backup") from error
    there = {file.path: file for file in _files(folder)}
    wrong = [file.path for file in manifest.files if there.get(file.path) != file] + sorted(there.keys() - {f.path for f in manifest.files})
    if wrong:
        raise BadData(f"{len(wrong)} files of {folder} are not as they were written, first {', '.join(wrong[:3])}: use another backup")
    return manifest


def restore(
    platform: Platform, databases: Sequence[Database], folder: Path, author: Author, followed: Callable[[str], int], force: bool = False
) -> Manifest:
    """Bring a backup back. The policies come last: until then nothing is live by it, and a restore that was cut off is begun again.

    Each policy gets one more change, ``restore``, of a generation that no gateway has seen: it would ignore an older one. A model that
    the backup does not know gets a policy of nothing. Without one nobody would take back its route and its releases, and a later training
    would begin at a generation that gateways ignore.

    Args:
        followed: the newest generation of a model that a gateway follows.
        force: replace what is there; what the backup does not have is deleted from its buckets.

    Raises:
        BadData: if the backup is not whole.
        IllegalChange: if something is there already, or somebody is connected to a database.
        Unavailable: if ``followed`` does not know it; nothing is changed then.
    """
    manifest = read(folder)
    databases = [database for database in databases if database.name in manifest.databases]
    _require_same_kind(databases, folder)
    for database in databases:
        if users := database.users():
            raise IllegalChange(f"{users} connections to the database of {database.name} are open: stop Dagster and MLflow first")
    if not force:
        _require_empty(platform, databases, manifest)
    kept = {path.stem: decode(Policy, path.read_bytes(), str(path)) for path in sorted((folder / POLICIES).glob("*.json"))}
    stored = {model: _generation(platform, model) for model in platform.policies.models()}
    # Before anything is written: whoever does not know what gateways follow must not begin.
    seen = {model: max(stored.get(model, 0), followed(model)) for model in sorted(kept.keys() | stored.keys())}
    for database in databases:
        database.load(folder / database.name)
    for bucket in manifest.buckets:
        _restore_bucket(platform, bucket, folder / OBJECTS)
    for model, newest in seen.items():
        signed = author if model in kept else replace(author, why=f"{author.why}, which knows no {model}")
        restored = policy_changes.restore(kept.get(model, Policy(model)), newest, signed, platform.clock())
        if stored.get(model) == UNREADABLE:  # nothing could be written over it
            platform.objects.delete(policy_key(model))
        platform.policies.write(restored, stored.get(model, 0))
    return manifest


def _generation(platform: Platform, model: str) -> int:
    try:
        return platform.policies.read(model).generation
    except BadData:
        return UNREADABLE


def _require_empty(platform: Platform, databases: Sequence[Database], manifest: Manifest) -> None:
    full = [database.name for database in databases if not database.is_empty()]
    full += ["the policy store"] if platform.policies.models() else []
    full += [f"bucket {bucket}" for bucket in manifest.buckets if platform.objects.list(f"{bucket}/")]
    if full:
        raise IllegalChange(f"{', '.join(full)} holds something already: --force replaces it, and deletes what the backup does not have")


def _require_same_kind(databases: Sequence[Database], folder: Path) -> None:
    for database in databases:
        dumped = (folder / database.name / DUMP).exists()
        if dumped != isinstance(database, PostgresDatabase) and any((folder / database.name).rglob("*")):
            got, expected = ("Postgres", "SQLite") if dumped else ("SQLite", "Postgres")
            raise IllegalChange(f"the backup of {database.name} is of {got}, and {expected} is configured: restore it where it came from")


def _require_whole(policy: Policy, folder: Path, now: datetime) -> None:
    for release in sorted(policies.needed(policy, now)):
        key = model_key(policy.model, release)
        path = folder / OBJECTS / key
        got = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no file"
        if got != policy.digests[release]:
            raise BadData(f"{key}: got {got}, expected sha256 {policy.digests[release]}: bring its earlier version back")


def _copy_bucket(platform: Platform, bucket: str, folder: Path) -> None:
    def copy(key: str) -> None:
        try:
            _write(folder / key, platform.objects.get(key))
        except NotFound:  # deleted since it was listed, by retention: then it need not be here
            return

    keys = [info.key for info in platform.objects.list(f"{bucket}/")]
    first = [key for key in keys if is_progress(key)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for some in (first, [key for key in keys if not is_progress(key)]):
            for _ in pool.map(copy, some):
                continue


def _restore_bucket(platform: Platform, bucket: str, folder: Path) -> None:
    kept = {str(path.relative_to(folder)): path for path in (folder / bucket).rglob("*") if path.is_file()}
    for info in platform.objects.list(f"{bucket}/"):
        if info.key not in kept:
            platform.objects.delete(info.key)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(lambda key: platform.objects.put(key, kept[key].read_bytes()), sorted(kept)):
            continue


def _files(folder: Path) -> Iterator[File]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        yield File(str(path.relative_to(folder)), digest, path.stat().st_size)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
