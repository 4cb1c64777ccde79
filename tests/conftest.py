import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers", "tests.storage_servers", "tests.postgres_server", "tests.images", "tests.cluster"]

# Two cores that are busy with real servers make any deadline a coin toss.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests, each takes whole files, and one takes what starts the whole stack: two of those are too much for two
    cores. It comes first, so that no core waits for it in the end.
    """
    whole_stack = {item for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item not in whole_stack)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("e2e" if item in whole_stack else item.nodeid.partition("::")[0]))
