"""Durability, here and nowhere else: what was reported as written survives a power cut.

A file is written under a temporary name beside its final one, synced, renamed, and the folder is
synced, so that at every moment the final name holds the old content or the new one, whole. Each
caller names the point at which that happens, see persisting.py.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from artifacts.persisting import Point


def sync_folder(folder: Path) -> None:
    """Makes the folder's own entries (new names, renames, removals) durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> Path:
    """Makes the folder and its missing parents, durably; returns it."""
    if not folder.is_dir():
        make_folder(folder.parent, mode)
        with Point.FOLDER_MADE:
            folder.mkdir(mode=mode, exist_ok=True)
            sync_folder(folder.parent)
    return folder


@contextmanager
def replacing(path: Path, point: Point, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write, which takes the name ``path`` durably when the block ends well.

    When the block raises, ``path`` is as it was and the temporary file is gone. ``name`` of the
    file is the temporary one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            with point:
                os.fsync(file.fileno())
                _rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, point: Point, mode: int = 0o600) -> None:
    """Replaces the file's content, durably."""
    with replacing(path, point, mode) as file:
        file.write(data)


def publish(temporary: Path, path: Path, point: Point) -> None:
    """Gives a complete, synced file its final name, durably. Both are in one file system."""
    with point:
        _rename(temporary, path)


def remove(path: Path, point: Point) -> None:
    """Removes a file, durably; it is fine when it is not there."""
    with point:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def tidy_up(folder: Path) -> None:
    """Removes what ``replacing`` left half-written in the folder when its process was killed."""
    for stray in folder.glob(".*.tmp"):
        if not _is_being_written(stray):
            stray.unlink(missing_ok=True)


def _is_being_written(temporary: Path) -> bool:
    """By another process, whose number is in the name."""
    number = temporary.suffixes[-2].removeprefix(".") if len(temporary.suffixes) > 1 else ""
    return number.isdigit() and int(number) != os.getpid() and Path(f"/proc/{number}").exists()


def _rename(temporary: Path, path: Path) -> None:
    temporary.rename(path)
    sync_folder(path.parent)
