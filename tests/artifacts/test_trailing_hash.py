"""A hash that follows the writer comes to the same as one over the whole file."""

import hashlib
import os
from pathlib import Path

import pytest

from artifacts.trailing_hash import TrailingHash


def test_it_follows_the_writer_and_what_was_there_before(tmp_path: Path) -> None:
    data = os.urandom((3 << 20) + 17)
    with (tmp_path / "f").open("w+b", buffering=0) as file:
        file.write(data[:1_000_000])
        trailing = TrailingHash(file.fileno(), 1_000_000)
        for at in range(1_000_000, len(data), 300_000):
            file.write(data[at : at + 300_000])
            trailing.grown_to(min(at + 300_000, len(data)))
        assert trailing.result() == hashlib.sha256(data).hexdigest()
        trailing.close()


def test_an_empty_one_and_one_that_is_given_up(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        assert TrailingHash(file.fileno()).result() == hashlib.sha256().hexdigest()
        TrailingHash(file.fileno()).close()


def test_bytes_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        trailing = TrailingHash(file.fileno(), 5)
        with pytest.raises(OSError, match="shorter"):
            trailing.result()
