import json

import pytest

from deploy.docker.build import PLATFORM, revision
from tests.deploy.locks import components, locked
from tests.images import Images


@pytest.fixture(scope="module")
def platform(images: Images) -> str:
    return images.get("platform")


@pytest.mark.timeout(1800)
def test_its_labels_and_user_say_what_it_is(images, platform):
    config = images.config(platform)
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == revision()


def test_its_sbom_lists_what_is_installed_which_is_the_lock(images, platform):
    listed = components(images.run(platform, "cat", "/opt/sbom.cdx.json"))
    assert listed == locked(PLATFORM.lock)
    code = """if True:
        import json, sys
        from importlib.metadata import distributions
        from packaging.utils import canonicalize_name
        print(json.dumps({canonicalize_name(one.name): one.version for one in distributions(path=[sys.argv[1]])}))"""
    installed = json.loads(images.run(platform, "python", "-c", code, "/opt/venv/lib/python3.11/site-packages").splitlines()[-1])
    assert installed == listed


@pytest.mark.timeout(300)
def test_every_model_loads_in_it_read_only_and_without_a_network(images, platform):
    code = """if True:
        import json
        from mlops_assets.definitions import defs, load_specs
        keys = {key.to_user_string() for key in defs().get_repository_def().asset_graph.get_all_asset_keys()}
        print(json.dumps([sorted(spec.name for spec in load_specs()), "flight_delay/promotion" in keys]))"""
    assert images.python(platform, code) == [["flight-delay"], True]


def test_models_train_in_it(images, platform):
    """Their libraries want nothing of the system that the image below has not."""
    code = "import json; import mlops_assets.defs.flight_delay.training; print(json.dumps('trains'))"
    assert images.python(platform, code) == "trains"


@pytest.mark.parametrize(
    "command", ["mlops --help", "dagster --version", "dagster-webserver --version", "dagster-daemon --help", "envoy --version"]
)
def test_its_commands_run(images, platform, command):
    assert images.run(platform, *command.split())


def test_a_training_run_in_it_says_which_commit_it_is_of(images, platform):
    told = images.python(platform, "import json; from mlops_assets.provenance import provenance; print(json.dumps(provenance()))")
    commit, _, dirty = revision().partition("-")
    labels = images.config(platform)["Labels"]
    lock = labels["io.mlops-assets.lock.sha256"]
    assert told == {"git_commit": commit, "git_dirty": str(bool(dirty)).lower(), "lock_sha256": lock}


def test_doctor_finds_the_packages_that_it_expects(images, platform):
    code = """if True:
        import json
        from mlops_assets.doctor import Doctor
        print(json.dumps([[one.what, str(one.outcome), one.got] for one in Doctor(None, None).packages()]))"""
    (_, python, _), (_, packages, got) = images.python(platform, code)
    assert (python, packages) == ("pass", "pass"), got
