"""What Prometheus is told of the platform: data, runs and checks from Dagster, releases from the policies, figures of the newest reports.

``python -m mlops_assets.exporter --port N`` is a small process of its own. What releases and gateways count themselves, they tell
themselves; see :mod:`serving.metrics`.
"""
