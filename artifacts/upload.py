"""An upload: bytes that arrive in pieces, over links and through power cuts that break it off.

Every 4 MiB the bytes are synced, and only then is the new offset journalled (see incoming.py). A
hash cannot be resumed, so it is computed again over the synced prefix. The bytes get their name in
the store only when the hash over all of them is right.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from artifacts import digest as digests
from artifacts import durable, headroom
from artifacts.digest import Digest
from artifacts.incoming import Incoming, Progress, offset_line
from artifacts.persisting import Point
from artifacts.record import StoredArtifact
from protos.errors import DigestMismatch, InvalidRequest, OffsetMismatch

SYNC_EVERY_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20


class Upload:
    """An open upload. One thread at a time calls it, and ends it with ``commit`` or ``close``."""

    def __init__(
        self,
        incoming: Incoming,
        announced: StoredArtifact,
        offset: int,
        *,
        check_headroom: Callable[[int], None],
        publish: Callable[[Path, StoredArtifact], StoredArtifact],
    ) -> None:
        self._incoming = incoming
        self._announced = announced
        self._check_headroom = check_headroom
        self._publish = publish
        self._hash = hashlib.sha256()
        with headroom.naming_full_disk(incoming.folder):
            self._file = incoming.lock(announced.digest)
        try:
            progress = self._usable_progress()
            self._check_offset(offset, progress.offset if progress else 0)
            with headroom.naming_full_disk(incoming.folder):
                self._file.truncate(offset)
                self._journal = incoming.open_journal(announced, progress)
        except BaseException:
            if not incoming.committed_offset(announced.digest):
                incoming.remove(announced.digest)
            self._file.close()
            raise
        self._received = self._synced = offset
        with self._abandoned_on_failure():
            self._hash_prefix()

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
        if self._received + len(chunk) > self._announced.size_bytes:
            raise InvalidRequest(
                f"More bytes came than the {self._announced.size_bytes} that were announced.",
                fix="Send the file that the digest and the size were taken from.",
                field="chunk",
            )
        with self._abandoned_on_failure():
            self._append(chunk)
            if self._received - self._synced >= SYNC_EVERY_BYTES:
                self._sync()
                self._check_headroom(self._announced.size_bytes - self._received)

    def commit(self) -> StoredArtifact:
        """Verifies the digest and gives the bytes their name in the store."""
        self._require_open()
        if self._received < self._announced.size_bytes:
            raise InvalidRequest(
                f"The upload ended after {self._received} of {self._announced.size_bytes} bytes.",
                fix=f"Resume it at offset {self._received}.",
                reason="INCOMPLETE_UPLOAD",
            )
        found = Digest(f"{digests.ALGORITHM}:{self._hash.hexdigest()}")
        if found != self._announced.digest:
            self._incoming.remove(self._announced.digest)
            self._release()
            raise DigestMismatch(
                f"The bytes that came are {found}, not {self._announced.digest}.",
                why="They were changed under way, or the file changed while it was sent.",
                fix="They were dropped: send the file again from the start.",
            )
        with self._abandoned_on_failure():
            if self._received > self._synced:
                self._sync()
            stored = self._publish(self._incoming.data(found), self._announced)
            # What is mapped must never change. Not before it is published: a crash in between
            # would leave an upload that its own user cannot open for writing.
            os.fchmod(self._file.fileno(), 0o400)
            durable.remove(self._incoming.journal(found), Point.UPLOAD_ENDED)
        self._release()
        return stored

    def close(self) -> None:
        """Ends the upload and keeps what came, for a resume. Calling it again does nothing."""
        if self._file.closed:
            return
        with self._abandoned_on_failure():
            if self._received > self._synced:
                self._sync()
        if not self._received:
            self._incoming.remove(self._announced.digest)
        self._release()

    def _usable_progress(self) -> Progress | None:
        """The journalled progress, unless it is of another announcement: then it is dropped."""
        progress = self._incoming.progress(self._announced.digest)
        if progress is None or progress.belongs_to(self._announced):
            return progress
        self._incoming.journal(self._announced.digest).unlink()
        return None

    def _check_offset(self, offset: int, committed: int) -> None:
        if offset != committed:
            raise OffsetMismatch(
                f"The upload starts at {offset}, but {committed} bytes are here.",
                fix="Ask for the committed offset and send from there.",
                field="offset",
            )
        self._check_headroom(self._announced.size_bytes - offset)

    def _hash_prefix(self) -> None:
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._hash.update(block)

    def _append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(chunk)
        self._received += len(chunk)

    def _sync(self) -> None:
        """First the bytes, then the line that says they are there."""
        with Point.UPLOAD_BYTES:
            os.fdatasync(self._file.fileno())
        with Point.UPLOAD_OFFSET:
            self._journal.write(offset_line(self._received))
            os.fdatasync(self._journal.fileno())
        self._synced = self._received

    @contextmanager
    def _abandoned_on_failure(self) -> Iterator[None]:
        """When the block fails the upload is over, and a resume starts at the last sync."""
        try:
            with headroom.naming_full_disk(self._incoming.folder):
                yield
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        self._journal.close()
        self._file.close()

    def _require_open(self) -> None:
        if self._file.closed:
            raise InvalidRequest("This upload has ended.", fix="Begin a new one.")
