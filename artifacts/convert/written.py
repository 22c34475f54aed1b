"""A GGUF base model, read back: its numbers, and an excerpt of it that is exact.

The excerpt has the file's own settings, its first layers and the first rows of its vocabulary, with
the numbers that its blocks stand for as float32. What llama.cpp computes with it differs from the
reference by rounding of float32 only, whatever the type of the file: a wrong setting or a wrong
order of rows, which hides in the noise of a quantised model, shows.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import gguf
import numpy as np

from artifacts.base_model import BaseModel
from artifacts.convert.families import Dimensions, Rows, TensorSpec, by_architecture, scale_name
from artifacts.convert.gguf_file import OutputTensor, Slice, fill
from protos.errors import InvalidRequest

_ROPE_FACTORS = "rope_freqs.weight"
# Of float32, unpacked at once.
_SLICE_BYTES = 8 << 20


class Written:
    """The numbers of ``base``, by the converter's specs, as the checkpoint has them."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._bytes = np.memmap(base.path, dtype=np.uint8, mode="r")

    def rows(self, spec: TensorSpec, first: int, last: int) -> Rows:
        return spec.undo(self.stored(spec.target, first, last))

    def stored(self, name: str, first: int, last: int) -> Rows:
        """Rows of a matrix (of a vector: elements) in the order of the file."""
        info = self._base.tensors.get(name)
        if info is None:
            raise InvalidRequest(f"{self._base.path}: the tensor {name} is missing.")
        row_bytes = info.size_bytes // info.shape[0]
        data = self._bytes[info.offset + first * row_bytes : info.offset + last * row_bytes]
        data = data.reshape(last - first, row_bytes)
        if info.type == "I8":
            scaled: Rows = data.view(np.int8) * self.stored(scale_name(name), first, last)[:, None]
            return scaled
        found = gguf.dequantize(data, gguf.GGMLQuantizationType[info.type])
        return np.asarray(found, np.float32).reshape(-1, *info.shape[1:])


def write_excerpt(file: BinaryIO, base: BaseModel, size: Dimensions, *, tied: bool) -> None:
    """``size``: of the model, with the layers and the rows of the vocabulary that are wanted."""
    family = by_architecture(base.architecture, str(base.path))
    header = gguf.GGUFWriter(None, family.architecture)
    header.add_tokenizer_model("no_vocab")
    own = {"block_count": size.layers, "vocab_size": size.vocabulary}
    for key, value in base.metadata.items():
        prefix, _, name = key.partition(".")
        if prefix != base.architecture:
            continue
        value = own.get(name, value)
        if isinstance(value, bool):
            header.add_bool(key, value)
        elif isinstance(value, int):
            header.add_uint32(key, value)
        elif isinstance(value, float):
            header.add_float32(key, value)
        elif isinstance(value, str):
            header.add_string(key, value)
        else:
            raise InvalidRequest(f"{base.path}: {key} is an array, which no importer writes.")
    written = Written(base)
    tensors = [_exact(written, spec) for spec in family.tensors(size, head=not tied)]
    if _ROPE_FACTORS in base.tensors:
        shape = base.tensors[_ROPE_FACTORS].shape
        tensors.append(_exact(written, TensorSpec("", _ROPE_FACTORS, shape)))
    fill(file, header, tensors, lambda written_bytes: None)


def _exact(written: Written, spec: TensorSpec) -> OutputTensor:
    def slices() -> Iterator[Slice]:
        step = max(1, _SLICE_BYTES // (4 * int(np.prod(spec.shape[1:], dtype=int))))
        for first in range(0, spec.shape[0], step):
            yield written.stored(spec.target, first, min(first + step, spec.shape[0]))

    return OutputTensor(spec.target, spec.shape, gguf.GGMLQuantizationType.F32, slices)


def smaller(size: Dimensions, layers: int, vocabulary: int) -> Dimensions:
    return replace(
        size, layers=min(size.layers, layers), vocabulary=min(size.vocabulary, vocabulary)
    )
