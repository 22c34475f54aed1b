"""A decoder on ONNX Runtime: one session, and for each sequence its keys and values.

The session runs on buffers that stay where they are: keys and values are written in place, and the
bindings of a sequence are renewed only when the adapter changes. The buffers are as long as the
context; their pages come into being when they are written to, and go when the sequence is dropped.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnxruntime import (
    GraphOptimizationLevel,
    InferenceSession,
    IOBinding,
    OrtValue,
    SessionOptions,
)

from agent.inference.decoder import Decoder, Row
from agent.inference.engine import Adapter, EngineOptions
from agent.inference.onnx import interruption
from agent.inference.onnx import signature as names
from agent.inference.onnx.export import GRAPH
from agent.inference.onnx.lora import LoraPool
from agent.model.configuration import EMBEDDING, ROPE_FACTORS, Configuration, LayerKind
from agent.model.tensors import Tensors

_PROVIDERS = ["CPUExecutionProvider"]


class Buffers:
    """Keys and values of one sequence, and how they are bound to the session."""

    def __init__(self, shape: tuple[int, int, int, int], layers: int, binding: IOBinding) -> None:
        self.binding = binding
        # What the binding has of an adapter; none has been bound yet.
        self.worn: object = self
        self._cached = {
            (layer, what): OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
            for layer in range(layers)
            for what in names.CACHED
        }

    def bind(self) -> None:
        for (layer, what), value in self._cached.items():
            self.binding.bind_ortvalue_input(names.past(layer, what), value)
            self.binding.bind_ortvalue_output(names.present(layer, what), value)


class OnnxDecoder(Decoder):
    """``folder`` is what export.py made of the base; ``tensors`` are the base's own."""

    def __init__(
        self,
        folder: Path,
        configuration: Configuration,
        tensors: Tensors,
        options: EngineOptions,
    ) -> None:
        super().__init__()
        self._configuration = configuration
        self._tensors = tensors
        self._length = options.context_length
        self._session = InferenceSession(folder / GRAPH, _settings(options), _PROVIDERS)
        self._tables = _rotary_tables(configuration, tensors, options.context_length)
        architecture, adaptable = configuration.family.architecture, _adaptable(configuration)
        self._loras = LoraPool(architecture, adaptable, options.freed)
        self._adapter: Adapter | None = None
        self._sequences: dict[int, Buffers] = {}

    def wear(self, adapter: Adapter | None) -> None:
        if adapter:
            self._loras.get(adapter)
        self._adapter = adapter

    def logit_rows(
        self, sequence: int, tokens: Sequence[int], position: int, rows: int = 1
    ) -> Sequence[Row] | None:
        logits: Row = np.empty((rows, self._configuration.size.vocabulary), dtype=np.float32)
        return list(logits) if self._run(sequence, tokens, position, logits) else None

    def hidden_states(
        self, sequence: int, tokens: Sequence[int], position: int
    ) -> Sequence[Row] | None:
        size = self._configuration.size
        logits: Row = np.empty((1, size.vocabulary), dtype=np.float32)
        states: Row = np.empty((len(tokens), size.hidden), dtype=np.float32)
        return list(states) if self._run(sequence, tokens, position, logits, states) else None

    def _run(
        self,
        sequence: int,
        tokens: Sequence[int],
        position: int,
        logits: Row,
        states: Row | None = None,
    ) -> bool:
        """Fills in the logits after the last tokens, and the hidden states of all if they are
        wanted; False when it was cancelled. What was written to the cache lies beyond its end
        then."""
        binding = self._bound(sequence).binding
        total, rows = position + len(tokens), len(logits)
        embedded = self._tensors.gather(EMBEDDING, tokens)
        embedded *= np.float32(self._configuration.embedding_scale)
        wanted = np.arange(len(tokens) - rows, len(tokens), dtype=np.int64)
        binding.bind_cpu_input(names.EMBEDDED, embedded)
        binding.bind_cpu_input(names.WANTED, wanted)
        binding.bind_cpu_input(names.LAST_POSITION, np.array([total - 1], dtype=np.int32))
        binding.bind_cpu_input(names.TOTAL, np.array(total, dtype=np.int32))
        binding.bind_ortvalue_output(names.LOGITS, OrtValue.ortvalue_from_numpy(logits))
        if states is not None:
            binding.bind_ortvalue_output(names.HIDDEN, OrtValue.ortvalue_from_numpy(states))
        try:
            return interruption.run(self._session, binding, len(tokens) > 1, self.is_cancelled)
        finally:
            if states is not None:
                # The next call has another number of tokens, and wants none.
                self._sequences[sequence].worn = self

    def drop(self, sequence: int, position: int = 0) -> None:
        """What lies beyond ``position`` is written over; with nothing before it, pages go back."""
        if position == 0:
            self._sequences.pop(sequence, None)

    def close(self) -> None:
        self._sequences.clear()

    def _bound(self, sequence: int) -> Buffers:
        buffers = self._sequences.get(sequence)
        if buffers is None:
            size = self._configuration.size
            shape = (1, size.kv_heads, self._length, size.head)
            buffers = Buffers(shape, size.layers, self._session.io_binding())
            self._sequences[sequence] = buffers
        if buffers.worn != self._adapter:
            self._rebind(buffers)
        return buffers

    def _rebind(self, buffers: Buffers) -> None:
        binding = buffers.binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        buffers.bind()
        for name, table in self._tables.items():
            binding.bind_ortvalue_input(name, table)
        scale = self._adapter.scale if self._adapter else 0.0
        binding.bind_cpu_input(names.LORA_SCALE, np.array(scale, dtype=np.float32))
        if self._adapter:
            for name, value in self._loras.get(self._adapter).items():
                binding.bind_ortvalue_input(name, value)
        buffers.worn = self._adapter


def _settings(options: EngineOptions) -> SessionOptions:
    settings = SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    # Each call has another number of tokens: there is no pattern to learn.
    settings.enable_mem_pattern = False
    settings.enable_cpu_mem_arena = False
    settings.log_severity_level = 3
    return settings


def _rotary_tables(
    configuration: Configuration, tensors: Tensors, positions: int
) -> dict[str, OrtValue]:
    """Of each kind of layer; by the names of the inputs."""
    tables = {}
    for layer in set(configuration.layers):
        angles = np.outer(np.arange(positions), _frequencies(layer, configuration, tensors))
        kind = names.kind(layer.window)
        for name, values in (
            (names.cosines(kind), np.cos(angles)),
            (names.sines(kind), np.sin(angles)),
        ):
            tables[name] = OrtValue.ortvalue_from_numpy(values.astype(np.float32))
    return tables


def _frequencies(
    layer: LayerKind, configuration: Configuration, tensors: Tensors
) -> npt.NDArray[np.float64]:
    head = configuration.size.head
    plain = layer.rope.theta ** -(np.arange(0, head, 2) / head)
    stretched = tensors.vector(ROPE_FACTORS) if ROPE_FACTORS in tensors else layer.rope.factor
    return np.asarray(plain / stretched)


def _adaptable(configuration: Configuration) -> dict[str, tuple[int, int]]:
    specs = configuration.family.tensors(configuration.size, head=False)
    return {
        spec.target: (spec.shape[0], spec.shape[1])
        for spec in specs
        if len(spec.shape) == 2 and spec.target != EMBEDDING
    }
