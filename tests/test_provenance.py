"""Which code a training was made by, where there is a git checkout and where there is none."""

import subprocess

import pytest

from mlops_assets.provenance import ROOT, provenance

COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("told", "commit", "dirty"), [(COMMIT, COMMIT, "false"), (f"{COMMIT}-dirty", COMMIT, "true")], ids=["clean", "dirty"]
)
def test_in_an_image_it_is_what_the_image_was_built_from(monkeypatch, told, commit, dirty):
    monkeypatch.setenv("MLOPS_COMMIT", told)
    made_by = provenance()
    assert (made_by["git_commit"], made_by["git_dirty"]) == (commit, dirty)


def test_otherwise_git_says_it(monkeypatch):
    monkeypatch.delenv("MLOPS_COMMIT", raising=False)
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert provenance()["git_commit"] == head.stdout.strip()
