"""Feature values by Feast: an offline store of ours for what was known as of a time, its SQLite or Redis store for what is known now.

The rows of the views live in the object store, one Parquet file a day and view. Feast reads a copy of them on this
machine, since DuckDB needs an extension for S3 that cannot be had everywhere; ``feast_mirror.Mirror`` brings it up to date before
every answer.
"""

import io
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.adapters.feast_import import import_feast
from mlops_assets.adapters.feast_mirror import PREFIX, HomeLock, Mirror, to_parquet
from mlops_assets.adapters.feast_online import OnlineStore
from mlops_assets.adapters.online_layout import PROJECT, read_version, write_version
from mlops_assets.core.errors import BadData, NotFound, SpecError, Unavailable
from mlops_assets.core.feature_spec import Features
from mlops_assets.core.feature_views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureDefinitions, FeatureVersion, View
from mlops_assets.ports import ObjectStore
from mlops_assets.settings import sqlite_url

_OFFLINE = ("mlops_assets.adapters.feast_offline.AsKnownOfflineStore", "mlops_assets.adapters.feast_ray.AsKnownRayOfflineStore")


class FeastFeatureStore:
    """A :class:`mlops_assets.ports.FeatureStore`. Views are found through ``features.transform``, and shared by name.

    Processes may share ``home``: a file lock keeps writers apart from readers, and each process has a Feast registry of
    its own, made from the definitions in code.

    Args:
        repo: the folder with ``feature_store.yaml``; its paths are replaced by those below ``home``.
        home: a folder for the copy of the views and, unless there is an ``online_url``, for the online store. It can be rebuilt.
        objects: holds the rows, under ``tables/features/<view>/<YYYY-MM-DD>.parquet``.
        online_url: where the online store is, ``redis://host:port/db`` or ``sqlite:///path``.
    """

    def __init__(self, repo: Path, home: Path, objects: ObjectStore, online_url: str | None = None) -> None:
        self._repo = repo
        self._home = home.resolve()
        self._objects = objects
        self._mirror = Mirror(self._home, objects)
        folder = self._home / "online"
        self._online = OnlineStore(online_url or sqlite_url(folder / "store.db"), folder)
        self._lock = HomeLock(self._home / "lock")
        self._guard = threading.RLock()
        self._registry = TemporaryDirectory(prefix="mlops-feast-")
        self._feast: Any = None
        self._applied: dict[str, FeatureDefinitions] = {}

    def write(self, view: View, day: date, rows: pd.DataFrame, written_at: datetime, transform: str = "") -> None:
        key = f"{PREFIX}/{view.name}/{day}.parquet"
        written = feature_rows.rewritten(view, day, self._stored(key), rows, written_at, transform)
        if written is None:
            return
        self._objects.put(key, to_parquet(view, written))

    def as_of(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=True)
        if entities.empty or not projection:
            nothing = feature_rows.beside_each_other([feature_rows.empty(view) for view in projection], len(entities))
            return feature_rows.assemble(features, definitions, entities, nothing[_fields(projection)])
        with self._ready(features.transform, definitions) as store, self._lock.shared():
            found = store.get_historical_features(
                entity_df=_entity_frame(projection, entities),
                features=[f"{view.name}:{field.name}" for view in projection for field in view.fields],
            ).to_df()
        return feature_rows.assemble(features, definitions, entities, found[_fields(projection)])

    def newest(self, features: Features, until: datetime, entities: Mapping[str, str] | None = None) -> dict[str, datetime | None]:
        definitions = feature_rows.load_definitions(features.transform)
        with self._ready(features.transform, definitions), self._lock.shared():
            rows = {view.name: self._mirror.read(definitions.view(view.name)) for view in definitions.projection(features.service)}
        return {
            view.name: feature_rows.newest_value(view, feature_rows.of_entity(view, rows[view.name], entities), until)
            for view in definitions.projection(features.service)
        }

    def materialize(self, features: Features, until: datetime) -> int:
        definitions = feature_rows.load_definitions(features.transform)
        version = definitions.version(features.service)
        with self._ready(features.transform, definitions) as store, self._lock.exclusive():
            if not self._is_filled_by(version):  # said before there are values that are otherwise
                write_version(self._objects, version, None)
            written = sum(self._write_online(store, view, until) for view in definitions.views)
        write_version(self._objects, version, until)
        return written

    def online(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=False)
        if not projection:
            return feature_rows.assemble(features, definitions, entities, feature_rows.beside_each_other([], len(entities)))
        keys = {view.entity: [_key(value) for value in entities[view.entity]] for view in projection}
        with self._ready(features.transform, definitions, mirrored=False) as store, self._lock.shared():
            answer = store.get_online_features(
                features=[f"{view.name}:{field.name}" for view in projection for field in view.fields],
                entity_rows=[dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)],
            ).to_dict()
        values = pd.DataFrame({field.name: _typed(answer[field.name], field.type) for view in projection for field in view.fields})
        return feature_rows.assemble(features, definitions, entities, values)

    def version(self, features: Features) -> FeatureVersion:
        return feature_rows.load_definitions(features.transform).version(features.service)

    def _is_filled_by(self, version: FeatureVersion) -> bool:
        try:
            return read_version(self._objects, version.service) == version
        except BadData:
            return False

    def _stored(self, key: str) -> pd.DataFrame | None:
        try:
            return pd.read_parquet(io.BytesIO(self._objects.get(key)))
        except NotFound:
            return None

    def _write_online(self, store: Any, view: View, until: datetime) -> int:
        """Write what changed since the last time. Feast's own materialization neither expires values nor heeds late ones."""
        from feast.infra.provider import get_provider

        now = feature_rows.latest(view, self._mirror.read(view), until)
        rows = feature_rows.changed(view, self._online.written(view), now)
        if len(rows):
            # Not store.write_to_online_store: it drops a frame whose values are all null, and the old ones would stay.
            with _feast_errors("write online features"):
                get_provider(store.config).ingest_df(store.get_feature_view(view.name), rows)
        self._online.remember(view, now)
        return len(rows)

    @contextmanager
    def _ready(self, transform: str, definitions: FeatureDefinitions, mirrored: bool = True) -> Iterator[Any]:
        """Feast's store, with the definitions applied and, if asked for, the mirror up to date."""
        with self._guard, warnings.catch_warnings(), _feast_errors("answer"):
            if mirrored or self._applied.get(transform) != definitions:
                with self._lock.exclusive():
                    for view in definitions.views:
                        self._mirror.sync(view)
                    self._apply(transform, definitions)
            # Its dependencies deprecate each other at every call, and importing Feast resets the filters.
            warnings.simplefilter("ignore")
            yield self._feast

    def _apply(self, transform: str, definitions: FeatureDefinitions) -> None:
        if self._feast is None:
            self._feast = _open(self._repo, self._home, Path(self._registry.name), self._online.configuration())
        if self._applied.get(transform) != definitions:
            self._feast.apply(_feast_objects(definitions, self._mirror))
            self._applied[transform] = definitions


