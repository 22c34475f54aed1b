"""The bytes of a dataset: JSONL, plain or as one zstd frame, read within bounds.

A few kilobytes of zstd can unpack to terabytes, and a single line can be as long as the file. So a
dataset has limits, the same ones plain and compressed: text in all, characters of a line, number of
lines. The frame has to say how much text it holds (``zstd FILE`` and ``compress`` write that, a
pipe through zstd does not): the claim is checked before the first byte is unpacked, and a frame
that was cut off is noticed, which the library does not do.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from artifacts import durable, headroom, regular_file
from artifacts.persisting import Point
from protos.errors import AlreadyExists, InvalidDataset

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_TEXT_BYTES = 1 << 30
MAX_LINE_BYTES = 4 << 20
MAX_LINES = 4_000_000

_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 3
_MAX_WINDOW_BYTES = 8 << 20
_COPY_BYTES = 1 << 20
_MAX_FRAME_HEADER_BYTES = 18
_MORE_THAN_CLAIMED = "it holds more than its first frame says"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    content: bytes


def lines(path: Path, name: str) -> Iterator[Line]:
    """The lines that are not blank, without their ends; InvalidDataset when a limit is passed.

    ``name`` is what messages call the file.
    """
    with _text(path, name) as (text, size_bytes):
        read_bytes = 0
        for number in range(1, MAX_LINES + 2):
            content = text.readline(MAX_LINE_BYTES + 1)
            read_bytes += len(content)
            if not content:
                break
            if number > MAX_LINES:
                raise _refused(name, f"It has more than {MAX_LINES} lines.", "Split it.")
            if len(content) > MAX_LINE_BYTES:
                raise _line_too_long(name, number)
            if number == 1:
                content = _without_mark(name, content)
            if content := content.strip():
                yield Line(number, content)
        if read_bytes != size_bytes:
            raise _damaged(name)


def compress(source: Path, target: Path) -> None:
    """Writes ``source`` as one zstd frame, durably; the same text always gives the same bytes.

    ``source`` may be compressed already: it is then compressed anew.
    """
    with (
        _text(source, source.name) as (text, size_bytes),
        headroom.naming_disk_faults(target.parent),
        durable.replacing(target, Point.DATASET_PACKED) as file,
    ):
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        frame = compressor.compressobj(size=size_bytes)
        left = size_bytes
        while left:
            block = text.read(min(left, _COPY_BYTES))
            if not block:
                raise _damaged(source.name)
            file.write(frame.compress(block))
            left -= len(block)
        if text.read(1):
            raise _damaged(source.name, _MORE_THAN_CLAIMED)
        file.write(frame.flush())


def unpack(source: Path, target: Path) -> None:
    """Writes the plain text of ``source``; AlreadyExists when ``target`` is there."""
    if target.exists():
        raise AlreadyExists(f"{target} is there already.", fix="Choose another file.")
    with (
        _text(source, source.name) as (text, _),
        headroom.naming_disk_faults(target.parent),
        durable.replacing(target, Point.DATASET_UNPACKED, mode=0o644) as file,
    ):
        shutil.copyfileobj(text, file, _COPY_BYTES)


class _Unpacked(io.RawIOBase):
    """The text in a zstd frame, as a stream: never more than the frame claimed."""

    def __init__(self, packed: BinaryIO, claimed_bytes: int, name: str) -> None:
        self._name = name
        self._left = claimed_bytes
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        # Across frames, so that a second frame is noticed and not silently left out.
        self._stream = decompressor.stream_reader(
            packed, read_size=_COPY_BYTES, read_across_frames=True
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        try:
            count = self._stream.readinto(buffer)
        except zstandard.ZstdError as error:
            raise _damaged(self._name, str(error)) from None
        self._left -= count
        if self._left < 0:
            raise _damaged(self._name, _MORE_THAN_CLAIMED)
        return count


@contextmanager
def _text(path: Path, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """The text as a stream, and how many bytes of it there must be."""
    with regular_file.open_to_read(path) as file:
        packed = file.read(len(_MAGIC)) == _MAGIC
        file.seek(0)
        size_bytes = _claimed_size(file, name) if packed else os.fstat(file.fileno()).st_size
        if size_bytes > MAX_TEXT_BYTES:
            raise _refused(
                name,
                f"It holds {headroom.readable(size_bytes)} of text.",
                f"Use at most {headroom.readable(MAX_TEXT_BYTES)}.",
            )
        if not packed:
            yield file, size_bytes
            return
        with io.BufferedReader(_Unpacked(file, size_bytes, name), _COPY_BYTES) as text:
            yield text, size_bytes


def _claimed_size(file: BinaryIO, name: str) -> int:
    head = file.read(_MAX_FRAME_HEADER_BYTES)
    file.seek(0)
    try:
        claimed = zstandard.get_frame_parameters(head).content_size
    except zstandard.ZstdError as error:
        raise _damaged(name, str(error)) from None
    if claimed == zstandard.CONTENTSIZE_UNKNOWN:
        raise _refused(
            name,
            "Its zstd frame does not say how much text it holds.",
            "Compress the file itself (`zstd FILE`), not a pipe, or add it uncompressed.",
        )
    return claimed


def _without_mark(name: str, first_line: bytes) -> bytes:
    """Drops the mark that editors on Windows put before UTF-8 text."""
    if first_line.startswith(_UTF16_MARKS):
        raise _refused(name, "It is UTF-16 text.", "Save it as UTF-8.")
    return first_line.removeprefix(_UTF8_MARK)


def _line_too_long(name: str, number: int) -> InvalidDataset:
    return InvalidDataset(
        f"{name}:{number}: the line is longer than {headroom.readable(MAX_LINE_BYTES)}.",
        fix="A sample is at most a few pages: split it, or check that lines end where they should.",
    )


def _damaged(name: str, detail: str = "the text ends early") -> InvalidDataset:
    return _refused(name, f"It is damaged or cut off: {detail}.", "Copy or compress it again.")


def _refused(name: str, why: str, fix: str) -> InvalidDataset:
    return InvalidDataset(f"{name} cannot be used as a dataset.", why=why, fix=fix)
