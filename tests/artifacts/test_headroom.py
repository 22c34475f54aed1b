"""Sizes for people, and which errors of the system mean a full disk."""

import errno
from pathlib import Path

import pytest

from artifacts import headroom
from protos.errors import DiskFailed, DiskFull


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 KiB"),
        (5 << 20, "5.0 MiB"),
        (256 << 20, "256 MiB"),
        (1 << 30, "1.0 GiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_sizes_are_readable(size_bytes: int, text: str) -> None:
    assert headroom.readable(size_bytes) == text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_used_up_quota_are_disk_full(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull, match=f"The disk of {tmp_path} is full"),
        headroom.naming_disk_faults(tmp_path),
    ):
        raise OSError(number, "the words of the system")


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_a_broken_and_a_read_only_disk_are_disk_failed(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFailed, match="cannot be read or written"),
        headroom.naming_disk_faults(tmp_path),
    ):
        raise OSError(number, "the words of the system")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), headroom.naming_disk_faults(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    assert headroom.free_bytes(tmp_path) > 0