def _open(repo: Path, home: Path, registry: Path, online: dict[str, Any]) -> Any:
    """A Feast store as ``feature_store.yaml`` says, with its files below ``home``, a registry of its own, and this online store."""
    import yaml
    from feast import FeatureStore, RepoConfig

    document = yaml.safe_load((repo / "feature_store.yaml").read_text())
    document["registry"] = {"registry_type": "file", "path": str(registry / "registry.db"), "cache_ttl_seconds": 0}
    spill = home / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    offline = {"temp_directory": str(spill), **_offline(document["offline_store"])}
    document |= {"project": PROJECT, "offline_store": offline, "online_store": online}
    return FeatureStore(config=RepoConfig(repo_path=str(repo.resolve()), **document))


def _offline(said: dict[str, Any]) -> dict[str, Any]:
    """What ``feature_store.yaml`` says of the offline store, if it is one of ours."""
    if said["type"] not in _OFFLINE:
        # Others lose the order of the rows, or rows, and show what was written later.
        names = " or, for a Ray cluster, ".join(_OFFLINE)
        raise SpecError(f"feature_store.yaml: got offline_store type {said['type']!r}, expected {names}: write one of them")
    if said["type"] == _OFFLINE[1] and find_spec("ray") is None:
        raise SpecError(f"feature_store.yaml: offline_store type {said['type']} needs Ray: install mlops-assets[ray]")
    return said


def _feast_objects(definitions: FeatureDefinitions, mirror: Mirror) -> list[Any]:
    import feast
    from feast.types import Float64, String

    types = {"float": Float64, "string": String}
    names = sorted({view.entity for view in definitions.views})
    entities = {name: feast.Entity(name=name, join_keys=[name], value_type=feast.ValueType.STRING) for name in names}
    views = {}
    for view in definitions.views:
        source = feast.FileSource(
            name=view.name, path=str(mirror.path(view)), timestamp_field=EVENT_TIMESTAMP, created_timestamp_column=CREATED_TIMESTAMP
        )
        fields = [feast.Field(name=field.name, dtype=types[field.type]) for field in view.fields]
        schema = [feast.Field(name=view.entity, dtype=String), *fields]
        views[view.name] = feast.FeatureView(name=view.name, entities=[entities[view.entity]], ttl=view.ttl, schema=schema, source=source)
    services = [
        feast.FeatureService(
            name=service.name,
            # on-demand views are not Feast's: its registry would keep their code as a pickle (ADR 29)
            features=[views[part.name][[field.name for field in part.fields]] for part in definitions.projection(service.name)],
        )
        for service in definitions.services
    ]
    return [*entities.values(), *views.values(), *services]


def _entity_frame(projection: tuple[View, ...], entities: pd.DataFrame) -> pd.DataFrame:
    """What Feast looks up by."""
    columns = {name: entities[name].array.astype("string") for name in dict.fromkeys(view.entity for view in projection)}
    return pd.DataFrame({**columns, EVENT_TIMESTAMP: feature_rows.utc_micro(entities[EVENT_TIMESTAMP]).array})


def _fields(projection: tuple[View, ...]) -> list[str]:
    return [field.name for view in projection for field in view.fields]


def _key(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _typed(values: list[Any], kind: str) -> "pd.Series[Any]":
    return pd.Series(values, dtype="float64" if kind == "float" else "object")


@contextmanager
def _feast_errors(doing: str) -> Iterator[None]:
    """Feast's errors as ours: a store that is locked or broken is :class:`Unavailable`, what Feast will not take is bad data."""
    import sqlite3

    import_feast()
    from feast.errors import FeastError
    from redis import RedisError

    try:
        yield
    except RedisError as error:
        raise Unavailable(f"Feast could not {doing}: Redis says {error}; see that it runs, and try again") from error
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"Feast could not {doing}: its online store says {error}; try again, or delete its folder") from error
    except FeastError as error:
        raise BadData(f"Feast could not {doing}: {error}; mend the definitions in the feature module, or the rows of the view") from error
