"""The feature module of a second, small model, as another team would write it."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import pandas as pd

from mlops_assets.core.feature_views import FeatureService, Field, View

VIEWS = (
    View("shop_sales", "shop", (Field("sales"), Field("mood", "string")), ttl=timedelta(hours=3)),
    View("town_weather", "town", (Field("rain"),), ttl=timedelta(days=1)),
)
SERVICES = (
    FeatureService("shops_v1", ("shop_sales:sales", "shop_sales:mood", "town_weather:rain")),
    FeatureService("shops_sales_only", ("shop_sales:sales",)),
)


def build_views(datasets: Mapping[str, pd.DataFrame], start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
    return {name: rows for name, rows in datasets.items() if name in {view.name for view in VIEWS}}
