"""A reader of a file that is written anew sees the old one or the new one."""

import os
from pathlib import Path

import pytest

from mlops_assets.adapters.whole_file import replace_file, replaced


def test_the_new_file_is_there_when_the_block_has_ended_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "below" / "rows"
    replace_file(path, "old")
    with replaced(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    replace_file(path, b"old")

    def fail() -> None:
        with replaced(path) as scratch:
            scratch.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_an_earlier_process_of_the_same_number_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".rows.{os.getpid()}").write_text("left")
    replace_file(tmp_path / "rows", "new")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("rows", "new")]


@pytest.mark.parametrize(("private", "others"), [(True, 0), (False, 0o044)])
def test_a_private_file_is_its_owners_alone_from_its_first_byte(tmp_path: Path, private: bool, others: int) -> None:
    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "key", "secret", private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o077 == others
