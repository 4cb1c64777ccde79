"""The in-memory twin of :mod:`mlops_assets.adapters.feast`: the same answers from pandas, without Feast."""

from collections.abc import Mapping
from datetime import date, datetime

import pandas as pd

from mlops_assets.adapters import feature_rows
from mlops_assets.core.feature_spec import Features
from mlops_assets.core.feature_views import EVENT_TIMESTAMP, FeatureVersion, View


class MemoryFeatureStore:
    """A :class:`mlops_assets.ports.FeatureStore` in a dictionary. Views are found through ``features.transform``."""

    def __init__(self) -> None:
        self._days: dict[str, dict[date, pd.DataFrame]] = {}
        self._online: dict[str, pd.DataFrame] = {}

    def write(self, view: View, day: date, rows: pd.DataFrame, written_at: datetime, transform: str = "") -> None:
        days = self._days.setdefault(view.name, {})
        written = feature_rows.rewritten(view, day, days.get(day), rows, written_at, transform)
        if written is not None:
            days[day] = written

    def as_of(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=True)
        times = feature_rows.utc_micro(entities[EVENT_TIMESTAMP])
        values = [_look_up(view, self._rows(view), entities[view.entity], times) for view in projection]
        return feature_rows.assemble(features, definitions, entities, feature_rows.beside_each_other(values, len(entities)))

    def newest(self, features: Features, until: datetime, entities: Mapping[str, str] | None = None) -> dict[str, datetime | None]:
        definitions = feature_rows.load_definitions(features.transform)
        rows = {view: self._rows(definitions.view(view.name)) for view in definitions.projection(features.service)}
        return {
            view.name: feature_rows.newest_value(view, feature_rows.of_entity(view, found, entities), until) for view, found in rows.items()
        }

    def materialize(self, features: Features, until: datetime) -> int:
        definitions = feature_rows.load_definitions(features.transform)
        written = 0
        for view in definitions.views:
            now = feature_rows.latest(view, self._rows(view), until)
            written += len(feature_rows.changed(view, self._online.get(view.name, now[:0]), now))
            self._online[view.name] = now
        return written

    def online(self, features: Features, entities: pd.DataFrame) -> pd.DataFrame:
        definitions = feature_rows.load_definitions(features.transform)
        projection = definitions.projection(features.service)
        feature_rows.check_entities(features, projection, entities, timed=False)
        values = []
        for view in projection:
            held = self._online.get(view.name, pd.DataFrame(columns=list(view.columns))).set_index(view.entity)
            found = held.reindex(entities[view.entity])[[field.name for field in view.fields]]
            values.append(found.reset_index(drop=True))
        return feature_rows.assemble(features, definitions, entities, feature_rows.beside_each_other(values, len(entities)))

    def version(self, features: Features) -> FeatureVersion:
        return feature_rows.load_definitions(features.transform).version(features.service)

    def _rows(self, view: View) -> pd.DataFrame:
        days = self._days.get(view.name, {})
        frames = [feature_rows.conform(view, days[day]) for day in sorted(days)]
        return pd.concat(frames, ignore_index=True) if frames else feature_rows.empty(view)


def _look_up(view: View, rows: pd.DataFrame, entities: "pd.Series[str]", times: "pd.Series[pd.Timestamp]") -> pd.DataFrame:
    """The view's values at each row's time, in the rows' order; a row without an entity gets nulls."""
    asked = pd.DataFrame({view.entity: entities.to_numpy(dtype=object), "asked_at": times.array, "place": range(len(entities))})
    known = asked[asked[view.entity].notna()].sort_values("asked_at", kind="stable")
    seen = feature_rows.visible(view, rows)
    found = pd.merge_asof(known, seen, left_on="asked_at", right_on="visible_from", by=view.entity)
    found = found[found[EVENT_TIMESTAMP] >= found["asked_at"] - view.ttl].set_index("place")
    return found[[field.name for field in view.fields]].reindex(range(len(entities)))
