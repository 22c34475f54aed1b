"""The frozen weights, read straight from the mapped GGUF file, without a copy of the model.

Loading a model the usual way makes a second, anonymous copy of it, which a 4 GB board does not
have. Here the file is mapped: its pages are clean, shared with the inference worker and evictable.
A matrix becomes floating point only for the moment of its product, in one scratch buffer that all
matrices share, so the cost of the whole model is that of its largest layer.

Q8_0 and Q4_0 store blocks of 32 integers with one fp16 scale; in qint8 (see artifacts/convert/
qint8.py) a row is int8 with one scale, which is left to the product. F32, F16 and BF16 stand behind
the same interface.
"""

import mmap
import os
import warnings
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from agent.training.device import PROCESSOR
from artifacts.base_model import BaseModel, TensorInfo
from artifacts.convert.families import scale_name
from protos.errors import InvalidRequest

_BLOCK = 32
_SCALE_BYTES = 2
# Elements dequantised at once, in float32. On the processor they stay in a cache; a GPU is to have
# few calls, and most matrices of a 1B model are one.
_SLAB = 1 << 19
GPU_SLAB = 1 << 23
_PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Scratch:
    """One buffer for all dequantised matrices; what ``take`` returned is valid until the next."""

    def __init__(self, data_type: torch.dtype, device: torch.device = PROCESSOR) -> None:
        self.data_type = data_type
        self.device = device
        self.slab_elements = _SLAB if device == PROCESSOR else GPU_SLAB
        self._buffer = torch.empty(0, dtype=data_type, device=device)
        self._slab = torch.empty(0, device=device)

    def slab(self, rows: int, columns: int) -> Tensor:
        """float32, for what is on its way to the data type of the products."""
        if self._slab.numel() < rows * columns:
            self._slab = torch.empty(rows * columns, device=self.device)
        return self._slab[: rows * columns].view(rows, columns)

    def take(self, rows: int, columns: int) -> Tensor:
        if self._buffer.numel() < rows * columns:
            self._buffer = torch.empty(rows * columns, dtype=self.data_type, device=self.device)
        return self._buffer[: rows * columns].view(rows, columns)

    def release(self) -> None:
        """Gives the memory back, for the time of a pause."""
        self._buffer = torch.empty(0, dtype=self.data_type, device=self.device)
        self._slab = torch.empty(0, device=self.device)


