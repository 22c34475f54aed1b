"""Writes safetensors files tensor by tensor: the library's own writer copies them all first, twice.

https://huggingface.co/docs/safetensors: the length of a JSON header in 8 bytes, the header with
type, shape and place of each tensor, then their bytes, little-endian and without gaps.
"""

import json
import struct
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

_ALIGNMENT = 8
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
        file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
