"""Durability, here and nowhere else: what was reported as written survives a power cut.

A file is written under a temporary name beside its final one, synced, renamed, and the folder is
synced, so that at every moment the final name holds the old content or the new one, whole.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
        folder.mkdir(mode=mode, exist_ok=True)
        sync_folder(folder.parent)
    return folder


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write, which takes the name ``path`` durably when the block ends well.

    When the block raises, ``path`` is as it was and the temporary file is gone. ``name`` of the
    file is the temporary one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces the file's content, durably."""
    with replacing(path, mode) as file:
        file.write(data)


def publish(temporary: Path, path: Path) -> None:
    """Gives a complete, synced file its final name, durably. Both are in one file system."""
    temporary.rename(path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, durably; it is fine when it is not there."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
