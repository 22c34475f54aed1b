"""config.json as plain numbers, or a refusal of what llama.cpp would silently compute otherwise.

Two generations of the file are in use: Transformers 5 nests the rotary settings in
``rope_parameters`` (for Gemma per kind of layer), Transformers 4 wrote ``rope_theta``,
``rope_scaling`` and ``rope_local_base_freq`` beside each other. Both are read.
"""

from dataclasses import dataclass
from pathlib import Path

from artifacts.convert import language_model
from artifacts.convert.families import GEMMA3, LLAMA, Dimensions, Family, by_model_type
from artifacts.convert.json_object import JsonObject
from protos.errors import InvalidRequest

# llama.cpp makes every sixth layer of a Gemma 3 a global one, whatever the file says.
GEMMA_PATTERN = 6
# Far above any model, and low enough to list every tensor of a file that claims so many.
MAX_LAYERS = 1000


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions. ``factor`` belongs to kinds linear and llama3, the rest to llama3."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    family: Family
    size: Dimensions
    context_length: int
    norm_epsilon: float
    rope: Rope
    local_rope: Rope | None  # of layers with a sliding window
    sliding_window: int | None
    tied: bool | None  # None: the checkpoint tells


def read_config(folder: Path) -> ModelConfig:
    whole = JsonObject.read(folder / "config.json")
    _refuse_quantised(whole)
    config = language_model.settings(whole)
    family = by_model_type(config.text("model_type"), config.where)
    size = _dimensions(config)
    _refuse_the_unusual(config, family)
    gemma = family is GEMMA3
    if gemma:
        _check_gemma(config, size)
    return ModelConfig(
        family=family,
        size=size,
        context_length=config.integer("max_position_embeddings"),
        norm_epsilon=config.number("rms_norm_eps"),
        rope=_rope(config, family),
        local_rope=_local_rope(config) if gemma else None,
        sliding_window=config.integer("sliding_window") if gemma else None,
        tied=config.flag("tie_word_embeddings") if "tie_word_embeddings" in config else None,
    )


def _dimensions(config: JsonObject) -> Dimensions:
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if heads == 0 or hidden == 0:
        raise InvalidRequest(f"{config.where}: a model without heads or hidden size.")
    kv_heads = config.integer("num_key_value_heads", heads)
    if kv_heads == 0 or heads % kv_heads:
        raise InvalidRequest(f"{config.where}: {heads} heads cannot share {kv_heads} key heads.")
    layers, head = config.integer("num_hidden_layers"), config.integer("head_dim", hidden // heads)
    if not 0 < layers <= MAX_LAYERS or head == 0 or head % 2:
        raise InvalidRequest(f"{config.where}: {layers} layers with heads of {head} are no model.")
    return Dimensions(
        layers=layers,
        hidden=hidden,
        feed_forward=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        vocabulary=config.integer("vocab_size"),
    )


def _refuse_quantised(config: JsonObject) -> None:
    if "quantization_config" in config:
        raise InvalidRequest(
            f"{config.where}: the checkpoint is quantised already.",
            fix="Convert the original weights: quantising twice loses quality.",
        )


def _refuse_the_unusual(config: JsonObject, family: Family) -> None:
    activation = config.text(
        "hidden_activation" if family is GEMMA3 else "hidden_act", family.activation
    )
    if activation != family.activation:
        raise _unlike(config, f"activation {activation!r}", family.activation)
    if family is not GEMMA3 and config.flag("use_sliding_window", False):
        raise _unlike(config, "a sliding window", "full attention")
    kinds = config.array("layer_types")
    if family is not GEMMA3 and any(kind != "full_attention" for kind in kinds):
        raise _unlike(config, f"layers {kinds}", "full attention in all")


def _check_gemma(config: JsonObject, size: Dimensions) -> None:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if key in config:
            raise _unlike(config, f"`{key}`", "none")
    if config.flag("use_bidirectional_attention", False):
        raise _unlike(config, "attention in both directions", "causal attention")
    scalar = config.number("query_pre_attn_scalar", float(size.head))
    if scalar != size.head:
        raise _unlike(config, f"`query_pre_attn_scalar` {scalar:g}", f"head_dim, {size.head}")
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        if config.integer(key, GEMMA_PATTERN) != GEMMA_PATTERN:
            raise _unlike(config, f"`{key}` {config.raw(key)}", str(GEMMA_PATTERN))
    expected = [
        "full_attention" if number % GEMMA_PATTERN == 0 else "sliding_attention"
        for number in range(1, size.layers + 1)
    ]
    if "layer_types" in config and config.array("layer_types") != expected:
        raise _unlike(
            config, f"`layer_types` {config.array('layer_types')}", "every sixth layer global"
        )


def _unlike(config: JsonObject, found: str, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"{config.where}: {found} cannot be represented.",
        why=f"llama.cpp computes this family with {expected}.",
        reason="UNSUPPORTED_FEATURE",
    )


def _rope(config: JsonObject, family: Family) -> Rope:
    nested = config.child("rope_parameters")
    if "full_attention" in nested:
        nested = nested.child("full_attention")
    scaling = nested if "rope_parameters" in config else config.child("rope_scaling")
    theta = nested.number("rope_theta", config.number("rope_theta", family.rope_theta))
    if "rope_theta" in config and config.number("rope_theta") != theta:
        raise InvalidRequest(
            f"{config.where} contradicts itself: `rope_theta` is {config.number('rope_theta'):g}, "
            f"and {theta:g} in `rope_parameters`.",
            why="Transformers 4 reads the one, Transformers 5 the other; the model was trained "
            "with one of them.",
            fix="Keep the one of the model's publisher.",
        )
    if scaling.number("partial_rotary_factor", 1.0) != 1:
        raise _unlike(config, "a partial rotation", "whole heads rotated")
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, kind, scaling.number("factor"))
    if kind == "llama3" and family is LLAMA:
        return Rope(
            theta,
            kind,
            scaling.number("factor"),
            scaling.number("low_freq_factor"),
            scaling.number("high_freq_factor"),
            scaling.integer("original_max_position_embeddings"),
        )
    raise _unlike(config, f"rope type {kind!r}", "rope types default and linear")


def _local_rope(config: JsonObject) -> Rope:
    nested = config.child("rope_parameters").child("sliding_attention")
    if nested.text("rope_type", "default") != "default":
        raise _unlike(config, "scaled rope in sliding layers", "plain rope in those")
    return Rope(nested.number("rope_theta", config.number("rope_local_base_freq", 10_000.0)))
