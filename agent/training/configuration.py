"""Transformers' configuration of a base model, from the metadata of its GGUF file.

The file is the only source: what llama.cpp computes from these keys is what has to be trained. So
where a key is missing, llama.cpp's default holds, not Transformers'.
"""

from typing import TYPE_CHECKING, Any

from artifacts.base_model import BaseModel
from artifacts.convert.config import GEMMA_PATTERN
from artifacts.convert.families import FAMILIES, GEMMA3, LLAMA, Dimensions, Family
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"
# Divisors of the rotary frequencies: how a GGUF has Llama 3.1's stretched context.
ROPE_FACTORS = "rope_freqs.weight"
_ROPE_BASE = 10_000.0


def family(base: BaseModel) -> Family:
    for found in FAMILIES:
        if found.architecture == base.architecture:
            return found
    known = ", ".join(found.architecture for found in FAMILIES)
    raise InvalidRequest(
        f"Models of architecture {base.architecture} cannot be trained.",
        why=f"The architectures that can are {known}.",
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


def configuration(base: BaseModel) -> "PreTrainedConfig":
    """For the family's text model, with attention by torch's fused kernel."""
    from transformers import AutoConfig

    kind, size = family(base), dimensions(base)
    _check(base, kind, size)
    special: dict[str, Any] = {"rope_parameters": _rope(base)}
    if kind is GEMMA3:
        special = _gemma(base, size)
    return AutoConfig.for_model(
        kind.model_type,
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head,
        rms_norm_eps=_number(base, "attention.layer_norm_rms_epsilon"),
        max_position_embeddings=base.context_length,
        attn_implementation="sdpa",
        **special,
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
            f"The base model {base.name} cannot be trained on.",
            why=f"Its tokenizer does not match it: {base.vocabulary_size} tokens, but "
            f"{EMBEDDING} has {size.vocabulary} rows.",
            fix="Import the model again with the tokenizer that it was published with.",
            reason="TOKENIZER_MISMATCH",
        )
    known = {tensor.target for tensor in kind.tensors(size, head=True)}
    if kind is LLAMA:
        known.add(ROPE_FACTORS)
    if unknown := sorted(base.tensors.keys() - known):
        raise _unusable(base, f"It has {unknown[0]}, which {kind.architecture} models do not have.")


def _gemma(base: BaseModel, size: Dimensions) -> dict[str, Any]:
    return {
        "query_pre_attn_scalar": size.head,
        "sliding_window": _integer(base, "attention.sliding_window"),
        "layer_types": [_layer_type(number) for number in range(1, size.layers + 1)],
        "rope_parameters": {
            "full_attention": _rope(base),
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": _number(base, "rope.freq_base_swa", _ROPE_BASE),
            },
        },
    }


def _layer_type(number: int) -> str:
    return "full_attention" if number % GEMMA_PATTERN == 0 else "sliding_attention"


def _rope(base: BaseModel) -> dict[str, str | float]:
    default = GEMMA3.rope_theta if base.architecture == GEMMA3.architecture else _ROPE_BASE
    theta = _number(base, "rope.freq_base", default)
    scaled = f"{base.architecture}.rope.scaling.factor" in base.metadata
    # To llama.cpp a factor without a type is a linear one.
    kind = base.metadata.get(
        f"{base.architecture}.rope.scaling.type", "linear" if scaled else "none"
    )
    if kind == "linear":
        factor = _number(base, "rope.scaling.factor", 1.0)
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    raise InvalidRequest(
        f"The base model {base.name} cannot be trained on.",
        why=f"Its rotary positions are scaled by {kind!r}; training knows none, linear and llama3.",
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
        f"The base model {base.name} cannot be trained on.",
        why=why,
        fix="Import it again, or choose another base.",
    )
