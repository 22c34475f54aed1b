"""A GGUF LoRA as inputs of the graph: the tensors have the names and the row order of the base's.

The session is not touched: putting an adapter on is naming other inputs, about a tenth of a
millisecond, and the base has the zero rows that the graph brings along.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnxruntime import OrtValue

from agent.inference.engine import Adapter
from agent.inference.failures import adapter_unusable
from agent.inference.onnx.signature import lora_a, lora_b
from artifacts import gguf_header
from artifacts.gguf_header import Header
from protos.errors import NanofleetError

KEPT = 4
_ALPHA = "adapter.lora.alpha"

Inputs = Mapping[str, OrtValue]


class LoraPool:
    """The adapters used last. ``shapes``: (rows, columns) of each matrix that can be adapted;
    ``freed`` is told the digest of one that makes room for another."""

    def __init__(
        self,
        architecture: str,
        shapes: Mapping[str, tuple[int, int]],
        freed: Callable[[str], None],
    ) -> None:
        self._freed = freed
        self._architecture = architecture
        self._shapes = shapes
        # Least recently used first.
        self._loaded: dict[str, Inputs] = {}

    def get(self, adapter: Adapter) -> Inputs:
        """Raises Refused (ADAPTER_UNUSABLE)."""
        inputs = self._loaded.pop(adapter.digest, None)
        if inputs is None:
            inputs = self._load(adapter)
            while len(self._loaded) >= KEPT:
                oldest = next(iter(self._loaded))
                del self._loaded[oldest]
                self._freed(oldest)
        self._loaded[adapter.digest] = inputs
        return inputs

    def _load(self, adapter: Adapter) -> Inputs:
        try:
            header = gguf_header.read(adapter.path)
        except NanofleetError as error:
            raise adapter_unusable(adapter.digest, str(error)) from error
        if why := self._misfit(header):
            raise adapter_unusable(adapter.digest, why)
        inputs: dict[str, OrtValue] = {}
        alpha = float(header.metadata[_ALPHA])  # type: ignore[arg-type]  # _misfit has seen it
        for matrix in _matrices(header):
            a = _tensor(adapter.path, header, lora_a(matrix))
            b = _tensor(adapter.path, header, lora_b(matrix))
            inputs[lora_a(matrix)] = OrtValue.ortvalue_from_numpy(a)
            scaled = b * np.float32(alpha / len(a))
            inputs[lora_b(matrix)] = OrtValue.ortvalue_from_numpy(scaled)
        return inputs

    def _misfit(self, header: Header) -> str:
        """Why this file is no LoRA of the base; empty when it is one."""
        found = header.metadata.get("general.architecture")
        if header.metadata.get("general.type") != "adapter":
            return "It is no adapter in GGUF form."
        if found != self._architecture:
            return f"It is for models of architecture {found}; this is {self._architecture}."
        alpha = header.metadata.get(_ALPHA)
        if not isinstance(alpha, float) or not math.isfinite(alpha):
            return f"Its header has no usable {_ALPHA}: {alpha!r}."
        matrices = _matrices(header)
        if strange := header.tensors.keys() - {f(m) for m in matrices for f in (lora_a, lora_b)}:
            return f"{min(strange)} is no part of a LoRA."
        for matrix in matrices:
            rows, columns = self._shapes.get(matrix, (0, 0))
            a, b = header.tensors.get(lora_a(matrix)), header.tensors.get(lora_b(matrix))
            rank = a.shape[0] if a else 0
            if not a or not b or a.shape != (rank, columns) or b.shape != (rows, rank):
                return f"Its matrices on {matrix} do not fit ({rows}, {columns})."
            if {a.type, b.type} != {"F32"}:
                return f"Its matrices on {matrix} are {a.type} and {b.type}, not F32."
        return ""


def _matrices(header: Header) -> list[str]:
    suffix = lora_a("")
    return sorted(name.removesuffix(suffix) for name in header.tensors if name.endswith(suffix))


def _tensor(path: Path, header: Header, name: str) -> npt.NDArray[np.float32]:
    info = header.tensors[name]
    values = np.fromfile(path, np.float32, info.size_bytes // 4, offset=info.offset)
    return values.reshape(info.shape)
