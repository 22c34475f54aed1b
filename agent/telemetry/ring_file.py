"""The telemetry ring's file: made, found again, and changed to another capacity.

The file is nothing but its blocks; its size tells how many places there are. The first two are for
single samples, all others for batches. What is no block is free: a new file, a damaged one, a
foreign one.
"""

import os
from collections.abc import Collection
from pathlib import Path

from agent.telemetry.blocks import (
    BLOCK_BYTES,
    BLOCK_HEADER_BYTES,
    BlockHeader,
    BlockKind,
    parse_header,
    parse_records,
)
from artifacts import durable
from artifacts.persisting import Point
from protos.errors import DiskFull

SAMPLE_PLACES = 2
LEAST_PLACES = 2 * SAMPLE_PLACES


def places_of(kind: BlockKind, places: int) -> range:
    """Those that are for blocks of this kind, of ``places`` in all."""
    if kind is BlockKind.SAMPLES:
        return range(SAMPLE_PLACES)
    return range(SAMPLE_PLACES, places)


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


def stray_seq(descriptor: int, places: int, used: Collection[int]) -> int:
    """The highest number in blocks that are not used, because their header is damaged or another
    agent has put them there: they are lost, and the number was given."""
    highest = 0
    for place in range(places):
        if place in used or not any(os.pread(descriptor, BLOCK_HEADER_BYTES, place * BLOCK_BYTES)):
            continue
        block = os.pread(descriptor, BLOCK_BYTES, place * BLOCK_BYTES)
        highest = max([highest, *(record.seq for record in parse_records(block))])
    return highest


def _rewrite(descriptor: int, path: Path, places: int) -> None:
    """Replaces the file by one with other places that has the newest of its blocks."""
    found: dict[BlockKind, list[tuple[BlockHeader, int]]] = {kind: [] for kind in BlockKind}
    for place in range(os.fstat(descriptor).st_size // BLOCK_BYTES):
        header = parse_header(os.pread(descriptor, BLOCK_HEADER_BYTES, place * BLOCK_BYTES))
        if header is not None:
            found[header.kind].append((header, place))
    with durable.replacing(path, Point.RING_RESIZED) as file:
        file.truncate(places * BLOCK_BYTES)
        for kind, headers in found.items():
            new = places_of(kind, places)
            headers.sort(key=lambda one: one[0].number)
            for header, place in headers[-len(new) :]:
                file.seek(new[header.number % len(new)] * BLOCK_BYTES)
                file.write(os.pread(descriptor, BLOCK_BYTES, place * BLOCK_BYTES))
