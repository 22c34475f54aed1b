"""A download's file: ``.<name>.<digits>.part`` beside the target until every byte is verified.

The next try, in this process or another, goes on behind what is in it. The digits are the
artifact's, so that a try for another artifact does not go on in the middle of this one; the lock
keeps two that run at the same time from writing into each other.
"""

import errno
import fcntl
import os
from pathlib import Path

from artifacts import durable
from artifacts.digest import Digest, hex_of, of_file, short
from artifacts.persisting import Point
from protos.errors import Busy, DigestMismatch


class PartialFile:
    """Where a download goes, see transfer.Sink."""

    def __init__(self, target: Path, digest: Digest) -> None:
        self._target = target
        self._digest = digest
        self._part = target.with_name(f".{target.name}.{hex_of(digest)[:12]}.part")
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        self._file = self._part.open("ab")
        if not self._is_ours():
            self._file.close()
            raise Busy(
                f"Another download of {short(digest)} into {target} is running.",
                fix="Wait until it has ended, or choose another file.",
            )
        self._file.seek(0, os.SEEK_END)

    def _is_ours(self) -> bool:
        """Locks the file; False when somebody has it, or has given it its final name meanwhile."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(self._part.stat(), os.fstat(self._file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            return False

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def received_bytes(self) -> int:
        return self._file.tell()

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def commit(self) -> None:
        self._file.flush()
        with Point.UPLOAD_BYTES:
            os.fsync(self._file.fileno())
        found = of_file(self._part)
        if found != self._digest:
            self._part.unlink()
            raise DigestMismatch(
                f"What came for {short(self._digest)} is {short(found)}.",
                why="The bytes were changed on the device or under way.",
                fix="They were dropped: try again.",
            )
        durable.publish(self._part, self._target, Point.DOWNLOAD_NAMED)
