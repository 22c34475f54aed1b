"""A PEFT LoRA adapter as a GGUF LoRA, for the base model that it was trained on.

The base's own header says which family it is and which shapes its matrices have, so no Hugging
Face configuration is needed on the device. llama.cpp adds (alpha / rank) * B A x and nothing else:
whatever PEFT can do beyond that is refused, because it would be left out without a word. So are
ranks and alphas by layer, which llama.cpp has and our other engines have not.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np

from artifacts import base_model
from artifacts.base_model import BaseModel
from artifacts.convert.checkpoint import StoredTensor, read_tensors
from artifacts.convert.config import MAX_LAYERS
from artifacts.convert.families import Dimensions, Rows, TensorSpec, by_architecture
from artifacts.convert.gguf_file import OutputTensor, Slice, write
from artifacts.convert.json_object import JsonObject
from artifacts.convert.model import Conversion
from protos.errors import InvalidRequest, NotFound

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"

# What PEFT can add to a plain LoRA: the key that asks for it, and its name in the refusal.
_BEYOND = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "biases on B",
    "rank_pattern": "ranks by layer",
    "alpha_pattern": "alphas by layer",
    "modules_to_save": "modules trained in full",
    "trainable_token_indices": "trained token rows",
    "target_parameters": "parameters outside of modules",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activation by tokens",
    "arrow_config": "routing between adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
    "fan_in_fan_out": "transposed weights",
}
# Ways to start that leave the base as it is; the others (PiSSA, OLoRA, ...) train against a base
# that they changed.
_FAITHFUL_STARTS = (True, False, "gaussian", "orthogonal", "eva")


def convert_adapter(folder: Path, base: Path, target: Path) -> Conversion:
    """Writes ``target`` durably from the adapter in ``folder``, trained on the GGUF ``base``.

    Raises InvalidRequest for what a GGUF LoRA cannot represent and for shapes that are not the
    base's, NotFound for missing files.
    """
    model = base_model.read(base)
    alpha, tensors = _read(folder, model)
    header = gguf.GGUFWriter(None, model.architecture)
    header.add_type(gguf.GGUFType.ADAPTER)
    header.add_string(gguf.Keys.Adapter.TYPE, "lora")
    header.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    write(target, header, tensors, lambda written_bytes: None)
    return Conversion(
        architecture=model.architecture,
        parameters=sum(int(np.prod(tensor.shape)) for tensor in tensors),
        size_bytes=target.stat().st_size,
        warnings=(),
    )


def check_adapter(folder: Path, model: BaseModel) -> None:
    """Raises what ``convert_adapter`` would for a folder that is no plain LoRA of this base."""
    _read(folder, model)


def _read(folder: Path, model: BaseModel) -> tuple[float, list[OutputTensor]]:
    """Alpha, and the tensors as they will be written; their numbers are read later."""
    config = JsonObject.read(folder / CONFIG_FILE)
    alpha = scaled_alpha(config, "represented in a GGUF LoRA")
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise NotFound(f"{weights} is missing.", fix="Save the adapter as safetensors.")
    tensors = list(_paired(weights, config.integer("r"), model))
    if not tensors:
        raise InvalidRequest(f"{weights} holds no adapter: it has no tensors.")
    return alpha, tensors


def scaled_alpha(config: JsonObject, use: str) -> float:
    """The alpha that is to be divided by the rank: rsLoRA divides its own by the rank's root.

    Raises InvalidRequest for an adapter that is more than that, and cannot be ``use``.
    """
    if config.text("peft_type") != "LORA":
        raise _beyond(config, f"a {config.text('peft_type')} adapter", use)
    for key, name in _BEYOND.items():
        if config.raw(key):
            raise _beyond(config, f"{name} (`{key}`)", use)
    if config.text("bias", "none") != "none":
        raise _beyond(config, f"trained biases (`bias`: {config.text('bias')})", use)
    start = config.raw("init_lora_weights")
    if start is not None and start not in _FAITHFUL_STARTS:
        raise _beyond(config, f"a start that changes the base (`init_lora_weights`: {start})", use)
    rank, alpha = config.integer("r"), config.number("lora_alpha")
    if rank == 0 or alpha == 0:
        raise InvalidRequest(f"{config.where}: rank {rank} with alpha {alpha:g} changes nothing.")
    return alpha * rank**0.5 if config.flag("use_rslora", False) else alpha


def _beyond(config: JsonObject, name: str, use: str) -> InvalidRequest:
    return InvalidRequest(
        f"{config.where}: {name} cannot be {use}.",
        fix="Train a plain LoRA.",
        reason="UNSUPPORTED_ADAPTER",
    )


def _paired(weights: Path, rank: int, model: BaseModel) -> Iterator[OutputTensor]:
    """A and B of every module, in the order of the base's layers."""
    stored = read_tensors(weights)
    family = by_architecture(model.architecture, str(model.path))
    specs = family.tensors(_dimensions(model), head="output.weight" in model.tensors)
    for spec in specs:
        module = _PREFIX + spec.source.removesuffix(".weight")
        a, b = stored.pop(module + _A, None), stored.pop(module + _B, None)
        if a is None and b is None:
            continue
        if a is None or b is None or spec.target == "token_embd.weight":
            raise InvalidRequest(f"{weights}: {module} is not a pair of A and B on a matrix.")
        yield from _pair(spec, a, b, rank, model)
    if stored:
        name = min(stored)
        why = "It is no LoRA matrix of a linear layer of this model."
        if name.startswith(_PREFIX + "lm_head."):
            why = "The output matrix of this model is its embedding, which takes no adapter."
        raise InvalidRequest(
            f"{weights}: {name} has no place in {model.path}.",
            why=why,
            reason="UNSUPPORTED_ADAPTER",
        )


