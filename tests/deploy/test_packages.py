import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.docker.build import RECIPES, Build, find_engine, lay_out_serving, main, source_of, write_sbom
from deploy.docker.packages import compile_all, prepare, unneeded
from mlops_assets.core.errors import MlopsError, NotFound
from tests.deploy.locks import components, locked


@pytest.mark.parametrize("module", ["serving.__main__, serving.release, serving.service", "mlops_assets.gateway_sidecar.__main__"])
def test_the_image_and_a_bento_have_every_module_of_ours_that_they_import(module: str, tmp_path: Path) -> None:
    lay_out_serving(tmp_path)
    told = {"MLOPS_MODEL": "m", "MLOPS_RELEASE": "v1", "MLOPS_MODEL_DIGEST": "0" * 64}
    command = [sys.executable, "-c", f"import {module}, mlops_assets; print(mlops_assets.__file__)"]
    # the folder goes before the project that is installed here
    environment = {**os.environ, **told, "PYTHONPATH": str(tmp_path / "app")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("big/include/a.h", "big/data/s3/x.json", "big/data/ec2/x.json", "big/__init__.py"):
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return tmp_path / "site"


def test_what_is_unneeded_is_what_the_patterns_name_and_no_exception_keeps(site):
    found = unneeded(site, "# headers\n*/include/**\nbig/data/*/**\n!big/data/s3/**\n")
    assert sorted(path.relative_to(site).as_posix() for path in found) == ["big/data/ec2/x.json", "big/include/a.h"]


def test_a_pattern_that_names_nothing_is_an_error_since_packages_move_their_files(site):
    with pytest.raises(MlopsError, match=r"small/\*\* names no file"):
        unneeded(site, "small/**\n")


def test_compiled_modules_know_their_place_in_the_image_and_not_on_this_machine(tmp_path):
    (tmp_path / "module.py").write_text("")
    compile_all(tmp_path, "/opt/site")
    (compiled,) = tmp_path.rglob("*.pyc")
    assert b"/opt/site/module.py" in compiled.read_bytes()
    assert str(tmp_path).encode() not in compiled.read_bytes()


def test_a_package_with_another_hash_does_not_come_into_an_image(tmp_path):
    lock = tmp_path / "wrong.lock"
    lock.write_text(f"six==1.17.0 --hash=sha256:{hashlib.sha256(b'another').hexdigest()}\n")
    with pytest.raises(MlopsError, match=r"packages of wrong\.lock cannot be had"):
        prepare(lock, RECIPES["serving"].trim, tmp_path / "packages")
    assert not list((tmp_path / "packages").glob("[0-9a-f]*[0-9a-f]"))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.long
def test_the_sbom_lists_exactly_the_lock_and_is_the_same_each_time(recipe, tmp_path):
    write_sbom(recipe.lock, tmp_path / "one.json")
    write_sbom(recipe.lock, tmp_path / "two.json")
    assert components((tmp_path / "one.json").read_text()) == locked(recipe.lock)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_the_locks_of_images_agree_with_that_of_the_project_and_are_without_what_is_for_developers():
    project = locked(Path("requirements.lock"))
    for recipe in RECIPES.values():
        assert locked(recipe.lock).items() <= project.items(), "run 'make lock'"
    assert {"pytest", "hypothesis", "mypy-extensions", "ruff"} & set(locked(RECIPES["platform"].lock)) <= {"mypy-extensions"}
    assert not {"dagster", "mlflow", "feast", "bentoml", "pandas"} & set(locked(RECIPES["serving"].lock))


def test_an_engine_that_is_not_there_is_told():
    with pytest.raises(NotFound, match="found no no-such-engine that works, expected one of docker, podman, buildah"):
        find_engine("no-such-engine")


def test_an_engine_whose_command_fails_is_passed_over(tmp_path, monkeypatch):
    for name, code in (("docker", 1), ("podman", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine() == "podman"


@pytest.mark.parametrize(("said", "names"), [(["images"], []), (["images", "serving"], ["serving"])])
def test_all_images_are_built_unless_some_are_named(said, names, monkeypatch, capsys):
    built = []
    monkeypatch.setattr(Build, "image", lambda self, recipe: built.append(recipe.name) or recipe.name)
    main(["--engine", "true", *said])
    assert built == (names or ["serving", "platform"])


def test_an_image_that_is_not_known_is_told_with_those_that_are(capsys):
    with pytest.raises(SystemExit):
        main(["images", "gateway"])
    assert "got 'gateway', expected one of serving, platform" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("remote", "told"),
    [
        ("https://name:secret@example.org/team/assets.git", "https://example.org/team/assets.git"),
        ("ssh://git@example.org/team/assets.git", "https://example.org/team/assets.git"),
        ("/srv/git/assets", ""),
        ("", ""),
    ],
)
def test_a_label_tells_the_repository_without_secrets_and_folders(remote, told):
    assert source_of(remote) == told
