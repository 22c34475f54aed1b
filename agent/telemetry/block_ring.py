"""A ring of blocks of one kind, in a part of a file: the oldest is overwritten by the next.

Block k lies at place k modulo the number of places. A record is written with one system call, into
the newest block while there is room, else as the beginning of the next.
"""

import bisect
import os
from collections.abc import Iterator, Sequence

from agent.telemetry import blocks
from agent.telemetry.blocks import (
    BLOCK_BYTES,
    BLOCK_HEADER_BYTES,
    RECORD_HEADER_BYTES,
    BlockHeader,
    BlockKind,
    Record,
)


class BlockRing:
    def __init__(self, descriptor: int, kind: BlockKind, places: range) -> None:
        """Finds what is there; ``places`` of the file are this ring's."""
        self._descriptor = descriptor
        self._kind = kind
        self._places = places
        self._blocks = self._scan()
        self._end = BLOCK_BYTES
        self.newest_seq = 0
        for header in reversed(self._blocks):
            if found := self.records(header):
                self.newest_seq = found[-1].seq
                # A newest block whose records are damaged is closed, not continued.
                self._end = found[-1].end if header is self._blocks[-1] else BLOCK_BYTES
                break

    @property
    def blocks(self) -> Sequence[BlockHeader]:
        """Oldest first."""
        return self._blocks

    @property
    def used_places(self) -> set[int]:
        return {self._place(header.number) for header in self._blocks}

    def has_room(self, content_bytes: int) -> bool:
        """Whether a record goes into the newest block."""
        return self._end + RECORD_HEADER_BYTES + content_bytes <= BLOCK_BYTES

    def append(self, first_seq: int, seq: int, content: bytes) -> None:
        """A record whose newest sample is ``seq``. Raises ValueError when it is too long."""
        record = blocks.pack_record(seq, content)
        if self.has_room(len(content)):
            os.pwrite(self._descriptor, record, self._offset(self._blocks[-1].number) + self._end)
            self._end += len(record)
        else:
            self._begin(first_seq, record)
        self.newest_seq = seq

    def after(self, seq: int) -> Iterator[list[Record]]:
        """Of each block that has any, the records that reach beyond ``seq``."""
        start = bisect.bisect_right(self._blocks, seq + 1, key=lambda header: header.first_seq)
        for header in self._blocks[max(0, start - 1) :]:
            if found := [record for record in self.records(header) if record.seq > seq]:
                yield found

    def records(self, header: BlockHeader) -> list[Record]:
        """None of a block that was overwritten meanwhile."""
        data = os.pread(self._descriptor, BLOCK_BYTES, self._offset(header.number))
        return list(blocks.parse_records(data)) if blocks.parse_header(data) == header else []

    def _begin(self, first_seq: int, record: bytes) -> None:
        """Overwrites the oldest block, whole: nothing of it can be taken for a newer record."""
        number = self._blocks[-1].number + 1 if self._blocks else 0
        header = BlockHeader(self._kind, number, first_seq)
        data = blocks.pack_header(header) + record
        os.pwrite(self._descriptor, data.ljust(BLOCK_BYTES, b"\0"), self._offset(number))
        self._blocks = [*self._blocks[1 - len(self._places) :], header]
        self._end = len(data)

    def _scan(self) -> list[BlockHeader]:
        """The headers of the blocks that belong together, oldest first."""
        found = {}
        for place in self._places:
            start = os.pread(self._descriptor, BLOCK_HEADER_BYTES, place * BLOCK_BYTES)
            header = blocks.parse_header(start)
            if header is None or header.kind is not self._kind:
                continue
            if self._place(header.number) == place:
                found[header.number] = header
        newest = max(found, default=0)
        return [found[number] for number in sorted(found) if number > newest - len(self._places)]

    def _place(self, number: int) -> int:
        return self._places[number % len(self._places)]

    def _offset(self, number: int) -> int:
        return self._place(number) * BLOCK_BYTES
