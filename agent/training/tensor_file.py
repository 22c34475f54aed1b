"""Writes safetensors files tensor by tensor: the library's own writer copies them all first, twice.

https://huggingface.co/docs/safetensors: the length of a JSON header in 8 bytes, the header with
type, shape and place of each tensor, then their bytes, little-endian and without gaps.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

_ALIGNMENT = 8
_BLOCK_BYTES = 1 << 20
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64"}


def write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for tensor in tensors.values():
        file.write(_bytes_of(tensor))


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Of the tensors' bytes as ``write`` puts them down, for the file's own metadata."""
    return _digest(_bytes_of(tensor) for tensor in tensors.values())


def stored_digest(path: Path) -> str:
    """The same of what is on the disk now."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(length, os.SEEK_CUR)
        return _digest(iter(lambda: file.read(_BLOCK_BYTES), b""))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _digest(blocks: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for block in blocks:
        found.update(block)
    return found.hexdigest()
