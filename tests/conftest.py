import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers", "tests.storage_servers", "tests.postgres_server", "tests.images", "tests.cluster"]

# Two cores that are busy with real servers make any deadline a coin toss.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest stories first: what runs beside them is short, and no core waits for one in the end."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