def _pair(
    spec: TensorSpec, a: StoredTensor, b: StoredTensor, rank: int, model: BaseModel
) -> Iterator[OutputTensor]:
    matrix = model.tensors.get(spec.target)
    expected = None if matrix is None else matrix.shape
    if expected != (b.shape[0], *a.shape[1:]) or (a.shape[0], *b.shape[1:]) != (rank, rank):
        raise InvalidRequest(
            f"{a.path}: {spec.source} is adapted by {b.shape} x {a.shape}.",
            why=f"In {model.path} it is {expected}, and the rank is {rank}.",
            fix="Use the base model that the adapter was trained on.",
        )
    # Only B's rows are rows of the matrix, so only they are rearranged with it.
    yield _tensor(f"{spec.target}.lora_a", a, lambda rows: rows)
    yield _tensor(f"{spec.target}.lora_b", b, spec.apply)


def _tensor(name: str, source: StoredTensor, change: Callable[[Rows], Rows]) -> OutputTensor:
    def slices() -> Iterator[Slice]:
        rows = source.rows(0, source.shape[0])
        if not np.isfinite(rows).all():
            raise InvalidRequest(f"{source.path}: {source.name} holds NaN or infinity.")
        yield change(rows)

    return OutputTensor(name, source.shape, gguf.GGMLQuantizationType.F32, slices)


def _dimensions(model: BaseModel) -> Dimensions:
    """Where a key is missing, as in files of other converters, llama.cpp's default holds."""

    def number(key: str, default: int | None = None) -> int:
        value = model.metadata.get(f"{model.architecture}.{key}", default)
        if not isinstance(value, int):
            raise InvalidRequest(f"{model.path}: {model.architecture}.{key} is missing.")
        return value

    layers, heads = number("block_count"), number("attention.head_count")
    hidden = number("embedding_length")
    if layers > MAX_LAYERS or heads == 0:
        raise InvalidRequest(f"{model.path}: {layers} layers of {heads} heads are no model.")
    return Dimensions(
        layers=layers,
        hidden=hidden,
        feed_forward=number("feed_forward_length"),
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head=number("attention.key_length", hidden // heads),
        vocabulary=0,
    )
