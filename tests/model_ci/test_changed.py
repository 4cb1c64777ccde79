"""Which models a change is about, and which tests are theirs."""

import subprocess
from pathlib import Path

import pytest

from mlops_assets.core.errors import NotFound
from mlops_assets.definitions import load_specs
from mlops_assets.model_ci.changed import ROOT, changed_models, files_since, merge_base, model_tests


@pytest.fixture(scope="module")
def specs():
    return load_specs()


@pytest.mark.parametrize(
    ("path", "is_changed"),
    [
        ("mlops_assets/defs/flight_delay/defs.yaml", True),
        ("mlops_assets/defs/flight_delay/training.py", True),
        ("feature_repo/flight_delay.py", True),
        ("mlops_assets/defs/flight_delay_eu/training.py", False),
        ("feature_repo/fraud_detector.py", False),
        ("mlops_assets/core/gates.py", False),
        ("docs/guides/engineers.md", False),
    ],
)
def test_a_model_changes_with_its_own_files(specs, path, is_changed):
    assert changed_models([path], specs) == (["flight-delay"] if is_changed else [])


def test_its_tests_are_those_that_import_it_but_not_the_whole_stacks(specs):
    (flights,) = specs
    found = [path.relative_to(ROOT).as_posix() for path in model_tests(flights, ROOT)]
    assert "tests/defs/test_flights.py" in found
    assert not any("e2e" in path or "test_gates" in path for path in found)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], check=True)

    git("init", "--quiet", "--initial-branch=main")
    (tmp_path / "old.py").write_text("")
    git("add", "-A")
    git("commit", "--quiet", "-m", "one")
    git("checkout", "--quiet", "-b", "change")
    (tmp_path / "committed.py").write_text("")
    git("add", "-A")
    git("commit", "--quiet", "-m", "two")
    (tmp_path / "old.py").write_text("edited")
    (tmp_path / "new.py").write_text("")
    return tmp_path


def test_a_change_is_what_was_committed_edited_and_added_since_it_left_main(repository):
    assert sorted(files_since(merge_base("main", repository), repository)) == ["committed.py", "new.py", "old.py"]


def test_a_branch_that_git_does_not_know_is_told_with_how_to_have_it(repository):
    with pytest.raises(NotFound, match="no-such-branch.*fetch the whole history"):
        merge_base("no-such-branch", repository)
