"""Durable writes: at every moment the old content or the new one, and nothing left beside it."""

import os
from pathlib import Path

import pytest

from artifacts import durable
from artifacts.persisting import Point

POINT = Point.STORE_RECORD


def test_a_write_replaces_the_content_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"old and longer")
    durable.write_bytes(path, b"new", POINT)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_content_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    durable.write_bytes(path, b"old", POINT)
    with durable.replacing(path, POINT) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def fail_half_way(path: Path) -> None:
    with durable.replacing(path, POINT) as file:
        file.write(b"half of the n")
        raise RuntimeError("half way")


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    durable.write_bytes(path, b"old", POINT)
    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_with_their_parents_for_their_user_alone(tmp_path: Path) -> None:
    folder = durable.make_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert durable.make_folder(folder) == folder
    umask = os.umask(0o022)
    os.umask(umask)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700 & ~umask


def test_removing_is_fine_when_nothing_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    durable.remove(path, POINT)
    durable.remove(path, POINT)
    assert not path.exists()


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    (tmp_path / f".file.{os.getppid()}.tmp").write_bytes(b"of a living process")
    (tmp_path / ".file.4194999.tmp").write_bytes(b"of one that is gone: no number is so large")
    (tmp_path / f".file.{os.getpid()}.tmp").write_bytes(b"of one with our number, before us")
    (tmp_path / "file").write_bytes(b"whole")
    durable.tidy_up(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f".file.{os.getppid()}.tmp", "file"}
