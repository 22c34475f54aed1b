"""A base model's tensors as numpy arrays, from the mapped file.

For whoever computes with them in another form than the trainer's (agent/training/weights.py): the
reference, which wants them as float32, and the engine that packs their blocks in another order.
"""

from collections.abc import Sequence

import gguf
import numpy as np
import numpy.typing as npt

from artifacts.base_model import BaseModel, TensorInfo
from artifacts.convert.families import scale_name
from artifacts.fitness import TYPES
from protos.errors import InvalidRequest

Rows = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Tensors:
    """By their GGUF names. Raises InvalidRequest for a type or a name that is not there."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._bytes = np.memmap(base.path, dtype=np.uint8, mode="r")

    def __contains__(self, name: str) -> bool:
        return name in self._base.tensors

    def type(self, name: str) -> str:
        return self._info(name).type

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._info(name).shape)

    def raw(self, name: str) -> Bytes:
        """(rows, bytes of a row), as it lies in the file; not copied."""
        info = self._info(name)
        data = self._bytes[info.offset : info.offset + info.size_bytes]
        return data.reshape(info.shape[0] if len(info.shape) > 1 else 1, -1)

    def vector(self, name: str) -> Rows:
        only: Rows = self.rows(name, 0, 1)[0]
        return only

    def rows(self, name: str, first: int, last: int) -> Rows:
        """The rows ``first`` to ``last`` (exclusive) of a matrix."""
        return self._dense(name, slice(first, last))

    def gather(self, name: str, indices: Sequence[int]) -> Rows:
        """The rows of these numbers, in their order."""
        return self._dense(name, np.asarray(indices, dtype=np.int64))

    def _dense(self, name: str, which: slice | npt.NDArray[np.int64]) -> Rows:
        data = self.raw(name)[which]
        if self.type(name) == "I8":
            scales = self.vector(scale_name(name))[which]
            scaled: Rows = data.view(np.int8) * scales[:, None]
            return scaled
        kind = gguf.GGMLQuantizationType[self.type(name)]
        return np.array(gguf.dequantize(data, kind), dtype=np.float32)

    def _info(self, name: str) -> TensorInfo:
        info = self._base.tensors.get(name)
        if info is None:
            raise self._unusable(f"It has no tensor {name}.")
        if info.type not in TYPES:
            raise self._unusable(f"{name} has the type {info.type}; known are {', '.join(TYPES)}.")
        return info

    def _unusable(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"The base model {self._base.name} cannot be computed by this engine.",
            why=why,
            fix='Import it again as q8_0 (or q4_0, f16, bf16, f32), or use the engine "llama".',
            reason="UNSUPPORTED_FEATURE",
        )
