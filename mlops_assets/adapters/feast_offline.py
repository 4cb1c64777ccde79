"""Feast's offline store, as known at the time: named in ``feature_store.yaml``, it stands in place of Feast's DuckDB store.

Only the point-in-time join is ours (:mod:`mlops_assets.adapters.point_in_time`); whatever else Feast asks an offline store for is left
to its DuckDB store. It runs inside a memory limit and writes to a temporary folder what does not fit.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from mlops_assets.adapters.duckdb_join import EVENTS, Limits, connection
from mlops_assets.adapters.point_in_time import Key, Rows, Span, Value, columns_query, join_query, span_query, text
from mlops_assets.adapters.whole_file import replaced
from mlops_assets.core.errors import BadData


class AsKnownOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """What ``offline_store`` in ``feature_store.yaml`` may say.

    Args:
        memory_limit: what DuckDB may hold, as it writes sizes.
        temp_directory: where it puts what does not fit; by default where the system has its temporary files.
        threads: of a join; by default one a core.
    """

    type: str = "mlops_assets.adapters.feast_offline.AsKnownOfflineStore"
    memory_limit: str = "1GB"
    temp_directory: str | None = None
    threads: int | None = None


class AsKnownRetrievalJob(RetrievalJob):
    """A join that is still to be run: to a table in memory, or by ``persist`` to a Parquet file without ever being there as a whole."""

    def __init__(
        self,
        config: RepoConfig,
        entity_df: pd.DataFrame | str,
        views: Sequence[Rows],
        feature_refs: list[str],
        on_demand: list[OnDemandFeatureView],
        full_feature_names: bool,
    ) -> None:
        self._config = config
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names
        settings: Any = config.offline_store
        self._limits = Limits(settings.memory_limit, settings.temp_directory, settings.threads)
        frame = isinstance(entity_df, pd.DataFrame)
        self._table = pa.Table.from_pandas(entity_df, preserve_index=False) if frame else None
        self._events = EVENTS if frame else f"({entity_df})"
        self._views = views
        with self._connection() as opened:
            described = opened.execute(columns_query(self._events)).fetchall()
            columns = {row[0]: str(row[1]) for row in described}
            self._asked_at = _asked_at(columns)
            _check_columns(columns, views)
            first, last, count = opened.execute(span_query(self._events, self._asked_at)).fetchall()[0]
        # A query may select others the next time: a sample, or what is newest.
        span = Span(first, last, count) if frame and first else None
        self._query = join_query(self._events, list(columns), self._asked_at, views, span)
        keys = [name for name in columns if name != self._asked_at]
        self._metadata = RetrievalMetadata(feature_refs, keys, first, last)

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def to_sql(self) -> str:
        return self._query

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the answer to a Parquet file. Only what on-demand views add to it needs it in memory.

        Raises:
            SavedDatasetLocationAlreadyExists: if the file is there already, unless it may be overwritten.
        """
        source = storage.to_data_source()
        path = Path(_path(self._config, source))
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        with replaced(path) as scratch:
            if self._on_demand:
                pq.write_table(self.to_arrow(), scratch)
            else:
                self._write(scratch)

    def _write(self, path: Path) -> None:
        with self._connection() as opened:
            opened.execute(f"COPY ({self._query}) TO {text(str(path))} (FORMAT parquet)").fetchall()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._connection() as opened:
            return opened.sql(self._query).to_arrow_table()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _connection(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return connection(self._limits, self._table)


class AsKnown:
    """What Feast asks an offline store for, answered as known at the time of each event: every event once, in the caller's order."""

    supports_filter_by_created_timestamp = True
    job: ClassVar[type[AsKnownRetrievalJob]] = AsKnownRetrievalJob

    @classmethod
    def get_historical_features(
        cls,
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """See Feast's ``OfflineStore``. ``entity_df`` may be a query of DuckDB's, e.g. ``SELECT * FROM 'events.parquet'``.

        ``filter_by_created_timestamp`` is always on: Feast's default, off, shows events what was written after them.

        Raises:
            BadData: if there are no events, if none of their columns is a time, or if a view's rows are not in Parquet files here.
        """
        if entity_df is None:
            raise BadData("got no entity_df, or times alone: expected the events to look features up for")
        views = [_rows(config, view, feature_refs, full_feature_names) for view in feature_views]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return cls.job(config, entity_df, views, feature_refs, on_demand, full_feature_names)


class AsKnownOfflineStore(AsKnown, DuckDBOfflineStore):  # type: ignore[misc]  # Feast's is a static method, and asks for no more
    """The offline store of one machine."""


def _rows(config: RepoConfig, view: FeatureView, feature_refs: Sequence[str], full_names: bool) -> Rows:
    """What a feature view says, in the names that its file has."""
    source: Any = view.batch_source
    files = _files(_path(config, source), view.name)
    own = {new: old for old, new in source.field_mapping.items()}
    projection: Any = view.projection
    prefix = f"{projection.name_alias or view.name}__" if full_names else ""
    wanted = [name for owner, _, name in (ref.partition(":") for ref in feature_refs) if owner == projection.name_to_use()]
    names = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column
    return Rows(
        files=files,
        keys=tuple(Key(own.get(name, name), projection.join_key_map.get(name, name)) for name in names),
        values=tuple(Value(own.get(name, name), f"{prefix}{name}") for name in wanted),
        valid_from=own.get(source.timestamp_field, source.timestamp_field),
        known_from=own.get(created, created) if created else None,
        ttl=view.ttl or None,
    )


def _path(config: RepoConfig, source: Any) -> str:
    if not isinstance(source, FileSource) or not isinstance(source.file_format or ParquetFormat(), ParquetFormat):
        name = f"{type(source).__name__} {getattr(source, 'name', '')!r}"
        raise BadData(f"got {name} as the source of features, expected a FileSource of Parquet: land the rows as Parquet")
    return str(FileSource.get_uri_for_file_path(config.repo_path, source.path))


def _files(path: str, view: str) -> tuple[str, ...]:
    """A file, or those of a folder in the order of their names."""
    place = Path(path)
    files = tuple(str(file) for file in sorted(place.rglob("*.parquet"))) if place.is_dir() else (path,)
    if not files or not all(Path(file).exists() for file in files):
        raise BadData(f"feature view {view!r}: no Parquet file at {path}: land its rows there, or correct the path of its source")
    return files


def _asked_at(columns: dict[str, str]) -> str:
    """The column of the events' times: ``event_timestamp``, or the only one that holds times."""
    times = [name for name, kind in columns.items() if kind.startswith("TIMESTAMP")]
    if "event_timestamp" in columns or len(times) == 1:
        return "event_timestamp" if "event_timestamp" in columns else times[0]
    raise BadData(f"events have columns {', '.join(columns)}, expected one with their times: name it event_timestamp")


def _check_columns(columns: dict[str, str], views: Sequence[Rows]) -> None:
    missing = sorted({key.asked for view in views for key in view.keys} - columns.keys())
    if missing:
        raise BadData(f"events have columns {', '.join(columns)}, but features are looked up by {', '.join(missing)} too: add it")
    names = [*columns, *(value.name for view in views for value in view.values)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadData(f"the answer would have {', '.join(twice)} twice: rename or drop it from the events, or ask for full feature names")
