"""Transformers' configuration of a Gemma 3, from the metadata of its GGUF file.

The file is the only source: what llama.cpp computes from these keys is what has to be trained.
"""

from typing import TYPE_CHECKING

from artifacts.base_model import BaseModel
from artifacts.convert.config import GEMMA_PATTERN
from artifacts.convert.families import GEMMA3, Dimensions
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from transformers import Gemma3TextConfig

_EMBEDDING = "token_embd.weight"
_LOCAL_ROPE_BASE = 10_000.0


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


def configuration(base: BaseModel) -> "Gemma3TextConfig":
    """For Gemma3TextModel, with attention by torch's fused kernel."""
    from transformers import Gemma3TextConfig

    size = dimensions(base)
    return Gemma3TextConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head,
        query_pre_attn_scalar=size.head,
        rms_norm_eps=_number(base, "attention.layer_norm_rms_epsilon"),
        max_position_embeddings=base.context_length,
        sliding_window=_integer(base, "attention.sliding_window"),
        layer_types=[_layer_type(number) for number in range(1, size.layers + 1)],
        rope_parameters={
            "full_attention": _global_rope(base),
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": _number(base, "rope.freq_base_swa", _LOCAL_ROPE_BASE),
            },
        },
        attn_implementation="sdpa",
    )


def _layer_type(number: int) -> str:
    return "full_attention" if number % GEMMA_PATTERN == 0 else "sliding_attention"


def _global_rope(base: BaseModel) -> dict[str, str | float]:
    theta = _number(base, "rope.freq_base", GEMMA3.rope_theta)
    kind = base.metadata.get(f"{base.architecture}.rope.scaling.type", "none")
    if kind == "linear":
        factor = _number(base, "rope.scaling.factor")
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    raise _unusable(base, f"Its rotary positions are scaled by {kind!r}.")


def _embedding_rows(base: BaseModel) -> int:
    embedding = base.tensors.get(_EMBEDDING)
    if embedding is None:
        raise _unusable(base, f"It has no tensor {_EMBEDDING}.")
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
