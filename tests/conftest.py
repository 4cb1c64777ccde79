import pytest
from hypothesis import settings

pytest_plugins = ["tests.servers", "tests.storage_servers", "tests.postgres_server", "tests.images", "tests.cluster"]

# Two cores that are busy with real servers make any deadline a coin toss.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where workers share the tests, each takes whole files, and one takes what starts the whole stack: two of those are too much for two
    cores. What takes long comes first, so that no core waits for it in the end.
    """
    order = ("e2e", "assets", "adapters")

    def folder(item: pytest.Item) -> str:
        return "e2e" if item.get_closest_marker("e2e") else item.path.parent.name

    items.sort(key=lambda item: order.index(folder(item)) if folder(item) in order else len(order))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("e2e" if folder(item) == "e2e" else item.nodeid.partition("::")[0]))
