"""What a base model computes, from the metadata of its GGUF file.

The file is the only source: what llama.cpp computes from these keys is what has to be trained, and
what any other engine has to compute. So where a key is missing, llama.cpp's default holds, not
Transformers'.
"""

from dataclasses import dataclass

from artifacts.base_model import BaseModel
from artifacts.convert.config import GEMMA_PATTERN
from artifacts.convert.families import FAMILIES, GEMMA3, LLAMA, Dimensions, Family, scale_name
from protos.errors import InvalidRequest

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
# Divisors of the rotary frequencies: how a GGUF has Llama 3.1's stretched context.
ROPE_FACTORS = "rope_freqs.weight"
_ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: frequency i of a head of d is theta ** (-2i / d) / factor."""

    theta: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerKind:
    """How one layer attends. ``window``: to so many tokens, itself included; None: to all."""

    rope: Rope
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    family: Family
    size: Dimensions
    norm_epsilon: float
    embedding_scale: float
    layers: tuple[LayerKind, ...]


def family(base: BaseModel) -> Family:
    for found in FAMILIES:
        if found.architecture == base.architecture:
            return found
    known = ", ".join(found.architecture for found in FAMILIES)
    raise InvalidRequest(
        f"Models of architecture {base.architecture} are not supported.",
        why=f"The architectures that are: {known}.",
        fix="Choose another base.",
        reason="UNKNOWN_ARCHITECTURE",
    )


def dimensions(base: BaseModel) -> Dimensions:
    heads = _integer(base, "attention.head_count")
    return Dimensions(
        layers=base.block_count,
        hidden=base.embedding_length,
        feed_forward=_integer(base, "feed_forward_length"),
        heads=heads,
        kv_heads=_integer(base, "attention.head_count_kv", heads),
        head=_integer(base, "attention.key_length", base.embedding_length // heads),
        # More than the tokenizer knows where the matrix is padded.
        vocabulary=_embedding_rows(base),
    )


def configuration(base: BaseModel) -> Configuration:
    """Raises InvalidRequest for what would not be computed as llama.cpp does it."""
    kind, size = family(base), dimensions(base)
    _check(base, kind, size)
    return Configuration(
        family=kind,
        size=size,
        norm_epsilon=_number(base, "attention.layer_norm_rms_epsilon"),
        embedding_scale=size.hidden**0.5 if kind is GEMMA3 else 1.0,
        layers=_gemma(base, size) if kind is GEMMA3 else (LayerKind(_rope(base)),) * size.layers,
    )


def _check(base: BaseModel, kind: Family, size: Dimensions) -> None:
    """Refuses what llama.cpp would compute from the file and Transformers' class would not."""
    if size.heads % size.kv_heads:
        raise _unusable(base, f"{size.heads} heads cannot share {size.kv_heads} key heads.")
    for key in ("attention.value_length", "rope.dimension_count"):
        if _integer(base, key, size.head) != size.head:
            raise _unusable(
                base,
                f"Its {key} is {base.metadata[f'{base.architecture}.{key}']}, not {size.head}.",
            )
    if base.vocabulary_size > size.vocabulary:
        raise InvalidRequest(
            f"The base model {base.name} is not supported.",
            why=f"Its tokenizer does not match it: {base.vocabulary_size} tokens, but "
            f"{EMBEDDING} has {size.vocabulary} rows.",
            fix="Import the model again with the tokenizer that it was published with.",
            reason="TOKENIZER_MISMATCH",
        )
    known = {tensor.target for tensor in kind.tensors(size, head=True)}
    known |= {scale_name(name) for name in known if _is_int8(base, name)}
    if kind is LLAMA:
        known.add(ROPE_FACTORS)
    if unknown := sorted(base.tensors.keys() - known):
        raise _unusable(base, f"It has {unknown[0]}, which {kind.architecture} models do not have.")


def _is_int8(base: BaseModel, name: str) -> bool:
    return name in base.tensors and base.tensors[name].type == "I8"


def _gemma(base: BaseModel, size: Dimensions) -> tuple[LayerKind, ...]:
    """Every sixth layer attends to everything, the others to a window."""
    everything = LayerKind(_rope(base))
    local = LayerKind(
        Rope(_number(base, "rope.freq_base_swa", _ROPE_BASE)),
        _integer(base, "attention.sliding_window"),
    )
    return tuple(
        everything if number % GEMMA_PATTERN == 0 else local for number in range(1, size.layers + 1)
    )


def _rope(base: BaseModel) -> Rope:
    default = GEMMA3.rope_theta if base.architecture == GEMMA3.architecture else _ROPE_BASE
    theta = _number(base, "rope.freq_base", default)
    scaled = f"{base.architecture}.rope.scaling.factor" in base.metadata
    # To llama.cpp a factor without a type is a linear one.
    kind = base.metadata.get(
        f"{base.architecture}.rope.scaling.type", "linear" if scaled else "none"
    )
    if kind == "linear":
        return Rope(theta, _number(base, "rope.scaling.factor", 1.0))
    if kind == "none":
        return Rope(theta)
    raise InvalidRequest(
        f"The base model {base.name} is not supported.",
        why=f"Its rotary positions are scaled by {kind!r}; known are none, linear and llama3.",
        fix="Choose another base.",
    )


def _embedding_rows(base: BaseModel) -> int:
    embedding = base.tensors.get(EMBEDDING)
    if embedding is None:
        raise _unusable(base, f"It has no tensor {EMBEDDING}.")
    return embedding.shape[0]


def _integer(base: BaseModel, key: str, default: int | None = None) -> int:
    value = base.metadata.get(f"{base.architecture}.{key}", default)
    if isinstance(value, int) and value > 0:
        return value
    raise _unusable(base, f"Its header has no usable {base.architecture}.{key}: {value!r}.")


def _number(base: BaseModel, key: str, default: float | None = None) -> float:
    value = base.metadata.get(f"{base.architecture}.{key}", default)
    if isinstance(value, int | float) and value > 0:
        return float(value)
    raise _unusable(base, f"Its header has no usable {base.architecture}.{key}: {value!r}.")


def _unusable(base: BaseModel, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The base model {base.name} is not supported.",
        why=why,
        fix="Import it again, or choose another base.",
    )
