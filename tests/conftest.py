from hypothesis import settings

pytest_plugins = ["tests.servers", "tests.storage_servers", "tests.postgres_server", "tests.images", "tests.cluster"]

# Two cores that are busy with real servers make any deadline a coin toss.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
