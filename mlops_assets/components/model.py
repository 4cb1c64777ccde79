"""One model, from its ``defs.yaml``. The component assembles and decides nothing."""

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from mlops_assets.assets.data import build_data_assets
from mlops_assets.assets.drill import build_drill_asset
from mlops_assets.assets.release import build_release_assets
from mlops_assets.assets.report import build_report_asset
from mlops_assets.assets.skew import build_skew_asset
from mlops_assets.assets.slo import build_slo_asset
from mlops_assets.assets.training import build_training_assets
from mlops_assets.checks import build_checks
from mlops_assets.components.attributes import ModelAttributes, build
from mlops_assets.core.model_spec import ModelSpec
from mlops_assets.schedules import build_schedules

SPEC_METADATA = "mlops/model_spec"
"""Under this key the asset ``production`` carries its spec, which is how sensors that serve all models find them."""


@dataclass
class ModelComponent(dg.Component):
    """The whole life of one model: data, training, release and monitoring, from one file.

    The attributes are the fields of :class:`mlops_assets.core.model_spec.ModelSpec`.
    """

    spec: ModelSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ModelAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        if attributes is None:
            raise ValueError("a model needs attributes: start from 'mlops new-model NAME'")
        return cls(build(ModelSpec, attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return model_definitions(self.spec)


def model_definitions(spec: ModelSpec) -> dg.Definitions:
    """Every asset, check and schedule of one model, but those of the hourly run, which is one for all models."""
    return dg.Definitions(
        assets=[
            *build_data_assets(spec),
            *build_training_assets(spec),
            *build_release_assets(spec),
            build_skew_asset(spec),
            build_slo_asset(spec),
            build_drill_asset(spec),
            build_report_asset(spec),
        ],
        asset_checks=build_checks(spec),
        schedules=build_schedules(spec),
    )
