"""Disk headroom: a full disk is refused before the first byte, and named when it comes anyway;
one that is broken is named, too.

A board whose disk is full loses more than the upload that filled it: journals, checkpoints and logs
need the same space. So a part of the disk (the reserve) is never given to artifacts.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.errors import DiskFailed, DiskFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What a card that wears out does, and what Linux does to its file system then.
_FAILED = frozenset({errno.EIO, errno.EROFS})
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write to the file system of ``folder``."""
    return shutil.disk_usage(folder).free


def check(folder: Path, needed_bytes: int, free: int, reserve_bytes: int) -> None:
    """Raises DiskFull, with all the numbers, when ``needed_bytes`` would eat into the reserve."""
    if needed_bytes + reserve_bytes > free:
        raise DiskFull(
            f"The disk of {folder} has too little room: {readable(needed_bytes)} are needed.",
            why=f"{readable(free)} are free, of which {readable(reserve_bytes)} stay reserved.",
            fix="Delete artifacts that nothing needs, or free space on the device.",
        )


@contextmanager
def naming_disk_faults(folder: Path) -> Iterator[None]:
    """Raises what ``fault`` finds in the system's errors."""
    try:
        yield
    except OSError as error:
        named = fault(error, f"The disk of {folder}")
        if named is None:
            raise
        raise named from error


def fault(error: OSError, disk: str = "") -> DiskFull | DiskFailed | None:
    """DiskFull for "no space left" and "quota exceeded", DiskFailed for "input/output error" and
    "read-only file system", None for what is no fault of the ``disk``, which is called so (else
    by the file that the error names)."""
    disk = disk or (f"The disk of {error.filename}" if error.filename else "The disk")
    why = f"The system said: {error.strerror}."
    if error.errno in _FULL:
        fix = "Free space there, then try again: what was synced is kept."
        return DiskFull(f"{disk} is full.", why=why, fix=fix)
    if error.errno in _FAILED:
        fix = "Look into the system's log (`dmesg`), check the disk or card, then try again."
        return DiskFailed(f"{disk} cannot be read or written.", why=why, fix=fix)
    return None


def readable(size_bytes: int) -> str:
    """A size for people: ``812 MiB``, ``1.0 GiB``."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"
