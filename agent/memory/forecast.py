"""How much memory a training run or a served model will need at its peak, before it starts.

Pure arithmetic on the model's shapes. Two kinds of memory are told apart: anonymous memory, which
must be there, and file-backed memory (the mapped weights, the libraries), which workers share and
the kernel can drop and read again.

The constants are measurements, in fresh processes on x86 with Python 3.11, torch 2.13 and llama.cpp
0.3.36, of a model of Gemma 3 1B's true shape (26 layers, hidden 1152, feed forward 6912, vocabulary
262,144; Q8_0, 1,069 MB) and of a tiny one. tests/agent/memory/test_forecast.py has what was
measured, and runs both workers against the formulae. On a board a job's own figures
(JobResult.peak_anonymous_bytes) show how far they are off.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.memory.settings import Plan
from agent.memory.shape import PROJECTIONS, Shape, shape_of
from agent.memory.torch_build import CPU, TorchBuild
from artifacts.base_model import BaseModel
from protos.nanofleet.v1.job_pb2 import TrainSpec

MB = 1_000_000

# torch imported and a tiny model trained on one thread: 163 MB anonymous.
TRAINER_ANONYMOUS_BYTES = 152 * MB
# Of the libraries' pages while they are loaded, and what of them is read again once
# agent.training.libraries has let them go (36 to 42 MB at the 1B shape).
TRAINER_LOADING_BYTES = 104 * MB
TRAINER_LIBRARIES_BYTES = 42 * MB
# Packed copies in the matrix library, thread stacks, heap that is free and not returned: what runs
# of the 1B shape in bfloat16 (341 MB with rank 8 on attention, 431 MB on all projections) had above
# the sum of the other parts, and 7 MB by which two runs of one recipe differ.
TRAINER_WORKSPACE_BYTES = 32 * MB
# CUDA's context, with the kernels that were used: 300 to 400 MB are what torch's developers name
# since kernels are loaded when they are needed. Not measured on a board.
CUDA_BYTES = 400 * MB
# agent.training.weights.GPU_SLAB, in float32.
GPU_SLAB_BYTES = 4 << 23
# agent.training.attention.BLOCK.
TRAINER_QUERIES = 64
# Weight, gradient and AdamW's two moments, in float32, and what all seven projections were measured
# to take beyond.
LORA_BYTES_PER_PARAMETER = 18

# 30 MB for a vocabulary of 262,144: opened with it 94 MB, without 64.
SERVER_BYTES_PER_VOCABULARY_TOKEN = 115
# agent.inference.decoder.BATCH_TOKENS
SERVER_BATCH_TOKENS = 64
# agent.inference.decoder.OUTPUT_ROWS of logits, computed and then copied: scores need all of them,
# an answer one.
SERVER_LOGIT_ROWS = 2 * 16
# llama_token_data, of the sampler's candidates: llama.cpp's own, and those of a grammar.
SERVER_CANDIDATE_BYTES = 2 * 12
# agent.inference.adapters.KEPT, each as large as one of rank 8 on all projections (26 MB).
SERVER_ADAPTERS = 4
SERVER_ADAPTER_RANK = 8

RUNTIME = "runtime"

_KEPT_AT_REST = (RUNTIME, "CUDA", "weights on the GPU", "LoRA", "best adapter")
# An engine that rests between two tokens keeps all that it has.
_KEPT_BY_ENGINES = ("weights", "KV cache", "compute buffer", "logits", "vocabulary", "adapters")
_FLOAT32 = 4
_FLOAT16 = 2
_KEYS_AND_VALUES = 2

# Bits of a parameter in the order that ONNX Runtime multiplies in: its own, and 8 bytes for each 32
# (a scale and a sum). It makes this copy of the file that it maps, and drops the file's pages.
_PACKED_BITS = {"Q8_0": 8 + 2, "Q4_0": 4 + 2}
_FLOAT32_BITS = 32


@dataclass(frozen=True, slots=True)
class Server:
    """What sets an engine's worker apart. The sizes are those of a tiny model opened and asked."""

    anonymous_bytes: int
    libraries_bytes: int
    # Of one key or value.
    cached_bytes: int
    # Bits of a parameter in a copy of the weights, by the base's type; None: the base is mapped.
    copied_bits: Callable[[str], int] | None = None
    imports_torch: bool = False


