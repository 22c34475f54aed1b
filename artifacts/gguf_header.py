"""The header of a GGUF file, read without trusting it and without loading any weights.

The agent has to know a model's shape before it decides whether the model fits, in a process that
loads no numpy. The header comes from a file that somebody sent, and every count in it is a claim:
so every claim is checked against the bytes that are left before anything is done with it, and the
header as a whole is bounded, which bounds the time (about two seconds for the worst of files) and
the memory.

Long arrays (a vocabulary has 262,144 strings) are walked over, not materialised: see ArrayInfo in
gguf_values.py.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from artifacts import ggml_types, regular_file
from artifacts.digest import ALGORITHM, Digest
from artifacts.gguf_values import Cursor, Damaged, Value
from protos.errors import InvalidRequest

MAX_ENTRIES = 1 << 16
MAX_DIMENSIONS = 4

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 20
_TOKENIZER_PREFIX = "tokenizer."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor: ``shape`` as in torch (rows, columns), ``offset`` from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    tokenizer_digest: Digest
    size_bytes: int


def read(path: Path) -> Header:
    """The header; InvalidRequest names the file and what is wrong with it."""
    try:
        with regular_file.open_to_read(path) as file, _mapped(file) as content:
            return _Parser(content).header()
    except Damaged as damage:
        raise InvalidRequest(
            f"{path} is not a GGUF file that can be used.",
            why=str(damage),
            fix="Copy it again, or convert the model again.",
            reason="INVALID_GGUF",
        ) from None


def _mapped(file: BinaryIO) -> mmap.mmap:
    if not os.fstat(file.fileno()).st_size:
        raise Damaged("It is empty.")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Parser:
    """The header's grammar: preamble, metadata, tensor descriptions."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._size = len(content)
        self._cursor = Cursor(content)
        self._tokenizer: dict[str, bytes] = {}

    def header(self) -> Header:
        tensor_count, metadata_count = self._preamble()
        metadata = self._metadata(metadata_count)
        tensors = self._tensors(tensor_count, self._alignment(metadata))
        return Header(
            MappingProxyType(metadata), MappingProxyType(tensors), self._digest(), self._size
        )

    def _preamble(self) -> tuple[int, int]:
        if self._content[:4] != _MAGIC:
            raise Damaged(f"It starts with {self._content[:4]!r}, not with {_MAGIC!r}.")
        self._cursor.take(4, "magic number")
        version = self._cursor.u32("version")
        if version & 0xFFFF == 0:
            raise Damaged("It is big-endian; only little-endian files are read.")
        if version not in _VERSIONS:
            raise Damaged(f"Its GGUF version is {version}; versions 2 and 3 are read.")
        counts = self._cursor.u64("number of tensors"), self._cursor.u64("number of metadata keys")
        for count, what in zip(counts, ("tensors", "metadata keys"), strict=True):
            if count > MAX_ENTRIES:
                raise Damaged(f"It claims {count} {what}; {MAX_ENTRIES} is the limit.")
        return counts

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for number in range(count):
            key = self._cursor.string(f"metadata key {number + 1} of {count}")
            if key in metadata:
                raise Damaged(f"It has the metadata key {key!r} twice.")
            start = self._cursor.at
            metadata[key] = self._cursor.value(key)
            if key.startswith(_TOKENIZER_PREFIX):
                self._tokenizer[key] = hashlib.sha256(
                    self._content[start : self._cursor.at]
                ).digest()
        return metadata

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        """Tensor descriptions; their data starts where these end, rounded up."""
        found = [self._tensor(number + 1, count) for number in range(count)]
        data_start = -(-self._cursor.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in found:
            if name in tensors:
                raise Damaged(f"It has the tensor {name!r} twice.")
            if offset % alignment:
                raise Damaged(f"The tensor {name!r} is not aligned to {alignment} bytes.")
            tensor = TensorInfo(name, shape, kind.name, data_start + offset, kind.size_bytes(shape))
            if tensor.offset + tensor.size_bytes > self._size:
                raise Damaged(
                    f"It is truncated: the tensor {name!r} ends at byte "
                    f"{tensor.offset + tensor.size_bytes}, the file at {self._size}."
                )
            tensors[name] = tensor
        return tensors

    def _tensor(
        self, number: int, count: int
    ) -> tuple[str, tuple[int, ...], ggml_types.GgmlType, int]:
        name = self._cursor.string(f"name of tensor {number} of {count}")
        what = f"description of the tensor {name!r}"
        dimensions = self._cursor.u32(what)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise Damaged(f"The tensor {name!r} claims {dimensions} dimensions.")
        # ggml counts from the fastest dimension, torch from the slowest.
        shape = tuple(self._cursor.u64(what) for _ in range(dimensions))[::-1]
        type_number = self._cursor.u32(what)
        kind = ggml_types.BY_NUMBER.get(type_number)
        if kind is None:
            raise Damaged(f"The tensor {name!r} has the unknown type {type_number}.")
        if 0 in shape or shape[-1] % kind.block_elements:
            raise Damaged(f"The tensor {name!r} of type {kind.name} cannot have shape {shape}.")
        return name, shape, kind, self._cursor.u64(what)

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= _MAX_ALIGNMENT:
            raise Damaged(f"Its alignment is {alignment!r}.")
        return alignment

    def _digest(self) -> Digest:
        """Over all tokenizer keys, sorted: the order in which they were written means nothing."""
        running = hashlib.sha256()
        for key in sorted(self._tokenizer):
            running.update(hashlib.sha256(key.encode()).digest() + self._tokenizer[key])
        return Digest(f"{ALGORITHM}:{running.hexdigest()}")
