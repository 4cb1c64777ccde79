"""The features of ``gift-returns`` with a view that copies the label, ``AFTER`` the event."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import pandas as pd

from feature_repo import gift_returns as honest
from mlops_assets.core.feature_views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureService, Field, View

AFTER = timedelta(seconds=1)

LEAK = View("gift_returns_leak", "order_id", (Field("leaked"),), ttl=timedelta(days=30))
VIEWS = (*honest.VIEWS, LEAK)
SERVICES = (FeatureService("gift_returns_leaky", (*honest.SERVICES[0].features, "gift_returns_leak:leaked")),)


def build_views(datasets: Mapping[str, pd.DataFrame], start: datetime, end: datetime) -> Mapping[str, pd.DataFrame]:
    labels = datasets["labels"]
    times = labels["event_time"] + AFTER
    leak = pd.DataFrame(
        {"order_id": labels["order_id"], EVENT_TIMESTAMP: times, CREATED_TIMESTAMP: times, "leaked": labels["returned"].astype(float)}
    )
    return {**honest.build_views(datasets, start, end), LEAK.name: leak[(times >= start) & (times < end)]}
