"""Feature values by Feast: an offline store of ours for what was known as of a time, its SQLite store for what is known now.

The rows of the views live in the object store, one Parquet file a day and view. Feast reads a copy of them on this
machine, since DuckDB needs an extension for S3 that cannot be had everywhere; ``feast_mirror.Mirror`` brings it up to date before
every answer.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.adapters.feast_mirror import PREFIX, HomeLock, Mirror, replace_rows, schema_digest
from mlops_assets.core.errors import BadData, NotFound, SpecError, Unavailable
from mlops_assets.core.feature_views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureDefinitions, View
from mlops_assets.core.model_spec import Features
from mlops_assets.ports import ObjectStore

_OFFLINE = "mlops_assets.adapters.feast_offline.AsKnownOfflineStore"


class FeastFeatureStore:
    """A :class:`mlops_assets.ports.FeatureStore`. Views are found through ``features.transform``, and shared by name.

    Processes may share ``home``: a file lock keeps writers apart from readers, and each process has a Feast registry of
    its own, made from the definitions in code.

    Args:
        repo: the folder with ``feature_store.yaml``; its paths are replaced by those below ``home``.
        home: a folder for the copy of the views and for the online store. It can be rebuilt from ``objects``.
        objects: holds the rows, under ``tables/features/<view>/<YYYY-MM-DD>.parquet``.
    """

    def __init__(self, repo: Path, home: Path, objects: ObjectStore) -> None:
        self._repo = repo
        self._home = home.resolve()
        self._objects = objects
        self._mirror = Mirror(self._home, objects)
        self._lock = HomeLock(self._home / "lock")
        self._guard = threading.RLock()
        self._registry = TemporaryDirectory(prefix="mlops-feast-")
        self._feast: Any = None
        self._applied: dict[str, FeatureDefinitions] = {}

    def write(self, view: View, day: date, rows: pd.DataFrame, written_at: datetime) -> None:
        key = f"{PREFIX}/{view.name}/{day}.parquet"
        written = feature_rows.rewritten(view, day, self._stored(key), rows, written_at)
        if written is None:
            return
        buffer = io.BytesIO()
        written.to_parquet(buffer, index=False)
        self._objects.put(key, buffer.getvalue())

    def as_of(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=True)
        if entities.empty:
            nothing = pd.concat([feature_rows.empty(view) for view in projection], axis=1)
            return feature_rows.assemble(features, entities, nothing[_fields(projection)])
        with self._ready(features.transform, definitions) as store, self._lock.shared():
            found = store.get_historical_features(
                entity_df=_entity_frame(projection, entities),
                features=[f"{view.name}:{field.name}" for view in projection for field in view.fields],
            ).to_df()
        return feature_rows.assemble(features, entities, found[_fields(projection)])

    def newest(self, features: Features, until: datetime) -> dict[str, datetime | None]:
        definitions = feature_rows.load_definitions(features.transform)
        with self._ready(features.transform, definitions), self._lock.shared():
            rows = {view.name: self._mirror.read(definitions.view(view.name)) for view in definitions.projection(features.service)}
        return {view.name: feature_rows.newest_value(view, rows[view.name], until) for view in definitions.projection(features.service)}

    def materialize(self, features: Features, until: datetime) -> int:
        definitions = feature_rows.load_definitions(features.transform)
        views = [definitions.view(part.name) for part in definitions.projection(features.service)]
        with self._ready(features.transform, definitions) as store, self._lock.exclusive():
            return sum(self._write_online(store, view, until) for view in views)

    def online(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=False)
        keys = {view.entity: [_key(value) for value in entities[view.entity]] for view in projection}
        with self._ready(features.transform, definitions, mirrored=False) as store, self._lock.shared():
            answer = store.get_online_features(
                features=[f"{view.name}:{field.name}" for view in projection for field in view.fields],
                entity_rows=[dict(zip(keys, row, strict=True)) for row in zip(*keys.values(), strict=True)],
            ).to_dict()
        values = pd.DataFrame({field.name: _typed(answer[field.name], field.type) for view in projection for field in view.fields})
        return feature_rows.assemble(features, entities, values)

    def service_hash(self, features: Features) -> str:
        return feature_rows.load_definitions(features.transform).service_hash(features.service)

    def _stored(self, key: str) -> pd.DataFrame | None:
        try:
            return pd.read_parquet(io.BytesIO(self._objects.get(key)))
        except NotFound:
            return None

    def _write_online(self, store: Any, view: View, until: datetime) -> int:
        """Write what changed since the last time. Feast's own materialization neither expires values nor heeds late ones."""
        from feast.infra.provider import get_provider

        held = self._home / "online" / f"{view.name}-{schema_digest(view)}.parquet"
        before = pd.read_parquet(held) if held.exists() else feature_rows.empty(view)
        now = feature_rows.latest(view, self._mirror.read(view), until)
        rows = feature_rows.changed(view, before, now)
        if len(rows):
            # Not store.write_to_online_store: it drops a frame whose values are all null, and the old ones would stay.
            with _feast_errors("write online features"):
                get_provider(store.config).ingest_df(store.get_feature_view(view.name), rows)
        replace_rows(held, view, now)
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
            self._feast = _open(self._repo, self._home, Path(self._registry.name))
        if self._applied.get(transform) != definitions:
            self._feast.apply(_feast_objects(definitions, self._mirror))
            self._applied[transform] = definitions


def _open(repo: Path, home: Path, registry: Path) -> Any:
    """A Feast store as ``feature_store.yaml`` says, with its files below ``home`` and a registry of its own."""
    import yaml
    from feast import FeatureStore, RepoConfig

    document = yaml.safe_load((repo / "feature_store.yaml").read_text())
    document["registry"] = {"registry_type": "file", "path": str(registry / "registry.db"), "cache_ttl_seconds": 0}
    if (offline := document["offline_store"])["type"] != _OFFLINE:
        # Others lose the order of the rows, or rows, and show what was written later.
        raise SpecError(f"feature_store.yaml: got offline_store type {offline['type']!r}, expected {_OFFLINE}: write that")
    for folder in ("online", "spill"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    document["offline_store"] = {**offline, "temp_directory": str(home / "spill")}
    document["online_store"] = {**document["online_store"], "path": str(home / "online" / "store.db")}
    return FeatureStore(config=RepoConfig(repo_path=str(repo.resolve()), **document))


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

    from feast.errors import FeastError

    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"Feast could not {doing}: its online store says {error}; try again, or delete its folder") from error
    except FeastError as error:
        raise BadData(f"Feast could not {doing}: {error}; mend the definitions in the feature module, or the rows of the view") from error
