"""The telemetry ring's file: made, found again, and changed to another capacity.

The file is nothing but its blocks, block k at place k modulo the number of places; its size tells
how many places there are. What is no block is free: a new file, a damaged one, a foreign one.
"""

import os
from pathlib import Path

from agent.telemetry.blocks import (
    BLOCK_BYTES,
    BLOCK_HEADER_BYTES,
    BlockHeader,
    parse_header,
    parse_records,
)
from artifacts import durable
from artifacts.persisting import Point
from protos.errors import DiskFull


def open_ring(path: Path, places: int) -> int:
    """A descriptor of the ring with this many places; raises DiskFull when they have no room."""
    durable.make_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes not in (0, places * BLOCK_BYTES):
            _rewrite(descriptor, path, places)
            os.close(descriptor)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # All space is taken now, so that a disk that fills up later does not end the record.
        os.posix_fallocate(descriptor, 0, places * BLOCK_BYTES)
    except OSError as error:
        os.close(descriptor)
        raise DiskFull(
            f"The telemetry ring {path} cannot have its {places * BLOCK_BYTES >> 20} MiB.",
            why=f"{error.strerror}.",
            fix="Free space on the device (`nanofleet artifact rm`), or give the ring less.",
        ) from error
    return descriptor


def scan(descriptor: int, places: int) -> list[BlockHeader]:
    """The headers of the blocks that belong together, oldest first."""
    found = {}
    for place in range(places):
        header = parse_header(os.pread(descriptor, BLOCK_HEADER_BYTES, place * BLOCK_BYTES))
        if header is not None and header.number % places == place:
            found[header.number] = header
    newest = max(found, default=0)
    return [found[number] for number in sorted(found) if number > newest - places]


def stray_seq(descriptor: int, places: int) -> int:
    """The highest number in blocks whose header is damaged: they are lost, and it was given."""
    highest = 0
    for place in range(places):
        start = os.pread(descriptor, BLOCK_HEADER_BYTES, place * BLOCK_BYTES)
        if any(start) and parse_header(start) is None:
            block = os.pread(descriptor, BLOCK_BYTES, place * BLOCK_BYTES)
            highest = max([highest, *(record.seq for record in parse_records(block))])
    return highest


def _rewrite(descriptor: int, path: Path, places: int) -> None:
    """Replaces the file by one with other places that has the newest of its blocks."""
    old_places = os.fstat(descriptor).st_size // BLOCK_BYTES
    kept = scan(descriptor, old_places)[-places:]
    with durable.replacing(path, Point.RING_RESIZED) as file:
        file.truncate(places * BLOCK_BYTES)
        for header in kept:
            block = os.pread(descriptor, BLOCK_BYTES, header.number % old_places * BLOCK_BYTES)
            file.seek(header.number % places * BLOCK_BYTES)
            file.write(block)
