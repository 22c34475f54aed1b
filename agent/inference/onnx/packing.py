"""The base's matrices in the order that MatMulNBits reads them, in one file beside the graph.

GGUF has a scale in front of each block of 32 integers; the operator wants all integers in one
tensor, as unsigned numbers around a middle, and all scales in another, float32. The numbers stay
what they were. Floating-point matrices become float32. The file is written a slab at a time, once
for a base, and mapped afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from agent.model.tensors import Bytes, Tensors

BLOCK = 32
_SCALE_BYTES = 2
_SLAB_BYTES = 16 << 20
# The runtime maps each tensor by itself, from whole pages.
_PAGE_BYTES = 4096
_BITS = {"Q8_0": 8, "Q4_0": 4}


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor lies in the file."""

    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix (rows, columns); ``bits`` 0: float32, with no scales."""

    rows: int
    columns: int
    bits: int
    data: Span
    scales: Span | None


def pack(tensors: Tensors, name: str, file: BinaryIO) -> Packed:
    """Appends the matrix to ``file``."""
    rows, columns = tensors.shape(name)
    bits = _BITS.get(tensors.type(name), 0)
    if not bits:
        return Packed(rows, columns, 0, _append(file, _dense(tensors, name, rows, columns)), None)
    data = _append(file, (_integers(raw, bits) for raw in _slabs(tensors.raw(name))))
    scales = _append(file, (_scales(raw, bits) for raw in _slabs(tensors.raw(name))))
    return Packed(rows, columns, bits, data, scales)


def packed_bytes(tensors: Tensors, name: str) -> int:
    """How much ``pack`` writes, but for less than two pages."""
    rows, columns = tensors.shape(name)
    bits = _BITS.get(tensors.type(name), 0)
    return rows * columns * bits // 8 + rows * columns // BLOCK * 4 if bits else rows * columns * 4


def _append(file: BinaryIO, parts: Iterator[npt.NDArray[np.generic]]) -> Span:
    file.seek(-file.tell() % _PAGE_BYTES, 1)
    offset = file.tell()
    for part in parts:
        file.write(part.tobytes())
    return Span(offset, file.tell() - offset)


def _slabs(raw: Bytes) -> Iterator[Bytes]:
    step = max(1, _SLAB_BYTES // raw.shape[1])
    for first in range(0, len(raw), step):
        yield raw[first : first + step]


def _dense(
    tensors: Tensors, name: str, rows: int, columns: int
) -> Iterator[npt.NDArray[np.generic]]:
    step = max(1, _SLAB_BYTES // (4 * columns))
    for first in range(0, rows, step):
        yield tensors.rows(name, first, min(first + step, rows))


def _blocks(raw: Bytes, bits: int) -> Bytes:
    return raw.reshape(-1, _SCALE_BYTES + BLOCK * bits // 8)


def _scales(raw: Bytes, bits: int) -> npt.NDArray[np.generic]:
    stored = np.ascontiguousarray(_blocks(raw, bits)[:, :_SCALE_BYTES])
    return stored.view(np.float16).astype(np.float32)


def _integers(raw: Bytes, bits: int) -> npt.NDArray[np.generic]:
    stored = _blocks(raw, bits)[:, _SCALE_BYTES:]
    if bits == 8:
        # From -128…127 to 0…255 around 128: the sign bit, inverted.
        shifted: Bytes = stored ^ np.uint8(0x80)
        return shifted
    # GGUF has number i beside number i + 16 in a byte, the operator beside i + 1.
    numbers = np.concatenate([stored & 0x0F, stored >> 4], axis=1)
    paired: Bytes = numbers[:, 0::2] | (numbers[:, 1::2] << 4)
    return paired
