"""The bytes of the telemetry ring: blocks of checksummed records. Pure: no file, no clock.

    block  := magic number(u64) first_seq(u64) checksum(u32)  record*  zeros
    record := mark length(u32) seq(u64) checksum(u32) sample

A block is 64 KiB and holds a hundred samples or more, each as long as it needs; records do not
cross blocks. A reader takes every record whose checksum is right, and looks for the next mark after
one that is not: damage costs the samples that it hit and no other.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_BYTES = 1 << 16

_MAGIC = b"nfB1"
_BLOCK = struct.Struct("<4sQQI")
_MARK = b"\xf1nfR"
_RECORD = struct.Struct("<4sIQI")
_CHECKED = struct.Struct("<QQ")

BLOCK_HEADER_BYTES = _BLOCK.size
RECORD_HEADER_BYTES = _RECORD.size
LONGEST_SAMPLE_BYTES = BLOCK_BYTES - BLOCK_HEADER_BYTES - RECORD_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class BlockHeader:
    # Counts the blocks ever begun: block k lies at place k modulo the number of places.
    number: int
    first_seq: int


@dataclass(frozen=True, slots=True)
class Record:
    seq: int
    sample: bytes
    # Where the next record of the block begins.
    end: int


def pack_header(header: BlockHeader) -> bytes:
    number, first_seq = header.number, header.first_seq
    return _BLOCK.pack(_MAGIC, number, first_seq, _checksum(number, first_seq, _MAGIC))


def parse_header(data: bytes) -> BlockHeader | None:
    """The header of the block that begins with ``data``; None when it is no block."""
    if len(data) < _BLOCK.size:
        return None
    magic, number, first_seq, checksum = _BLOCK.unpack_from(data)
    if magic != _MAGIC or checksum != _checksum(number, first_seq, _MAGIC):
        return None
    return BlockHeader(number, first_seq)


def pack_record(seq: int, sample: bytes) -> bytes:
    if len(sample) > LONGEST_SAMPLE_BYTES:
        raise ValueError(f"a sample of {len(sample)} bytes is longer than a block can hold")
    return _RECORD.pack(_MARK, len(sample), seq, _checksum(len(sample), seq, sample)) + sample


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
    sample = block[start : start + length]
    if len(sample) < length or checksum != _checksum(length, seq, sample):
        return None
    return Record(seq, sample, start + length)


def _checksum(first: int, second: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_CHECKED.pack(first, second)))
