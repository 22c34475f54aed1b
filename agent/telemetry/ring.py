"""The last day of telemetry, in one file of a fixed size.

The link to the controller may be cut for hours: the samples of that time are kept here and are
replayed from any sequence number. A database would grow, and would sync on each insert; a ring of
blocks (see blocks.py) writes each sample with one system call, and never needs more space than on
its first day.

    samples    two blocks: a sample is written whole, as soon as there is one
       │  the block is full: its samples become one batch (columns.py), a tenth of their bytes
       ▼
    batches    all other blocks: the day

A block of samples is overwritten by the next but one, when its batch is on the disk: there is no
moment at which a sample is nowhere. Damage to a batch costs its samples, two minutes.

Writes go to the page cache: a killed agent loses nothing, and the next one goes on with the next
number. A power cut loses what was not synced, at most MOST_UNSYNCED samples (a sync each second
would wear a flash card). After a reboot the numbers therefore jump by that much: a number that a
controller has seen is never given to another sample.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.telemetry import columns
from agent.telemetry.block_ring import BlockRing
from agent.telemetry.blocks import BLOCK_BYTES, LONGEST_RECORD_BYTES, BlockHeader, BlockKind
from agent.telemetry.ring_file import LEAST_PLACES, open_ring, places_of, stray_seq
from artifacts.persisting import Point
from protos.nanofleet.v1.telemetry_pb2 import TelemetrySample

# A day at one sample a second, of 30 bytes at rest and 40 with workers and trembling sensors.
CAPACITY_BYTES = 4 << 20
# Such a one always becomes a batch that has room in a block.
LONGEST_SAMPLE_BYTES = LONGEST_RECORD_BYTES // 2
# Records since the last sync, at most: what a power cut may take.
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
        places = max(LEAST_PLACES, capacity_bytes // BLOCK_BYTES)
        descriptor = self._descriptor = open_ring(path, places)
        self._samples, self._batches = (
            BlockRing(descriptor, kind, places_of(kind, places))
            for kind in (BlockKind.SAMPLES, BlockKind.BATCHES)
        )
        used = self._samples.used_places | self._batches.used_places
        self._newest_seq = max(
            self._samples.newest_seq,
            self._batches.newest_seq,
            stray_seq(descriptor, places, used),
        )
        self._recent: deque[TelemetrySample] = deque(maxlen=RECENT)
        self._appended = asyncio.Event()
        # Records: all that were written, up to the last sync, and up to the last batch.
        self._written = self._synced = self._batched = 0
        self._failing: set[str] = set()
        # Not yet batched when the power was cut.
        with self._told_once("write", "samples of before are not kept on disk"):
            for header in self._samples.blocks[:-1]:
                self._make_batch(header)

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
        content = sample.SerializeToString()
        if len(content) > LONGEST_SAMPLE_BYTES:
            raise ValueError(f"a sample of {len(content)} bytes is longer than a block can hold")
        # Those who watch live still get it; those who replay see the gap in the numbers.
        with self._told_once("write", f"samples from {sample.seq} on are not kept on disk"):
            self._write(sample.seq, content)
        self._newest_seq = sample.seq
        self._recent.append(sample)
        if self._written - self._synced >= MOST_UNSYNCED:
            self.sync()
        appended, self._appended = self._appended, asyncio.Event()
        appended.set()
        return sample

    def after(self, seq: int) -> Iterator[TelemetrySample]:
        """The samples with greater numbers, oldest first, up to the newest.

        One batch is read at a time. A reader that the ring has overtaken goes on with the oldest
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

    def _write(self, seq: int, content: bytes) -> None:
        if not self._samples.has_room(len(content)) and self._samples.blocks:
            # The next block overwrites the one before this, whose batch must be safe by then.
            if self._synced < self._batched:
                self.sync()
            self._make_batch(self._samples.blocks[-1])
        self._samples.append(seq, seq, content)
        self._written += 1

    def _make_batch(self, header: BlockHeader) -> None:
        """Of the samples of a block that are in none yet."""
        newest = self._batches.newest_seq
        found = [record for record in self._samples.records(header) if record.seq > newest]
        samples = [TelemetrySample.FromString(record.content) for record in found]
        for first, last, content in columns.pack_within(LONGEST_RECORD_BYTES, samples):
            self._batches.append(first, last, content)
            self._written += 1
            self._batched = self._written

    def _from_memory(self, seq: int) -> list[TelemetrySample]:
        if not self._recent or seq < self._recent[0].seq - 1:
            return []
        return [sample for sample in self._recent if sample.seq > seq]

    def _from_disk(self, seq: int) -> list[TelemetrySample]:
        """The samples after ``seq`` of the first batch that has any, or of the first block."""
        for batches in self._batches.after(seq):
            return [one for one in columns.unpack(batches[0].content) if one.seq > seq]
        for records in self._samples.after(seq):
            return [TelemetrySample.FromString(record.content) for record in records]
        return []
