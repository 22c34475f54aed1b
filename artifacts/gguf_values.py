"""The values in a GGUF header, read one after another, each within bounds.

A count or a length in the file is a claim: it is compared with the bytes that are left before
anything is done with it. What the values mean is up to gguf_header.py.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

# Real headers, vocabulary and merges included, are below 20 MiB.
MAX_HEADER_BYTES = 64 << 20
MAX_STRING_BYTES = 1 << 20
MAX_SHORT_ARRAY = 64

_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: ("uint8", struct.Struct("<B")),
    1: ("int8", struct.Struct("<b")),
    2: ("uint16", struct.Struct("<H")),
    3: ("int16", struct.Struct("<h")),
    4: ("uint32", struct.Struct("<I")),
    5: ("int32", struct.Struct("<i")),
    6: ("float32", struct.Struct("<f")),
    7: ("bool", struct.Struct("<?")),
    10: ("uint64", struct.Struct("<Q")),
    11: ("int64", struct.Struct("<q")),
    12: ("float64", struct.Struct("<d")),
}
_U32 = _SCALARS[4][1]
_U64 = _SCALARS[10][1]

Scalar: TypeAlias = int | float | bool | str


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """A long array that was left in the file: its first element starts at ``offset``."""

    count: int
    type: str
    offset: int


Value: TypeAlias = Scalar | tuple[Scalar, ...] | ArrayInfo


class Damaged(Exception):
    """What is wrong with the file, as a sentence without the file's name."""


class Cursor:
    """One walk over the header: ``at`` is the next byte. Raises Damaged for what cannot be."""

    def __init__(self, content: mmap.mmap) -> None:
        self.at = 0
        self._content = content
        self._size = len(content)
        self._end = min(self._size, MAX_HEADER_BYTES)

    def value(self, key: str) -> Value:
        type_number = self.u32(key)
        if type_number == _ARRAY:
            return self._array(key)
        return self._element_reader(type_number, key)(key)

    def _array(self, key: str) -> Value:
        type_number = self.u32(key)
        count = self.u64(key)
        reader = self._element_reader(type_number, key)
        if count <= MAX_SHORT_ARRAY:
            return tuple(reader(key) for _ in range(count))
        offset = self.at
        if type_number == _STRING:
            self._skip_strings(count, key)
            return ArrayInfo(count, "string", offset)
        name, scalar = _SCALARS[type_number]
        self.take(count * scalar.size, key)
        return ArrayInfo(count, name, offset)

    def _element_reader(self, type_number: int, key: str) -> Callable[[str], Scalar]:
        if type_number == _STRING:
            return self.string
        if type_number not in _SCALARS:
            raise Damaged(f"The value of {key!r} has the unknown type {type_number}.")
        scalar = _SCALARS[type_number][1]

        def read_scalar(what: str) -> Scalar:
            (value,) = scalar.unpack_from(self._content, self.take(scalar.size, what))
            return value  # type: ignore[no-any-return]  # struct cannot say what it unpacks

        return read_scalar

    def _skip_strings(self, count: int, key: str) -> None:
        """Straight-line, because it runs 262,144 times and more: 0.1 s instead of 0.4."""
        if count * _U64.size > self._end - self.at:
            raise self._too_short(key)
        at, end, content, unpack, width = (
            self.at,
            self._end,
            self._content,
            _U64.unpack_from,
            _U64.size,
        )
        for _ in range(count):
            if at + width > end:
                raise self._too_short(key)
            at += width + unpack(content, at)[0]
        if at > end:
            raise self._too_short(key)
        self.at = at

    def string(self, what: str) -> str:
        length = self.u64(what)
        if length > MAX_STRING_BYTES:
            raise Damaged(
                f"A text ({what}) claims {length} bytes; {MAX_STRING_BYTES} is the limit."
            )
        start = self.take(length, what)
        try:
            return self._content[start : start + length].decode()
        except UnicodeDecodeError:
            raise Damaged(f"A text ({what}) is not UTF-8.") from None

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self._content, self.take(_U32.size, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self._content, self.take(_U64.size, what))[0])

    def take(self, count: int, what: str) -> int:
        """Moves on by ``count`` bytes, which are there; returns where they start."""
        start = self.at
        if count > self._end - start:
            raise self._too_short(what)
        self.at = start + count
        return start

    def _too_short(self, what: str) -> Damaged:
        if self._end < self._size:
            return Damaged(f"Its header would be larger than {MAX_HEADER_BYTES} bytes ({what}).")
        return Damaged(f"It is truncated: it ends at byte {self._size}, within the {what}.")
