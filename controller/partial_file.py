"""A download into a file of a person's choice: the same as an upload, with another end.

The bytes lie in a hidden folder beside the target until all are verified, with a journal of the
offsets up to which they were synced (see artifacts/incoming.py): the next try, in this process or
another, goes on there. The file's size would say nothing after a power cut.
"""

import contextlib
import errno
import os
from pathlib import Path

from artifacts import durable, headroom
from artifacts.digest import Digest
from artifacts.incoming import Incoming
from artifacts.persisting import Point
from artifacts.record import Kind, StoredArtifact
from artifacts.upload import Announced, Upload

_MODE = 0o644


def begin(target: Path, digest: Digest, size_bytes: int, kind: Kind) -> Upload:
    """Opens the download where the last try ended. Raises Busy while another one of the same
    artifact into the same file runs, DiskFull, and OSError when there is no such folder."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    folder = target.with_name(f".{target.name}.part")
    folder.mkdir(exist_ok=True)
    incoming = Incoming(folder)

    def check_headroom(needed_bytes: int) -> None:
        headroom.check(folder, needed_bytes, headroom.free_bytes(folder), reserve_bytes=0)

    def publish(complete: Path, announced: Announced) -> StoredArtifact:
        complete.chmod(_MODE)
        durable.publish(complete, target, Point.DOWNLOAD_NAMED)
        return announced.artifact

    artifact = StoredArtifact(digest, size_bytes, kind)
    progress = incoming.progress(digest)
    offset = progress.offset if progress and progress.belongs_to(artifact) else 0
    return Upload(
        incoming, Announced(artifact), offset, check_headroom=check_headroom, publish=publish
    )


def tidy_up(target: Path) -> None:
    """The folder goes when nothing is left in it."""
    with contextlib.suppress(OSError):
        target.with_name(f".{target.name}.part").rmdir()
