"""The unfinished uploads of a store, on disk.

The size of a file says nothing after a power cut: its last megabytes may be zeros. So beside the
bytes lies a journal of the offsets up to which they were synced, and an upload resumes there.

    incoming/<digits>            the bytes so far; locked (flock) while an upload is open
    incoming/<digits>.journal    a JSON line with size and kind, then one line for each offset

The lock belongs to the open file, so it holds between threads as well as between processes, and the
kernel drops it when the holder dies.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from artifacts import digest as digests
from artifacts import durable
from artifacts.digest import Digest
from artifacts.persisting import Point
from artifacts.record import Kind, StoredArtifact
from protos.errors import Busy

_JOURNAL_VERSION = 1
# A line that a power cut tore has fewer digits, or other bytes: then it does not count.
_OFFSET_LINE = re.compile(rb"[0-9]{20}")


@dataclass(frozen=True, slots=True)
class Progress:
    """What the journal of an unfinished upload says; ``journal_bytes`` is its undamaged part."""

    size_bytes: int
    kind: Kind
    offset: int
    journal_bytes: int

    def belongs_to(self, announced: StoredArtifact) -> bool:
        return (self.size_bytes, self.kind) == (announced.size_bytes, announced.kind)


@dataclass(frozen=True, slots=True)
class Partial:
    """An unfinished upload, for whoever looks for room."""

    digest: Digest
    size_bytes: int
    written_ns: int


class Incoming:
    """The folder of unfinished uploads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def data(self, digest: Digest) -> Path:
        return self.folder / digests.hex_of(digest)

    def journal(self, digest: Digest) -> Path:
        return self.folder / f"{digests.hex_of(digest)}.journal"

    def committed_offset(self, digest: Digest) -> int:
        """Where an upload resumes; 0 when it starts anew."""
        progress = self.progress(digest)
        return progress.offset if progress else 0

    def progress(self, digest: Digest) -> Progress | None:
        """The journalled progress; None when there is none or the bytes it speaks of are gone."""
        try:
            size_on_disk = self.data(digest).stat().st_size
            progress = _parse_journal(self.journal(digest).read_bytes())
        except FileNotFoundError:
            return None
        return progress if progress and progress.offset <= size_on_disk else None

    def lock(self, digest: Digest) -> BinaryIO:
        """The data file, open and the caller's alone; Busy while another upload has it."""
        path = self.data(digest)
        while True:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise Busy(
                    f"Another transfer of {digests.short(digest)} is running.",
                    fix="Wait for it to end, then ask again: the artifact may be there.",
                    retry_after_s=1.0,
                ) from None
            if _is_name_of(path, file):
                return file
            file.close()  # the last holder published or removed it between our open and our lock

    def is_running(self, digest: Digest) -> bool:
        """Whether somebody has the unfinished upload open."""
        try:
            self.lock(digest).close()
        except Busy:
            return True
        return False

    def open_journal(self, announced: StoredArtifact, progress: Progress | None) -> BinaryIO:
        """The journal, ready for the next offset; the caller holds the lock."""
        path = self.journal(announced.digest)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        journal = os.fdopen(os.open(path, flags, 0o600), "ab", buffering=0)
        try:
            # A torn last line would swallow the next one.
            journal.truncate(progress.journal_bytes if progress else 0)
            if progress is None:
                journal.write(_header(announced))
            with Point.UPLOAD_BEGUN:
                os.fsync(journal.fileno())
                durable.sync_folder(self.folder)
        except BaseException:
            journal.close()
            raise
        return journal

    def rewind(self, announced: StoredArtifact, file: BinaryIO, offset: int) -> None:
        """Takes back what lies behind the offset; the caller holds the lock, and ends the upload.

        The bytes first: a journal that speaks of more than there is counts as none.
        """
        with Point.UPLOAD_REPAIRED:
            file.truncate(offset)
            os.fsync(file.fileno())
            with self.journal(announced.digest).open("wb", buffering=0) as journal:
                journal.write(_header(announced) + offset_line(offset))
                os.fsync(journal.fileno())

    def remove(self, digest: Digest) -> None:
        """Removes both files; the caller holds the lock."""
        self.data(digest).unlink(missing_ok=True)
        durable.remove(self.journal(digest), Point.UPLOAD_ENDED)

    def partials(self) -> Iterator[Partial]:
        """Every unfinished upload, also those that are running."""
        for path in sorted(self.folder.iterdir()):
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                digest = Digest(f"{digests.ALGORITHM}:{path.name}")
                try:
                    status = path.stat()
                except FileNotFoundError:  # it has just ended
                    continue
                yield Partial(digest, status.st_size, status.st_mtime_ns)

    def tidy_up(self) -> None:
        """Removes journals without bytes: a crash between publishing and removing leaves one.

        Bytes are opened before their journal, so no upload that begins now loses its own.
        """
        for path in self.folder.glob("*.journal"):
            if not path.with_suffix("").exists():
                path.unlink(missing_ok=True)


def offset_line(offset: int) -> bytes:
    return b"%020d\n" % offset


def _header(announced: StoredArtifact) -> bytes:
    fields = {
        "format_version": _JOURNAL_VERSION,
        "size_bytes": announced.size_bytes,
        "kind": int(announced.kind),
    }
    return json.dumps(fields).encode() + b"\n"


def _parse_journal(content: bytes) -> Progress | None:
    """None when the header itself is damaged. A damaged tail only costs what it spoke of."""
    header, newline, lines = content.partition(b"\n")
    try:
        fields = json.loads(header)
        size_bytes, kind = int(fields["size_bytes"]), Kind(int(fields["kind"]))
        if not newline or fields["format_version"] != _JOURNAL_VERSION:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    offset, journal_bytes = 0, len(header) + 1
    for line in lines.split(b"\n")[:-1]:
        if not _OFFSET_LINE.fullmatch(line) or not offset <= int(line) <= size_bytes:
            break
        offset, journal_bytes = int(line), journal_bytes + len(line) + 1
    return Progress(size_bytes, kind, offset, journal_bytes)


def _is_name_of(path: Path, file: BinaryIO) -> bool:
    """Whether ``path`` is still the name of the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
