"""The numbers that llama.cpp builds the graph from, under GGUF's keys."""

import math
from collections.abc import Iterator

import gguf
import numpy as np
import numpy.typing as npt

from artifacts.convert.config import ModelConfig
from artifacts.convert.gguf_file import OutputTensor, Slice


def add_hyperparameters(header: gguf.GGUFWriter, config: ModelConfig) -> None:
    size = config.size
    header.add_vocab_size(size.vocabulary)
    header.add_context_length(config.context_length)
    header.add_embedding_length(size.hidden)
    header.add_block_count(size.layers)
    header.add_feed_forward_length(size.feed_forward)
    header.add_head_count(size.heads)
    header.add_head_count_kv(size.kv_heads)
    # Without these llama.cpp takes hidden / heads, which Gemma and Qwen 3 do not have.
    header.add_key_length(size.head)
    header.add_value_length(size.head)
    header.add_rope_dimension_count(size.head)
    header.add_layer_norm_rms_eps(config.norm_epsilon)
    header.add_rope_freq_base(config.rope.theta)
    if config.rope.kind == "linear":
        header.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        header.add_rope_scaling_factor(config.rope.factor)
    if config.sliding_window is not None:
        header.add_sliding_window(config.sliding_window)
    if config.local_rope is not None:
        header.add_rope_freq_base_swa(config.local_rope.theta)


def rope_factors(config: ModelConfig) -> OutputTensor | None:
    """Llama 3.1's stretched context: a divisor for each frequency, as a tensor of the model."""
    if config.rope.kind != "llama3":
        return None
    factors = _llama3_factors(config)

    def slices() -> Iterator[Slice]:
        yield factors

    kind = gguf.GGMLQuantizationType.F32
    return OutputTensor("rope_freqs.weight", factors.shape, kind, slices)


def _llama3_factors(config: ModelConfig) -> npt.NDArray[np.float32]:
    """Short waves stay, long ones are stretched by ``factor``, those between are blended."""
    rope, head = config.rope, config.size.head
    wavelengths = 2 * math.pi * rope.theta ** (np.arange(0, head, 2, dtype=np.float64) / head)
    turns = rope.original_context / wavelengths
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - blend) / rope.factor + blend)).astype(np.float32)
