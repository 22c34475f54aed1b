"""The complete artifacts of a store, on disk.

    objects/ab/cdef…         the bytes, verified, read-only
    objects/ab/cdef….json    the record; its file time says when the artifact was last used
    objects/ab/cdef….pieces  of a large one, see pieces.py

The record is written before the bytes get their name and removed after them: at every moment of a
crash, bytes that lie here are accounted for. A record alone is no artifact.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from artifacts import digest as digests
from artifacts import durable, pieces, record
from artifacts.digest import Digest
from artifacts.persisting import Point
from artifacts.record import StoredArtifact
from protos.errors import InvalidRequest

_DIGITS = 64


class Objects:
    """The folder of complete artifacts. Writers hold the store's lock."""

    def __init__(self, folder: Path, clock_ns: Callable[[], int]) -> None:
        self._folder = folder
        self._clock_ns = clock_ns
        self._stamp_lock = threading.Lock()
        self._newest_ns = 0

    def path(self, digest: Digest) -> Path:
        digits = digests.hex_of(digests.parse(digest))  # parsed, because it becomes a file name
        return self._folder / digits[:2] / digits[2:]

    def stat(self, digest: Digest) -> StoredArtifact | None:
        """The artifact, when its record and all of its bytes are here."""
        found = self.recorded(digest)
        return found if found and self._size_on_disk(digest) == found.size_bytes else None

    def recorded(self, digest: Digest) -> StoredArtifact | None:
        """The record, whether or not the bytes are here."""
        return record.read(self._record_path(digest), digest)

    def known(self) -> Iterator[Digest]:
        """Every digest with a record."""
        for path in sorted(self._folder.glob("??/*.json")):
            digits = path.parent.name + path.stem
            if len(digits) == _DIGITS:
                yield Digest(f"{digests.ALGORITHM}:{digits}")

    def pieces_of(self, digest: Digest) -> bytes:
        """Of a large artifact; empty when nobody said them, or they are damaged."""
        found = self.stat(digest)
        try:
            known = self._pieces_path(digest).read_bytes()
            pieces.check(known, found.size_bytes if found else 0)
        except (FileNotFoundError, InvalidRequest):
            return b""
        return known

    def publish(self, complete: Path, artifact: StoredArtifact, known: bytes) -> StoredArtifact:
        """Gives verified, synced bytes their name; pins of an earlier copy stay."""
        durable.make_folder(self.path(artifact.digest).parent)
        before = self.recorded(artifact.digest)
        stored = replace(artifact, pins=before.pins if before else ())
        self.write_record(stored)
        if known:
            durable.write_bytes(self._pieces_path(artifact.digest), known, Point.STORE_PIECES)
        durable.publish(complete, self.path(artifact.digest), Point.STORE_OBJECT)
        # What is mapped must never change. Not before it is published: a crash in between would
        # leave an upload that its own user cannot open for writing.
        self.path(artifact.digest).chmod(0o400)
        return stored

    def write_record(self, artifact: StoredArtifact) -> None:
        record.write(self._record_path(artifact.digest), artifact)
        self.touch(artifact.digest)

    def remove(self, digest: Digest) -> bool:
        """Removes bytes and record; False when there were neither."""
        if not self._record_path(digest).exists():
            return False
        with Point.STORE_REMOVED:
            self.path(digest).unlink(missing_ok=True)
            self._pieces_path(digest).unlink(missing_ok=True)
            self._record_path(digest).unlink(missing_ok=True)
            durable.sync_folder(self.path(digest).parent)
        return True

    def touch(self, digest: Digest) -> None:
        """Sets the time of last use: the wall clock, but never earlier than any time before.

        Boards without a clock battery wake up in 1970; the order must hold all the same.
        """
        with self._stamp_lock:
            self._newest_ns = max(self._clock_ns(), self._newest_ns + 1)
            os.utime(self._record_path(digest), ns=(self._newest_ns, self._newest_ns))

    def used_ns(self, digest: Digest) -> int:
        return self._record_path(digest).stat().st_mtime_ns

    def tidy_up(self) -> None:
        """Removes what a crash left half-written, and learns the newest time of use."""
        for folder in self._folder.iterdir():
            durable.tidy_up(folder)
        for digest in tuple(self.known()):
            found = self.recorded(digest)
            if found and not found.pins and self._size_on_disk(digest) is None:
                self.remove(digest)
            else:
                self._newest_ns = max(self._newest_ns, self.used_ns(digest))

    def _pieces_path(self, digest: Digest) -> Path:
        return self.path(digest).with_suffix(".pieces")

    def _record_path(self, digest: Digest) -> Path:
        return self.path(digest).with_suffix(".json")

    def _size_on_disk(self, digest: Digest) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None
