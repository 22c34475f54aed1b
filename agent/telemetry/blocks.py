"""The bytes of the telemetry ring: blocks of checksummed records. Pure: no file, no clock.

    block  := kind number(u64) first_seq(u64) checksum(u32)  record*  zeros
    record := mark length(u32) seq(u64) checksum(u32) content

A block is 64 KiB and holds one kind of records: samples, a hundred of them or more, or batches of
samples (columns.py), whose ``seq`` is that of their newest. Each is as long as it needs; records do
not cross blocks. A reader takes every record whose checksum is right, and looks for the next mark
after one that is not: damage costs the records that it hit and no other.
"""

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_BYTES = 1 << 16

_BLOCK = struct.Struct("<4sQQI")
_MARK = b"\xf1nfR"
_RECORD = struct.Struct("<4sIQI")
_CHECKED = struct.Struct("<QQ")

BLOCK_HEADER_BYTES = _BLOCK.size
RECORD_HEADER_BYTES = _RECORD.size
LONGEST_RECORD_BYTES = BLOCK_BYTES - BLOCK_HEADER_BYTES - RECORD_HEADER_BYTES


class BlockKind(enum.Enum):
    SAMPLES = b"nfB1"
    BATCHES = b"nfC1"


_KINDS = frozenset(kind.value for kind in BlockKind)


@dataclass(frozen=True, slots=True)
class BlockHeader:
    kind: BlockKind
    # Counts the blocks of this kind ever begun.
    number: int
    first_seq: int


@dataclass(frozen=True, slots=True)
class Record:
    seq: int
    content: bytes
    # Where the next record of the block begins.
    end: int


def pack_header(header: BlockHeader) -> bytes:
    kind, number, first_seq = header.kind.value, header.number, header.first_seq
    return _BLOCK.pack(kind, number, first_seq, _checksum(number, first_seq, kind))


def parse_header(data: bytes) -> BlockHeader | None:
    """The header of the block that begins with ``data``; None when it is no block."""
    if len(data) < _BLOCK.size:
        return None
    kind, number, first_seq, checksum = _BLOCK.unpack_from(data)
    if kind not in _KINDS or checksum != _checksum(number, first_seq, kind):
        return None
    return BlockHeader(BlockKind(kind), number, first_seq)


def pack_record(seq: int, content: bytes) -> bytes:
    if len(content) > LONGEST_RECORD_BYTES:
        raise ValueError(f"a record of {len(content)} bytes is longer than a block can hold")
    return _RECORD.pack(_MARK, len(content), seq, _checksum(len(content), seq, content)) + content


def parse_records(block: bytes) -> Iterator[Record]:
    """The whole records of a block, by rising ``seq``; damaged ones are left out."""
    position, newest_seq = BLOCK_HEADER_BYTES, 0
    while (position := block.find(_MARK, position)) >= 0:
        found = _record_at(block, position)
        if found is None or found.seq <= newest_seq:
            position += 1
            continue
        yield found
        position, newest_seq = found.end, found.seq


def _record_at(block: bytes, position: int) -> Record | None:
    start = position + _RECORD.size
    if start > len(block):
        return None
    _, length, seq, checksum = _RECORD.unpack_from(block, position)
    content = block[start : start + length]
    if len(content) < length or checksum != _checksum(length, seq, content):
        return None
    return Record(seq, content, start + length)


def _checksum(first: int, second: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_CHECKED.pack(first, second)))
