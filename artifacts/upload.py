"""An upload: bytes that arrive in pieces, over links and through power cuts that break it off.

Every 1 MiB the bytes are synced, and only then is the new offset journalled (see incoming.py). That
and the hash follow the bytes in threads of their own (see trail.py), never more than 2 MiB behind:
so much is sent again after a cut. A hash cannot be resumed; after a cut it is computed again from
the start, beside what comes. The bytes get their name only when the hash over all of them is right.
When it is not, the pieces tell which bytes are to blame (see pieces.py), and the next try goes on
there.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from artifacts import digest as digests
from artifacts import durable, headroom, pieces
from artifacts.digest import Digest
from artifacts.incoming import Incoming, Progress, offset_line
from artifacts.persisting import Point
from artifacts.record import StoredArtifact
from artifacts.trail import Trail
from protos.errors import Busy, DigestMismatch, InvalidRequest, OffsetMismatch

SYNC_EVERY_BYTES = 1 << 20
MOST_UNSYNCED_BYTES = 2 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Announced:
    """What is to come: the artifact, its pieces, and where those are that are here already."""

    artifact: StoredArtifact
    wanted: bytes = b""
    places: Callable[[], pieces.Index] = dict


class Upload:
    """An open upload. One thread at a time calls it, and ends it with ``commit`` or ``close``."""

    def __init__(
        self,
        incoming: Incoming,
        announced: Announced,
        offset: int,
        *,
        check_headroom: Callable[[int], None],
        publish: Callable[[Path, Announced], StoredArtifact],
    ) -> None:
        pieces.check(announced.wanted, announced.artifact.size_bytes)
        self._incoming = incoming
        self._announced = announced
        self._artifact = announced.artifact
        self._check_headroom = check_headroom
        self._publish = publish
        with headroom.naming_disk_faults(incoming.folder):
            self._file = incoming.lock(self._artifact.digest)
        try:
            progress = self._usable_progress()
            self._check_offset(offset, progress.offset if progress else 0)
            with headroom.naming_disk_faults(incoming.folder):
                self._file.truncate(offset)
                self._file.seek(offset)
                self._journal = incoming.open_journal(self._artifact, progress)
        except BaseException:
            if not incoming.committed_offset(self._artifact.digest):
                incoming.remove(self._artifact.digest)
            self._file.close()
            raise
        self._received = self._roomy = offset
        self._sha256 = hashlib.sha256()
        # One for all: memory that is new each time costs more than the hash.
        self._block = memoryview(bytearray(_BLOCK_BYTES))
        self._hashing = Trail("hash of an upload", self._hash, written=offset)
        self._syncing = Trail(
            "sync of an upload",
            self._sync,
            done=offset,
            written=offset,
            least=SYNC_EVERY_BYTES,
        )

    def __enter__(self) -> "Upload":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def received_bytes(self) -> int:
        """The offset of the next chunk."""
        return self._received

    def write(self, chunk: bytes) -> None:
        """Appends a chunk; DiskFull ends the upload, and keeps what was synced."""
        self._require_open()
        if self._received + len(chunk) > self._artifact.size_bytes:
            raise InvalidRequest(
                f"More bytes came than the {self._artifact.size_bytes} that were announced.",
                fix="Send the file that the digest and the size were taken from.",
                field="chunk",
            )
        with self._abandoned_on_failure():
            self._append(chunk)
            if self._received - self._roomy >= MOST_UNSYNCED_BYTES:
                self._roomy = self._received
                self._check_headroom(self._size_bytes - self._received)

    def fill(self, end: int) -> None:
        """Appends the pieces up to ``end`` from other artifacts; Busy when they are gone."""
        self._require_open()
        places, wanted = self._announced.places(), pieces.each(self._announced.wanted)
        is_whole = end == self._size_bytes or end % pieces.PIECE_BYTES == 0
        begins_one = self._received % pieces.PIECE_BYTES == 0
        is_ahead = self._received < end <= self._size_bytes
        if not (wanted and begins_one and is_whole and is_ahead):
            raise InvalidRequest(
                f"The bytes from {self._received} to {end} are no pieces of this artifact.",
                fix="Leave out only ranges that the device said it held.",
                field="fill_to",
            )
        while self._received < end:
            number = self._received // pieces.PIECE_BYTES
            length = min(pieces.PIECE_BYTES, self._size_bytes - self._received)
            place = places.get(wanted[number])
            found = pieces.read(place, length, wanted[number]) if place else None
            if found is None:
                raise Busy(
                    f"Piece {number} of {digests.short(self._artifact.digest)} is here no more.",
                    why="The artifact that had it was deleted.",
                    fix="Ask again what is held, and send the rest.",
                )
            self.write(found)

    def commit(self) -> StoredArtifact:
        """Verifies the digest and gives the bytes their name in the store."""
        self._require_open()
        if self._received < self._size_bytes:
            raise InvalidRequest(
                f"The upload ended after {self._received} of {self._size_bytes} bytes.",
                fix=f"Resume it at offset {self._received}.",
                reason="INCOMPLETE_UPLOAD",
            )
        with self._abandoned_on_failure():
            self._syncing.complete()
            self._hashing.complete()
            found = Digest(f"{digests.ALGORITHM}:{self._sha256.hexdigest()}")
            if found != self._artifact.digest:
                self._refuse(found)
            stored = self._publish(self._incoming.data(found), self._announced)
            durable.remove(self._incoming.journal(found), Point.UPLOAD_ENDED)
        self._release()
        return stored

    def close(self) -> None:
        """Ends the upload and keeps what came, for a resume. Calling it again does nothing."""
        if self._file.closed:
            return
        with self._abandoned_on_failure():
            self._syncing.complete()
        if not self._received:
            self._incoming.remove(self._artifact.digest)
        self._release()

    @property
    def _size_bytes(self) -> int:
        return self._artifact.size_bytes

    def _usable_progress(self) -> Progress | None:
        """The journalled progress, unless it is of another announcement: then it is dropped."""
        progress = self._incoming.progress(self._artifact.digest)
        if progress is None or progress.belongs_to(self._artifact):
            return progress
        self._incoming.journal(self._artifact.digest).unlink()
        return None

    def _check_offset(self, offset: int, committed: int) -> None:
        if offset != committed:
            raise OffsetMismatch(
                f"The upload starts at {offset}, but {committed} bytes are here.",
                fix="Ask for the committed offset and send from there.",
                field="offset",
            )
        self._check_headroom(self._size_bytes - offset)

    def _append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._received += len(chunk)
        self._hashing.grown_to(self._received)
        self._syncing.grown_to(self._received)
        self._syncing.wait_within(MOST_UNSYNCED_BYTES)

    def _hash(self, done: int, written: int) -> int:
        view = self._block[: min(_BLOCK_BYTES, written - done)]
        read_bytes = os.preadv(self._file.fileno(), [view], done)
        if not read_bytes:
            raise OSError("The file is shorter than what was written to it.")
        self._sha256.update(view[:read_bytes])
        return done + read_bytes

    def _sync(self, done: int, written: int) -> int:
        """First the bytes, then the line that says they are there."""
        with Point.UPLOAD_BYTES:
            os.fdatasync(self._file.fileno())
        with Point.UPLOAD_OFFSET:
            self._journal.write(offset_line(written))
            os.fdatasync(self._journal.fileno())
        return written

    def _refuse(self, found: Digest) -> None:
        """The bytes are not what was announced: keeps those before the first wrong piece."""
        wrong = pieces.first_wrong(
            self._incoming.data(self._artifact.digest), self._announced.wanted
        )
        if wrong is not None:
            self._incoming.rewind(self._artifact, self._file, wrong)
            raise Busy(
                f"The bytes behind {wrong} of {digests.short(self._artifact.digest)} are damaged.",
                why="They were changed under way, or on the disk.",
                fix="Those before it were kept: go on from there.",
                reason="DAMAGED_PIECE",
            )
        self._incoming.remove(self._artifact.digest)
        raise DigestMismatch(
            f"The bytes that came are {found}, not {self._artifact.digest}.",
            why="They were changed under way, or the file changed while it was sent.",
            fix="They were dropped: send the file again from the start.",
        )

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """When the block fails the upload is over, and a resume starts at the last sync; nothing
        is kept of one that had none."""
        try:
            with headroom.naming_disk_faults(self._incoming.folder):
                yield
        except BaseException:
            self._end_trails()
            if not self._incoming.committed_offset(self._artifact.digest):
                with suppress(OSError):  # of a disk that fails for this as well
                    self._incoming.remove(self._artifact.digest)
            self._release()
            raise

    def _end_trails(self) -> None:
        self._hashing.close()
        self._syncing.close()

    def _release(self) -> None:
        self._end_trails()
        self._journal.close()
        self._file.close()

    def _require_open(self) -> None:
        if self._file.closed:
            raise InvalidRequest("This upload has ended.", fix="Begin a new one.")
