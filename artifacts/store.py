"""The store of artifacts on one machine: immutable bytes under the digest of their content.

    objects/     complete artifacts and their records, see objects.py
    incoming/    unfinished uploads, see incoming.py
    lock         held for the moments in which records or names change

The agent and the controller use the same store, from several threads and processes at once. Calls
block: asyncio callers use ``asyncio.to_thread``. Nothing is hashed again after it was verified, so
looking up and listing are quick.
"""

import builtins
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from artifacts import digest as digests
from artifacts import durable, headroom, pieces, regular_file
from artifacts.digest import Digest
from artifacts.incoming import Incoming
from artifacts.objects import Objects
from artifacts.record import Kind, StoredArtifact
from artifacts.upload import Announced, Upload
from protos.errors import Busy, DiskFull, InUse, NotFound
from protos.nanofleet.v1 import artifact_pb2

__all__ = ["ArtifactStore", "Kind", "StoredArtifact", "Upload"]

RESERVE_BYTES = 256 << 20
# Longer than it takes to push the files of a job and to submit it.
FRESH_S = 600.0
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Removable:
    """Something that nobody needs; ``remove`` says whether it could be removed."""

    digest: Digest
    size_bytes: int
    used_ns: int
    remove: Callable[[Digest], bool]


class ArtifactStore:
    def __init__(
        self,
        root: Path,
        *,
        reserve_bytes: int = RESERVE_BYTES,
        free_bytes: Callable[[Path], int] = headroom.free_bytes,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
        evicted: frozenset[Kind] = frozenset(),
    ) -> None:
        """Opens the store in ``root``, makes it if need be, and tidies up after a crash.

        ``reserve_bytes`` of the disk are never given to artifacts. Those of the kinds ``evicted``
        are deleted when another one needs their room, see ``make_room``.
        """
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._free_bytes = free_bytes
        self._evicted = evicted
        self._monotonic_s = monotonic_s
        self._used_s: dict[Digest, float] = {}
        self._objects = Objects(durable.make_folder(root / "objects"), clock_ns)
        self._incoming = Incoming(durable.make_folder(root / "incoming"))
        with self._exclusive():
            self._objects.tidy_up()
            self._incoming.tidy_up()

    def stat(self, digest: Digest) -> StoredArtifact | None:
        """The artifact, or None when it is not (completely) here."""
        return self._objects.stat(digest)

    def path(self, digest: Digest) -> Path:
        """The file of a complete artifact. Pin it first when it must stay."""
        self._require(digest)
        return self._objects.path(digest)

    def list(self, kind: Kind | None = None) -> builtins.list[StoredArtifact]:
        """Every complete artifact (of one kind; unspecified is every kind), by digest."""
        every = artifact_pb2.ARTIFACT_KIND_UNSPECIFIED
        found = (self.stat(digest) for digest in self._objects.known())
        return [item for item in found if item and kind in (None, every, item.kind)]

    def used_bytes(self) -> int:
        """What artifacts and unfinished uploads take."""
        unfinished = sum(partial.size_bytes for partial in self._incoming.partials())
        return unfinished + sum(item.size_bytes for item in self.list())

    def committed_offset(self, digest: Digest) -> int:
        """Where an upload of the artifact has to start."""
        return self._incoming.committed_offset(digests.parse(digest))

    def pieces_of(self, digest: Digest) -> bytes:
        """Of a large artifact, for whoever it is sent to; empty when there are none."""
        return self._objects.pieces_of(digest)

    def held(self, digest: Digest, size_bytes: int, wanted: bytes) -> builtins.list[pieces.Range]:
        """What of an artifact that is not here yet lies here in others."""
        pieces.check(wanted, size_bytes)
        committed = self.committed_offset(digest)
        return pieces.held(wanted, size_bytes, committed, self._places() if wanted else {})

    def begin(
        self, digest: Digest, size_bytes: int, kind: Kind, offset: int, wanted: bytes = b""
    ) -> Upload:
        """Opens an upload at ``offset``, which must be the committed offset. ``wanted`` are its
        pieces.

        Raises OffsetMismatch, Busy when another upload of the artifact is open, and DiskFull when
        the rest of it would not leave the reserve free. Whether it is already here is the
        caller's question (``stat``).
        """
        artifact = StoredArtifact(digests.parse(digest), size_bytes, kind)
        return Upload(
            self._incoming,
            Announced(artifact, wanted, self._places),
            offset,
            check_headroom=self._ensure_headroom,
            publish=self._publish,
        )

    def add_file(self, path: Path, kind: Kind) -> StoredArtifact:
        """Copies a file of this machine into the store; nothing to do when it is there already."""
        with regular_file.open_to_read(path) as source:
            digest, known = pieces.measured(path)
            if present := self.stat(digest):
                self.touch(digest)
                return present
            announced = StoredArtifact(digest, os.fstat(source.fileno()).st_size, kind)
            try:
                with self._begin_where_possible(announced, known) as upload:
                    source.seek(upload.received_bytes)
                    while block := source.read(_COPY_BYTES):
                        upload.write(block)
                    return upload.commit()
            except DiskFull:
                # Half a copy of what is here anyway would only keep the disk full.
                self._drop_partial(digest)
                raise

    def pin(self, digest: Digest, owner: str) -> None:
        """Keeps the artifact until ``owner`` unpins it, durably; pinning twice is one pin."""
        with self._exclusive():
            found = self._require(digest)
            self._write_pins(found, {*found.pins, owner})

    def unpin(self, digest: Digest, owner: str) -> None:
        """Ends ``owner``'s pin; fine when there is none."""
        with self._exclusive():
            found = self._objects.recorded(digest)
            if found and owner in found.pins:
                self._write_pins(found, set(found.pins) - {owner})

    def touch(self, digest: Digest) -> None:
        """Marks the artifact as used now, for ``make_room``."""
        with self._exclusive():
            self._require(digest)
            self._touch(digest)

    def delete(self, digest: Digest) -> None:
        """Removes the artifact, or the unfinished upload of it; InUse when something needs it."""
        with self._exclusive():
            found = self._objects.recorded(digests.parse(digest))
            if found and found.pins:
                raise _in_use(digest, f"It is needed by: {', '.join(found.pins)}.")
            uploading = self._incoming.data(digest).exists()
            if not found and not uploading:
                raise _missing(digest)
            if uploading and not self._drop_partial(digest):
                raise _in_use(digest, "It is being uploaded.")
            self._objects.remove(digest)

    def make_room(self, needed_bytes: int) -> builtins.list[Digest]:
        """Deletes what nobody pinned, the longest unused first, until ``needed_bytes`` fit.

        Only the kinds that the store was told, and abandoned uploads. What was used a moment ago
        stays: of the files of one job, none may push out the other. When even all of it would not
        do, nothing is deleted and DiskFull is raised.
        """
        with self._exclusive():
            removable = sorted(self._removable(), key=lambda item: item.used_ns)
            reclaimable = sum(item.size_bytes for item in removable)
            if self._free_bytes(self._root) + reclaimable < needed_bytes + self._reserve_bytes:
                self._check_headroom(needed_bytes)
            removed = []
            for item in removable:
                if self._free_bytes(self._root) >= needed_bytes + self._reserve_bytes:
                    break
                if item.remove(item.digest):
                    removed.append(item.digest)
            return removed

    def _require(self, digest: Digest) -> StoredArtifact:
        if found := self.stat(digest):
            return found
        raise _missing(digest)

    def _touch(self, digest: Digest) -> None:
        self._used_s[digest] = self._monotonic_s()
        self._objects.touch(digest)

    def _begin_where_possible(self, announced: StoredArtifact, known: bytes) -> Upload:
        progress = self._incoming.progress(announced.digest)
        offset = progress.offset if progress and progress.belongs_to(announced) else 0
        return self.begin(announced.digest, announced.size_bytes, announced.kind, offset, known)

    def _check_headroom(self, needed_bytes: int) -> None:
        free = self._free_bytes(self._root)
        headroom.check(self._root, needed_bytes, free, self._reserve_bytes)

    def _ensure_headroom(self, needed_bytes: int) -> None:
        if self._free_bytes(self._root) < needed_bytes + self._reserve_bytes:
            self.make_room(needed_bytes)

    def _publish(self, complete: Path, announced: Announced) -> StoredArtifact:
        with self._exclusive():
            stored = self._objects.publish(complete, announced.artifact, announced.wanted)
            self._used_s[stored.digest] = self._monotonic_s()
            return stored

    def _places(self) -> pieces.Index:
        """Every piece that is here. A few KiB for each gigabyte, so nothing is remembered."""
        known = [item.digest for item in self.list() if item.size_bytes >= pieces.LEAST_BYTES]
        of = self._objects
        return pieces.index((of.path(each), of.pieces_of(each)) for each in known)

    def _write_pins(self, artifact: StoredArtifact, pins: set[str]) -> None:
        with headroom.naming_disk_faults(self._root):
            self._objects.write_record(replace(artifact, pins=tuple(sorted(pins))))
        self._used_s[artifact.digest] = self._monotonic_s()

    def _removable(self) -> Iterator[_Removable]:
        for item in self.list():
            if not item.pins and item.kind in self._evicted and not self._is_fresh(item.digest):
                used_ns = self._objects.used_ns(item.digest)
                yield _Removable(item.digest, item.size_bytes, used_ns, self._objects.remove)
        for partial in self._incoming.partials():
            if not self._incoming.is_running(partial.digest):
                yield _Removable(
                    partial.digest, partial.size_bytes, partial.written_ns, self._drop_partial
                )

    def _is_fresh(self, digest: Digest) -> bool:
        used_s = self._used_s.get(digest)
        return used_s is not None and self._monotonic_s() - used_s < FRESH_S

    def _drop_partial(self, digest: Digest) -> bool:
        """Removes the unfinished upload, if there is one; False when it is running."""
        if not self._incoming.data(digest).exists():
            return True
        try:
            file = self._incoming.lock(digest)
        except Busy:
            return False
        with file:
            self._incoming.remove(digest)
        return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Holds the store's lock against other threads and other processes, for a moment."""
        descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _missing(digest: Digest) -> NotFound:
    return NotFound(
        f"The artifact {digests.short(digest)} is not here.", fix="Push it to this store first."
    )


def _in_use(digest: Digest, why: str) -> InUse:
    return InUse(
        f"{digests.short(digest)} cannot be deleted.",
        why=why,
        fix="Wait until that has ended, or cancel it.",
    )
