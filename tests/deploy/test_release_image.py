"""``make image``: which file of the registry goes into the image of a release."""

from types import SimpleNamespace

import pytest

from deploy.docker import build
from mlops_assets.adapters.memory import MemoryObjectStore, MemoryRegistry
from mlops_assets.ports import TrainingRun, model_key
from tests.serving.models import tiny_model


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A registry with one release of the model ``tiny``, and its file."""
    objects, registry, model = MemoryObjectStore(), MemoryRegistry(), tiny_model()
    run = registry.log_run(TrainingRun("tiny", "t", {}, {}, {"training_key": "k"}), {})
    info = registry.register("tiny", run, model.digest, {})
    objects.create(model_key("tiny", info.release), model.data)
    made = SimpleNamespace(objects=objects, registry=registry)
    monkeypatch.setattr("mlops_assets.adapters.local.local_platform", lambda: made)
    return made


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands of the engine, which runs none of them."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(build, "_run", lambda *command, cwd=None: commands.append(command) or "")
    return commands


def test_the_registered_file_goes_in_by_its_digest_on_top_of_the_serving_image(platform, built, tmp_path, capsys):
    build.main(["--engine", "true", "--tag", "abc", "--out", str(tmp_path), "release", "tiny", "v1"])
    assert capsys.readouterr().out.strip() == "models/tiny:v1"
    (command,) = built
    digest = tiny_model().digest
    assert (tmp_path / "contexts" / "tiny-v1" / "models" / f"{digest}.onnx").read_bytes() == tiny_model().data
    assert {"SERVING=mlops-serving:abc", "MODEL=tiny", "RELEASE=v1", f"DIGEST={digest}"} <= set(command)
    assert command[command.index("--network") + 1] == "none"


def test_a_release_that_the_registry_does_not_know_is_an_error_and_no_image(platform, built, tmp_path):
    with pytest.raises(SystemExit, match="error: .*v7"):
        build.main(["--engine", "true", "--tag", "abc", "--out", str(tmp_path), "release", "tiny", "v7"])
    assert not built


def test_a_file_that_was_changed_since_is_an_error_and_no_image(platform, built, tmp_path):
    platform.objects.put(model_key("tiny", "v1"), b"another")
    with pytest.raises(SystemExit, match="got sha256 .* expected"):
        build.main(["--engine", "true", "--tag", "abc", "--out", str(tmp_path), "release", "tiny", "v1"])
    assert not built
