"""The pieces of a large artifact: the SHA-256 of every 4 MiB of it, in order.

A name says whether all bytes are right; the pieces say which are. With them an upload that turns
out wrong goes on at its first wrong piece instead of starting anew, and what another artifact has
in common (another version of a model shares most of its tensors) is copied on the device instead of
being sent. They are a help and no proof: a piece is believed when its own bytes were hashed, an
artifact when all of its bytes were.

    objects/ab/cdef….pieces    32 bytes for each piece

Artifacts below 64 MiB have none: they are sent sooner than that is worth.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifacts import digest as digests
from artifacts.digest import Digest
from protos.errors import InvalidRequest

PIECE_BYTES = 4 << 20
LEAST_BYTES = 64 << 20
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a piece lie."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of an artifact, from ``start`` up to ``end``."""

    start: int
    end: int


Index = Mapping[bytes, Place]


def measured(path: Path) -> tuple[Digest, bytes]:
    """The digest of the file and its pieces (empty for a small file), read once."""
    whole, pieces = hashlib.sha256(), bytearray()
    with path.open("rb") as file:
        is_large = os.fstat(file.fileno()).st_size >= LEAST_BYTES
        while block := file.read(PIECE_BYTES):
            whole.update(block)
            if is_large:
                pieces += hashlib.sha256(block).digest()
    return Digest(f"{digests.ALGORITHM}:{whole.hexdigest()}"), bytes(pieces)


def check(pieces: bytes, size_bytes: int) -> None:
    """Raises InvalidRequest unless these are the pieces of an artifact of that size, or none."""
    needed = _DIGEST_BYTES * -(-size_bytes // PIECE_BYTES)
    if pieces and (len(pieces) != needed or size_bytes < LEAST_BYTES):
        raise InvalidRequest(
            f"{len(pieces)} bytes are not the pieces of an artifact of {size_bytes} bytes.",
            why=f"An artifact of {LEAST_BYTES >> 20} MiB or more has 32 bytes for each 4 MiB.",
            field="pieces",
        )


def each(pieces: bytes) -> Sequence[bytes]:
    return [pieces[at : at + _DIGEST_BYTES] for at in range(0, len(pieces), _DIGEST_BYTES)]


def index(files: Iterator[tuple[Path, bytes]]) -> Index:
    """Where each piece of these artifacts lies."""
    return {
        piece: Place(path, number * PIECE_BYTES)
        for path, pieces in files
        for number, piece in enumerate(each(pieces))
    }


def held(pieces: bytes, size_bytes: int, committed_bytes: int, places: Index) -> list[Range]:
    """What of an artifact is not committed yet and lies in others: as few ranges as can be."""
    found: list[Range] = []
    for number, piece in enumerate(each(pieces)):
        start = number * PIECE_BYTES
        end = min(start + PIECE_BYTES, size_bytes)
        if start < committed_bytes or piece not in places:
            continue
        if found and found[-1].end == start:
            found[-1] = Range(found[-1].start, end)
        else:
            found.append(Range(start, end))
    return found


def first_wrong(path: Path, pieces: bytes) -> int | None:
    """Where the first piece begins that is not what it should be; None when all are right."""
    with path.open("rb") as file:
        for number, piece in enumerate(each(pieces)):
            if hashlib.sha256(file.read(PIECE_BYTES)).digest() != piece:
                return number * PIECE_BYTES
    return None


def read(place: Place, size_bytes: int, piece: bytes) -> bytes | None:
    """The piece's bytes; None when they are gone, or not what they should be."""
    try:
        with place.path.open("rb") as file:
            file.seek(place.offset)
            found = file.read(size_bytes)
    except FileNotFoundError:
        return None
    return found if hashlib.sha256(found).digest() == piece else None
