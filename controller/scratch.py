"""Folders for files on their way into the store.

A power cut leaves them behind, and a converted model has gigabytes. So each is locked while
somebody uses it, and whoever makes the next one removes those that nobody has.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from artifacts import durable


@contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new folder below ``parent``, gone when the block ends."""
    durable.make_folder(parent)
    with _alone(parent):
        _sweep(parent)
        path = Path(tempfile.mkdtemp(dir=parent))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def _alone(parent: Path) -> Iterator[None]:
    """Nobody sweeps between the making of a folder and its lock."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(parent: Path) -> None:
    for path in parent.iterdir():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