class Weight(ABC):
    """A frozen matrix of shape (rows, columns), as ``torch.nn.Linear`` has it.

    ``row_scale``: (rows,), float32; None for most. Where there is one, the matrix is what ``dense``
    and ``chunk`` give with each row times its scale. It belongs to the product instead: there it
    costs less, and the integers are exact in every data type.
    """

    row_scale: Tensor | None = None

    def __init__(self, rows: int, columns: int, scratch: Scratch) -> None:
        self.rows = rows
        self.columns = columns
        self._scratch = scratch

    @property
    def data_type(self) -> torch.dtype:
        """Of the products with this matrix."""
        return self._scratch.data_type

    @property
    def device(self) -> torch.device:
        return self._scratch.device

    def dense(self) -> Tensor:
        """The whole matrix, in the data type of the products, without ``row_scale``; valid until
        the next is asked for."""
        return self.chunk(0, self.rows)

    @abstractmethod
    def chunk(self, first: int, last: int) -> Tensor:
        """Rows ``first`` to ``last`` (exclusive), as ``dense``."""

    @abstractmethod
    def gather(self, indices: Tensor) -> Tensor:
        """The rows of these numbers with their scales, float32, in memory of their own."""

    def scale(self, product: Tensor) -> None:
        """Multiplies (tokens, rows) by ``row_scale``, in place; the arithmetic is float32."""
        if self.row_scale is None:
            return
        if product.dtype == torch.float32:
            product.mul_(self.row_scale)
            return
        # A product of both types would make a float32 copy of all.
        step = max(1, self._scratch.slab_elements // self.rows)
        for start in range(0, len(product), step):
            part = product[start : start + step]
            part.copy_(self._scratch.slab(*part.shape).copy_(part).mul_(self.row_scale))


class BlockWeight(Weight):
    """A row is blocks of 32 integers behind their fp16 scale."""

    def __init__(self, raw: Tensor, rows: int, columns: int, scratch: Scratch) -> None:
        super().__init__(rows, columns, scratch)
        blocks = raw.view(rows, columns // _BLOCK, -1)
        self._scales = blocks[:, :, :_SCALE_BYTES].view(torch.float16)
        self._packed = blocks[:, :, _SCALE_BYTES:]

    @staticmethod
    @abstractmethod
    def _unpack(packed: Tensor, out: Tensor) -> None:
        """The integers of blocks (rows, blocks, bytes) to ``out`` (rows, blocks, 32), float32."""

    def chunk(self, first: int, last: int) -> Tensor:
        out = self._scratch.take(last - first, self.columns)
        step = max(1, self._scratch.slab_elements // self.columns)
        for start in range(first, last, step):
            stop = min(start + step, last)
            target = out[start - first : stop - first]
            # In float32 and rounded once: a scale cast to bf16 first would lose three bits.
            exact = target
            if target.dtype != torch.float32:
                exact = self._scratch.slab(stop - start, self.columns)
            blocks = exact.view(stop - start, -1, _BLOCK)
            # Not one product of both types: torch would make temporaries for it.
            self._unpack(self._packed[start:stop], blocks)
            blocks.mul_(self._scales[start:stop].float())
            if exact is not target:
                target.copy_(exact)
        return out

    def gather(self, indices: Tensor) -> Tensor:
        blocks = torch.empty(len(indices), self.columns // _BLOCK, _BLOCK, device=self.device)
        self._unpack(self._packed[indices], blocks)
        return blocks.mul_(self._scales[indices].float()).view(-1, self.columns)


class Q8Weight(BlockWeight):
    """GGUF's Q8_0: int8."""

    @staticmethod
    def _unpack(packed: Tensor, out: Tensor) -> None:
        out.copy_(packed.view(torch.int8))


class Q4Weight(BlockWeight):
    """GGUF's Q4_0: four bits, 8 for zero; byte i has number i in its lower and number i + 16 in
    its upper half."""

    @staticmethod
    def _unpack(packed: Tensor, out: Tensor) -> None:
        half = _BLOCK // 2
        out[:, :, :half].copy_(packed & 0x0F)
        out[:, :, half:].copy_(packed >> 4)
        out.sub_(8)


class QInt8Weight(Weight):
    """optimum-quanto's qint8: a row is int8 with one scale."""

    def __init__(
        self, raw: Tensor, row_scale: Tensor, rows: int, columns: int, scratch: Scratch
    ) -> None:
        super().__init__(rows, columns, scratch)
        self._values = raw.view(torch.int8).view(rows, columns)
        self.row_scale: Tensor = row_scale

    def chunk(self, first: int, last: int) -> Tensor:
        return self._scratch.take(last - first, self.columns).copy_(self._values[first:last])

    def gather(self, indices: Tensor) -> Tensor:
        return self._values[indices].float().mul_(self.row_scale[indices, None])


class PlainWeight(Weight):
    """Floating point in the file."""

    def __init__(self, raw: Tensor, rows: int, columns: int, scratch: Scratch) -> None:
        super().__init__(rows, columns, scratch)
        self._matrix = raw.view(rows, columns)

    def chunk(self, first: int, last: int) -> Tensor:
        rows = self._matrix[first:last]
        if rows.dtype == self.data_type:
            return rows
        return self._scratch.take(last - first, self.columns).copy_(rows)

    def gather(self, indices: Tensor) -> Tensor:
        return self._matrix[indices].float()


_BLOCK_TYPES: dict[str, type[BlockWeight]] = {"Q8_0": Q8Weight, "Q4_0": Q4Weight}


class MappedWeights:
    """The tensors of a base model's file by their GGUF names; ``data_type`` is of the products.

    The file stays mapped as long as one of its tensors lives. A ``device`` with a memory of its own
    is given a copy of the file's bytes, a tensor at a time, as they are in the file.
    """

    def __init__(
        self, base: BaseModel, data_type: torch.dtype, device: torch.device = PROCESSOR
    ) -> None:
        self.scratch = Scratch(data_type, device)
        self._base = base
        descriptor = os.open(base.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        finally:
            os.close(descriptor)
        with warnings.catch_warnings():
            # torch knows no read-only tensors. Writing to one of these would be a segmentation
            # fault, not a damaged file.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    def __contains__(self, name: str) -> bool:
        return name in self._base.tensors

    def matrix(self, name: str, shape: tuple[int, int]) -> Weight:
        """The matrix of this name; InvalidRequest when it is missing, other, or not readable."""
        info = self._tensor(name, shape)
        rows, columns = shape
        raw = self._raw(info)
        if info.type in _BLOCK_TYPES:
            return _BLOCK_TYPES[info.type](raw, rows, columns, self.scratch)
        if info.type == "I8":
            return QInt8Weight(raw, self._row_scale(name, rows), rows, columns, self.scratch)
        return PlainWeight(raw.view(self._plain_type(info)), rows, columns, self.scratch)

    def vector(self, name: str, length: int) -> Tensor:
        """A vector as float32, copied: norms are small and used everywhere."""
        return self._vector(name, length).to(self.scratch.device)

    def _vector(self, name: str, length: int) -> Tensor:
        info = self._tensor(name, (length,))
        raw = self._bytes[info.offset : info.offset + info.size_bytes]
        return raw.view(self._plain_type(info)).to(torch.float32, copy=True)

    def _raw(self, info: TensorInfo) -> Tensor:
        """A matrix's bytes on the device. Those that were copied need not stay here as well."""
        device, end = self.scratch.device, info.offset + info.size_bytes
        raw = self._bytes[info.offset : end].to(device)
        if device != PROCESSOR:
            first = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
            if first < end:
                self._map.madvise(mmap.MADV_DONTNEED, first, end - first)
        return raw

    def _row_scale(self, name: str, rows: int) -> Tensor:
        if scale_name(name) not in self:
            raise self._unusable(f"{name} has the type I8, and its scales {scale_name(name)} lack.")
        scale = self._vector(scale_name(name), rows)
        if not scale.isfinite().all():
            raise self._unusable(f"{scale_name(name)} holds NaN or infinity.")
        return scale.to(self.scratch.device)

    def _tensor(self, name: str, shape: tuple[int, ...]) -> TensorInfo:
        info = self._base.tensors.get(name)
        if info is None:
            raise self._unusable(f"It has no tensor {name}.")
        if tuple(info.shape) != shape:
            raise self._unusable(f"{name} has the shape {tuple(info.shape)}, {shape} is expected.")
        return info

    def _plain_type(self, info: TensorInfo) -> torch.dtype:
        if info.type not in _PLAIN_TYPES:
            raise self._unusable(f"{info.name} has the type {info.type}.")
        return _PLAIN_TYPES[info.type]

    def _unusable(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"The base model {self._base.name} cannot be trained on.",
            why=why,
            fix="Import it again as q8_0 (or qint8, q4_0, f16, bf16, f32).",
        )