# By the names of agent/inference/engines.py.
SERVERS: Mapping[str, Server] = {
    # 30 MB anonymous and 24 MB of libraries; the rest is for the threads and arenas of larger
    # machines.
    "llama": Server(40 * MB, 25 * MB, _FLOAT16),
    # 56 MB and 49 MB.
    "onnxruntime": Server(
        70 * MB, 52 * MB, _FLOAT32, lambda kind: _PACKED_BITS.get(kind, _FLOAT32_BITS)
    ),
    # torch, Transformers and PEFT: 290 MB and 103 MB.
    "transformers": Server(310 * MB, 106 * MB, _FLOAT32, lambda kind: _FLOAT32_BITS, True),
}


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The peak of one worker, in parts that can be shown."""

    anonymous: tuple[Part, ...]
    libraries_bytes: int
    # The mapped base model: the same pages for all workers that use it.
    weights_bytes: int

    @property
    def anonymous_bytes(self) -> int:
        return sum(part.size_bytes for part in self.anonymous)

    def part_bytes(self, name: str) -> int:
        """Of the anonymous memory."""
        return sum(part.size_bytes for part in self.anonymous if part.name == name)

    @property
    def at_rest(self) -> "Forecast":
        """Of a trainer that has given back what it computes in: its process and its adapter; of an
        engine all but the mapped weights, which stay while nobody else needs the room."""
        names = (*_KEPT_AT_REST, *_KEPT_BY_ENGINES)
        kept = tuple(part for part in self.anonymous if part.name in names)
        return Forecast(kept, self.libraries_bytes, weights_bytes=0)

    @property
    def file_bytes(self) -> int:
        return self.libraries_bytes + self.weights_bytes

    @property
    def peak_bytes(self) -> int:
        return self.anonymous_bytes + self.file_bytes


def training_forecast(
    base: BaseModel,
    spec: TrainSpec,
    plan: Plan,
    element_bytes: int = _FLOAT32,
    longest: int = 0,
    *,
    shared_gpu: bool = False,
    torch: TorchBuild = CPU,
) -> Forecast:
    """The trainer's peak, with ``tokens`` = those of its longest micro-step. The tensors are those
    of agent/training/workspace.py, e = ``element_bytes``:

    scratch        largest projection, or chunk of the head, dequantised: e bytes an element
    layer inputs   (layers + 1) * tokens * hidden, float32
    kept products  layers * tokens * (query + 2 * key_value + 2 * hidden) * e
    recomputed     gate and up of one layer: 2 * tokens * feed_forward * e
    stored layers  the same for each of them
    working set    of one layer: 2 * tokens * (feed_forward + hidden + query + key_value) * e, and
                   4 * tokens * hidden in float32
    attention      scores of the heads' 64 queries at a time, twice in float32 and in e; and of one
                   layer queries, keys and their gradients in float32
    head           labels, at most tokens: logits of a chunk in e and in float32, and the gradient
    LoRA           18 bytes a parameter
    best adapter   with an evaluation, a copy of its weights
    CUDA           with ``shared_gpu``, a GPU that has its memory from the same board: its context,
                   and a copy of the weights, whose pages in the file are not needed then (and the
                   scratch has a slab in float32)

    A micro-step is as long as the longest sample (``longest``; 0: not known), and with packing as
    the sequence length. The worker's choice of ``element_bytes`` is not known before it runs, so 4
    is assumed. Weights are read where they lie, whatever their type, so they count as the size of
    their file. Evaluation passes forward only, and stages come one after the other: neither adds
    to the peak.
    """
    shape = shape_of(base)
    tokens = spec.sequence_length
    if longest and not plan.packing:
        tokens = min(tokens, longest)
    wide_bytes = 2 * tokens * shape.feed_forward * element_bytes
    kept = shape.query + 2 * shape.key_value + 2 * shape.hidden
    working = shape.hidden + shape.query + shape.key_value
    stored_layers = min(plan.stored_layers, shape.layers)
    rows = min(plan.chunk_rows, shape.vocabulary)
    exact_bytes = tokens * shape.hidden * _FLOAT32
    lora = shape.lora_parameters(frozenset(spec.lora.targets), spec.lora.rank)
    anonymous = (
        Part(RUNTIME, TRAINER_ANONYMOUS_BYTES + torch.anonymous_bytes),
        Part("CUDA", CUDA_BYTES if shared_gpu else 0),
        Part("weights on the GPU", shape.weights_bytes if shared_gpu else 0),
        Part("workspace", TRAINER_WORKSPACE_BYTES),
        Part(
            "scratch",
            max(shape.largest_matrix, rows * shape.hidden) * element_bytes
            + (GPU_SLAB_BYTES if shared_gpu else 0),
        ),
        Part("layer inputs", (shape.layers + 1) * exact_bytes),
        Part("kept products", shape.layers * tokens * kept * element_bytes),
        Part("recomputed layer", wide_bytes),
        Part("stored layers", stored_layers * wide_bytes),
        Part("working set", wide_bytes + 2 * tokens * working * element_bytes + 4 * exact_bytes),
        Part("attention", _attention_bytes(shape, tokens, element_bytes)),
        Part("head", rows * tokens * (element_bytes + _FLOAT32) + 2 * exact_bytes),
        Part("LoRA", lora * LORA_BYTES_PER_PARAMETER),
        Part("best adapter", lora * _FLOAT32 if spec.HasField("evaluation") else 0),
    )
    mapped_bytes = 0 if shared_gpu else shape.weights_bytes
    # Whichever is more: while nothing else is there yet, or once all is.
    computing_bytes = sum(part.size_bytes for part in anonymous[1:]) + mapped_bytes
    libraries_bytes = max(
        TRAINER_LIBRARIES_BYTES + torch.libraries_bytes,
        TRAINER_LOADING_BYTES + torch.loading_bytes - computing_bytes,
    )
    return Forecast(anonymous, libraries_bytes, mapped_bytes)


def inference_forecast(
    base: BaseModel, context_length: int, engine: str = "llama", torch: TorchBuild = CPU
) -> Forecast:
    """The server's peak:

    weights        a copy of them, by engines that do not multiply in the mapped file
    KV cache       2 * layers * key width * element * context, kept whole for sliding windows, too
    compute buffer 64 tokens of one layer's activations
    logits         32 rows, and the sampler's candidates, twice
    vocabulary     115 bytes a token
    adapters       four of rank 8 on all projections, in float32
    """
    server, shape = SERVERS[engine], shape_of(base)
    torch = torch if server.imports_torch else CPU
    bits = server.copied_bits(base.file_type) if server.copied_bits else 0
    cached = _KEYS_AND_VALUES * shape.layers * shape.key_value * context_length
    adapter = shape.lora_parameters(frozenset(PROJECTIONS), SERVER_ADAPTER_RANK)
    logit_bytes = SERVER_LOGIT_ROWS * _FLOAT32 + SERVER_CANDIDATE_BYTES
    return Forecast(
        anonymous=(
            Part(RUNTIME, server.anonymous_bytes + torch.anonymous_bytes),
            Part("weights", shape.matrix_elements * bits // 8),
            Part("KV cache", cached * server.cached_bytes),
            Part("compute buffer", SERVER_BATCH_TOKENS * _activations(shape) * _FLOAT32),
            Part("logits", shape.vocabulary * logit_bytes),
            Part("vocabulary", shape.vocabulary * SERVER_BYTES_PER_VOCABULARY_TOKEN),
            Part("adapters", SERVER_ADAPTERS * adapter * _FLOAT32),
        ),
        libraries_bytes=server.libraries_bytes + torch.loading_bytes,
        weights_bytes=0 if bits else shape.weights_bytes,
    )


def _attention_bytes(shape: Shape, tokens: int, element_bytes: int) -> int:
    scores = shape.heads * min(TRAINER_QUERIES, tokens) * tokens * (2 * _FLOAT32 + element_bytes)
    return scores + 2 * tokens * (shape.query + shape.key_value) * _FLOAT32


def _activations(shape: Shape) -> int:
    """Elements that one token's way through one layer leaves for the backward pass."""
    return 3 * shape.feed_forward + 4 * shape.hidden + 2 * shape.query + 2 * shape.key_value
