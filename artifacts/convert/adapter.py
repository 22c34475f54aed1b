"""A PEFT LoRA adapter as a GGUF LoRA, for the base model that it was trained on.

The base's own header says which family it is and which shapes its matrices have, so no Hugging
Face configuration is needed on the device. What the settings in the folder mean is in peft.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from artifacts import base_model
from artifacts.base_model import BaseModel
from artifacts.convert import language_model, peft
from artifacts.convert.checkpoint import StoredTensor, read_tensors
from artifacts.convert.config import MAX_LAYERS
from artifacts.convert.families import Dimensions, Family, Rows, TensorSpec, by_architecture
from artifacts.convert.gguf_file import OutputTensor, Slice, write
from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest

_PREFIX = "base_model.model."
_USE = "represented in a GGUF LoRA"
_TRAIN_ON = "An adapter may be on {}."
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class AdapterConversion:
    """What was written, and what the PEFT folder says of itself: ``alpha`` is its own, before
    rsLoRA's root; ``targets`` are names of projections, sorted; ``trained_on`` is whatever PEFT was
    given as the base, empty where it does not say. ``warnings`` are sentences."""

    architecture: str
    parameters: int
    size_bytes: int
    rank: int
    alpha: float
    targets: tuple[str, ...]
    trained_on: str
    warnings: tuple[str, ...]


def convert_adapter(folder: Path, base: Path, target: Path) -> AdapterConversion:
    """Writes ``target`` durably from the adapter in ``folder``, trained on the GGUF ``base``.

    Raises InvalidRequest for what a GGUF LoRA cannot represent, for shapes that are not the
    base's and for numbers that are none, NotFound for missing files.
    """
    model = base_model.read(base)
    config, matrices = _read(folder, model)
    tensors = [tensor for matrix in matrices for tensor in matrix.tensors()]
    header = gguf.GGUFWriter(None, model.architecture)
    header.add_type(gguf.GGUFType.ADAPTER)
    header.add_string(gguf.Keys.Adapter.TYPE, "lora")
    header.add_float32(gguf.Keys.Adapter.LORA_ALPHA, peft.scaled_alpha(config, _USE))
    write(target, header, tensors, lambda written_bytes: None)
    return AdapterConversion(
        architecture=model.architecture,
        parameters=sum(int(np.prod(tensor.shape)) for tensor in tensors),
        size_bytes=target.stat().st_size,
        rank=config.integer("r"),
        alpha=config.number("lora_alpha"),
        targets=tuple(sorted({matrix.projection for matrix in matrices})),
        trained_on=config.text("base_model_name_or_path", ""),
        warnings=tuple(peft.warnings(config)),
    )


def check_adapter(folder: Path, model: BaseModel) -> None:
    """Raises what ``convert_adapter`` would for a folder that is no plain LoRA of this base."""
    _read(folder, model)


def _read(folder: Path, model: BaseModel) -> tuple[JsonObject, list["_Matrix"]]:
    """The settings and the adapted matrices, checked; their numbers are read later."""
    config_file, weights = peft.files_of(folder)
    config = JsonObject.read(config_file)
    peft.scaled_alpha(config, _USE)
    matrices = _matrices(weights, config.integer("r"), model)
    if not matrices:
        raise InvalidRequest(
            f"{weights} holds no adapter: it has no tensors.",
            fix="Save it again after training, with PEFT's save_pretrained().",
        )
    return config, matrices


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix of the base with its A (rank, columns) and B (rows, rank)."""

    spec: TensorSpec
    a: StoredTensor
    b: StoredTensor

    @property
    def projection(self) -> str:
        return _module(self.spec).rpartition(".")[2]

    def tensors(self) -> tuple[OutputTensor, OutputTensor]:
        """Only B's rows are rows of the matrix, so only they are rearranged with it."""
        target = self.spec.target
        return (
            _tensor(f"{target}.lora_a", self.a, lambda rows: rows),
            _tensor(f"{target}.lora_b", self.b, self.spec.apply),
        )


def _module(spec: TensorSpec) -> str:
    return spec.source.removesuffix(".weight")


def _matrices(weights: Path, rank: int, model: BaseModel) -> list[_Matrix]:
    """In the order of the base's layers. Every tensor of the adapter has its place."""
    stored = read_tensors(weights)
    family = by_architecture(model.architecture, str(model.path))
    found = []
    for spec in family.tensors(_dimensions(model), head="output.weight" in model.tensors):
        module = _PREFIX + _module(spec)
        a, b = stored.pop(module + _A, None), stored.pop(module + _B, None)
        if a is None and b is None:
            continue
        if a is None or b is None or spec.target == "token_embd.weight":
            raise InvalidRequest(
                f"{weights}: {module} is not a pair of A and B on a matrix.",
                why="A LoRA is two matrices beside one of a linear layer.",
                fix=_TRAIN_ON.format(_projections(family)),
                reason="UNSUPPORTED_ADAPTER",
            )
        _check_shapes(spec, a, b, rank, model)
        found.append(_Matrix(spec, a, b))
    if stored:
        raise _no_place(weights, min(stored), family, model)
    return found


def _no_place(weights: Path, name: str, family: Family, model: BaseModel) -> InvalidRequest:
    why = "It is no LoRA matrix of a linear layer of this model."
    if name.startswith(_PREFIX + "lm_head."):
        why = "The output matrix of this model is its embedding, which takes no adapter."
    elif language_model.plain_name(name.removeprefix(_PREFIX)) != name.removeprefix(_PREFIX):
        return InvalidRequest(
            f"{weights}: {name} has no place in {model.path}.",
            why="It is named as in a model that sees pictures; a base here is a language model.",
            fix="Merge it into the original folder (`nanofleet adapter merge`), and import that.",
            reason="UNSUPPORTED_ADAPTER",
        )
    elif ".embed_tokens." in name:
        why = "It is of the vocabulary, which stays as it is: an adapter cannot bring another one."
    return InvalidRequest(
        f"{weights}: {name} has no place in {model.path}.",
        why=why,
        fix="Use the base model that the adapter was trained on. "
        + _TRAIN_ON.format(_projections(family)),
        reason="UNSUPPORTED_ADAPTER",
    )


def _projections(family: Family) -> str:
    """The linear layers of a decoder layer, for a message."""
    rows = [source for source, _, words in family.layer if len(words) == 2]
    return ", ".join(source.removesuffix(".weight").rpartition(".")[2] for source in rows)


def _check_shapes(
    spec: TensorSpec, a: StoredTensor, b: StoredTensor, rank: int, model: BaseModel
) -> None:
    matrix = model.tensors.get(spec.target)
    expected = None if matrix is None else matrix.shape
    fits = len(a.shape) == len(b.shape) == 2 and expected == (b.shape[0], a.shape[1])
    if fits and a.shape[0] == b.shape[1] == rank:
        return
    raise InvalidRequest(
        f"{a.path}: {spec.source} is adapted by {b.shape} x {a.shape}.",
        why=f"In {model.path} it is {expected}, and the rank is {rank}.",
        fix="Use the base model that the adapter was trained on.",
        reason="UNSUPPORTED_ADAPTER",
    )


def _tensor(name: str, source: StoredTensor, change: Callable[[Rows], Rows]) -> OutputTensor:
    def slices() -> Iterator[Slice]:
        rows = source.rows(0, source.shape[0])
        if not np.isfinite(rows).all():
            raise InvalidRequest(
                f"{source.path}: {source.name} holds NaN or infinity.",
                why="The training diverged, or the file is damaged.",
                fix="Use an earlier checkpoint, or train it again at a lower learning rate.",
            )
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
