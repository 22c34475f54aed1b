"""The last day of telemetry, in one file of a fixed size.

The link to the controller may be cut for hours: the samples of that time are kept here and are
replayed from any sequence number. A database would grow, and would sync on each insert; a ring of
blocks (see blocks.py) writes each sample once, with one system call, and never needs more space
than on its first day.

Writes go to the page cache: a killed agent loses nothing, and the next one goes on with the next
number. A power cut loses what was not synced, at most MOST_UNSYNCED samples (a sync each second
would wear a flash card). After a reboot the numbers therefore jump by that much: a number that a
controller has seen is never given to another sample.
"""

import asyncio
import bisect
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.telemetry import blocks
from agent.telemetry.blocks import BLOCK_BYTES, BlockHeader
from agent.telemetry.ring_file import open_ring, scan, stray_seq
from artifacts.persisting import Point
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

# A day at one sample a second of 400 to 700 bytes.
CAPACITY_BYTES = 64 << 20
# Samples since the last sync, at most: what a power cut may take.
MOST_UNSYNCED = 120
# Samples kept in memory for those who watch live.
RECENT = 120

_log = logging.getLogger(__name__)


class TelemetryRing:
    """Appends, reads and awaits samples, in the event loop's thread; ``sync`` in any."""

    def __init__(self, path: Path, capacity_bytes: int = CAPACITY_BYTES) -> None:
        """Opens or makes the file. With another capacity the newest samples that fit are kept.

        Raises DiskFull when there is no room for the file.
        """
        self._path = path
        self._places = max(2, capacity_bytes // BLOCK_BYTES)
        self._descriptor = open_ring(path, self._places)
        self._blocks = scan(self._descriptor, self._places)
        self._newest_seq = stray_seq(self._descriptor, self._places)
        self._end = BLOCK_BYTES
        self._recent: deque[TelemetrySample] = deque(maxlen=RECENT)
        self._appended = asyncio.Event()
        self._written = self._synced = 0
        self._failing: set[str] = set()
        self._find_end()

    @property
    def newest_seq(self) -> int:
        """The number of the newest sample; 0 when there is none."""
        return self._newest_seq

    def newest(self) -> TelemetrySample | None:
        if not self._recent:
            self._recent.extend(self.after(self._newest_seq - 1))
        return self._recent[-1] if self._recent else None

    def append(self, sample: TelemetrySample) -> TelemetrySample:
        """Keeps ``sample``, gives it the next number, wakes those who wait; returns it."""
        sample.seq = self._next_seq(sample.boot_id)
        # Those who watch live still get it; those who replay see the gap in the numbers.
        with self._told_once("write", f"samples from {sample.seq} on are not kept on disk"):
            self._write(sample.seq, sample.SerializeToString())
        self._newest_seq = sample.seq
        self._recent.append(sample)
        if self._written - self._synced >= MOST_UNSYNCED:
            self.sync()
        appended, self._appended = self._appended, asyncio.Event()
        appended.set()
        return sample

    def after(self, seq: int) -> Iterator[TelemetrySample]:
        """The samples with greater numbers, oldest first, up to the newest.

        One block is read at a time. A reader that the ring has overtaken goes on with the oldest
        sample that is left.
        """
        while seq < self._newest_seq:
            batch = self._from_memory(seq) or self._from_disk(seq)
            if not batch:
                return
            yield from batch
            seq = batch[-1].seq

    async def wait(self, seq: int) -> None:
        """Returns when there is a sample with a greater number."""
        while self._newest_seq <= seq:
            await self._appended.wait()

    def sync(self) -> None:
        """Makes all that was appended survive a power cut, if the disk works. Blocks; may run in
        another thread."""
        written = self._written
        with self._told_once("sync", "samples are lost in a power cut"), Point.TELEMETRY_SYNCED:
            os.fdatasync(self._descriptor)
        self._synced = written

    def close(self) -> None:
        """Syncs and closes; idempotent."""
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _told_once(self, deed: str, consequence: str) -> Iterator[None]:
        """A disk that fails takes nothing else with it; it is told until it works again."""
        try:
            yield
        except OSError as error:
            if deed not in self._failing:
                _log.warning("%s: %s", consequence, error)
            self._failing.add(deed)
        else:
            self._failing.discard(deed)

    def _next_seq(self, boot_id: str) -> int:
        newest = self.newest()
        if newest is not None and newest.boot_id != boot_id:
            return self._newest_seq + 1 + MOST_UNSYNCED
        return self._newest_seq + 1

    def _write(self, seq: int, sample: bytes) -> None:
        record = blocks.pack_record(seq, sample)
        if self._end + len(record) > BLOCK_BYTES:
            self._begin_block(seq, record)
        else:
            os.pwrite(self._descriptor, record, self._offset(self._blocks[-1].number) + self._end)
            self._end += len(record)
        self._written += 1

    def _begin_block(self, seq: int, record: bytes) -> None:
        """Overwrites the oldest block, whole: nothing of it can be taken for a newer record."""
        header = BlockHeader(self._blocks[-1].number + 1 if self._blocks else 0, seq)
        data = blocks.pack_header(header) + record
        os.pwrite(self._descriptor, data.ljust(BLOCK_BYTES, b"\0"), self._offset(header.number))
        self._blocks = [*self._blocks[1 - self._places :], header]
        self._end = len(data)

    def _find_end(self) -> None:
        """Sets the newest number and where the next record goes, from what is on the disk."""
        for header in reversed(self._blocks):
            last = max(self._records(header), key=lambda record: record.seq, default=None)
            if last is not None:
                self._newest_seq = max(self._newest_seq, last.seq)
                # A newest block whose records are damaged is closed, not continued.
                self._end = last.end if header is self._blocks[-1] else BLOCK_BYTES
                return

    def _from_memory(self, seq: int) -> list[TelemetrySample]:
        if not self._recent or seq < self._recent[0].seq - 1:
            return []
        return [sample for sample in self._recent if sample.seq > seq]

    def _from_disk(self, seq: int) -> list[TelemetrySample]:
        """The samples of the first block that has any after ``seq``."""
        start = bisect.bisect_right(self._blocks, seq + 1, key=lambda header: header.first_seq)
        for header in self._blocks[max(0, start - 1) :]:
            found = [record.sample for record in self._records(header) if record.seq > seq]
            if found:
                return [TelemetrySample.FromString(sample) for sample in found]
        return []

    def _records(self, header: BlockHeader) -> list[blocks.Record]:
        data = os.pread(self._descriptor, BLOCK_BYTES, self._offset(header.number))
        return list(blocks.parse_records(data)) if blocks.parse_header(data) == header else []

    def _offset(self, number: int) -> int:
        return number % self._places * BLOCK_BYTES
