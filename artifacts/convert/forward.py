"""What a checkpoint computes, in NumPy and a few rows at a time: the reference that a file is held
against.

It follows Transformers' classes, in their conventions and in float32, and shares with the converter
only the reading of config.json and the table of names: what the converter changes on the way (norms
plus one, interleaved heads, rotary divisors) is not in here. A matrix never stands in memory as a
whole, so a model of any size is computed in the memory of its activations.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from artifacts.convert.config import GEMMA_PATTERN, ModelConfig, Rope
from artifacts.convert.families import GEMMA3, Rows, TensorSpec

# Of float32, in the rows of a matrix that are multiplied at once.
_SLICE_BYTES = 8 << 20
_NOTHING = np.float32(-np.inf)

Mask = npt.NDArray[np.bool_]


class Weights(Protocol):
    """Rows ``first`` to ``last`` of a tensor (of a vector: elements), in the checkpoint's form."""

    def rows(self, spec: TensorSpec, first: int, last: int) -> Rows: ...


class Forward:
    """A model of ``config``; ``tied`` when its output matrix is the embedding."""

    def __init__(self, config: ModelConfig, weights: Weights, *, tied: bool) -> None:
        self._config = config
        self._weights = weights
        specs = config.family.tensors(config.size, head=not tied)
        self._specs = {spec.source: spec for spec in specs}
        self._head = "model.embed_tokens.weight" if tied else "lm_head.weight"

    def logits(self, tokens: Sequence[int]) -> Rows:
        """(tokens, vocabulary)."""
        config = self._config
        embedding = self._specs["model.embed_tokens.weight"]
        hidden = np.concatenate(
            [self._weights.rows(embedding, token, token + 1) for token in tokens]
        )
        if config.family is GEMMA3:
            hidden = hidden * np.float32(math.sqrt(config.size.hidden))
        for number in range(config.size.layers):
            hidden = self._layer(hidden, number)
        return self._product(self._norm(hidden, "model.norm"), self._head)

    def _layer(self, hidden: Rows, number: int) -> Rows:
        place = f"model.layers.{number}"
        gemma = self._config.family is GEMMA3
        mixed = self._attention(self._norm(hidden, f"{place}.input_layernorm"), number)
        after = f"{place}.post_attention_layernorm"
        hidden = hidden + (self._norm(mixed, after) if gemma else mixed)
        before = f"{place}.pre_feedforward_layernorm" if gemma else after
        changed = self._feed_forward(self._norm(hidden, before), f"{place}.mlp")
        if gemma:
            changed = self._norm(changed, f"{place}.post_feedforward_layernorm")
        return hidden + changed

    def _attention(self, hidden: Rows, number: int) -> Rows:
        size, place = self._config.size, f"model.layers.{number}.self_attn"
        count = len(hidden)
        query = self._product(hidden, f"{place}.q_proj.weight").reshape(count, size.heads, -1)
        key = self._product(hidden, f"{place}.k_proj.weight").reshape(count, size.kv_heads, -1)
        value = self._product(hidden, f"{place}.v_proj.weight").reshape(count, size.kv_heads, -1)
        if f"{place}.q_norm.weight" in self._specs:
            query = self._norm(query, f"{place}.q_norm")
            key = self._norm(key, f"{place}.k_norm")
        rope, window = self._kind(number)
        query, key = _rotated(query, rope), _rotated(key, rope)
        seen = _seen(count, window)
        mixed = np.empty((count, size.heads, size.head), np.float32)
        shared = size.heads // size.kv_heads
        for head in range(size.heads):
            scores = query[:, head] @ key[:, head // shared].T * np.float32(size.head**-0.5)
            mixed[:, head] = _softmax(np.where(seen, scores, _NOTHING)) @ value[:, head // shared]
        return self._product(mixed.reshape(count, -1), f"{place}.o_proj.weight")

    def _feed_forward(self, hidden: Rows, place: str) -> Rows:
        gate = self._product(hidden, f"{place}.gate_proj.weight")
        gate = _gelu(gate) if self._config.family is GEMMA3 else gate / (1 + np.exp(-gate))
        gate *= self._product(hidden, f"{place}.up_proj.weight")
        return self._product(gate, f"{place}.down_proj.weight")

    def _kind(self, number: int) -> tuple[Rope, int | None]:
        """The rotary positions of a layer, and its window."""
        local = self._config.local_rope
        if local is None or (number + 1) % GEMMA_PATTERN == 0:
            return self._config.rope, None
        return local, self._config.sliding_window

    def _norm(self, hidden: Rows, name: str) -> Rows:
        scale = self._vector(f"{name}.weight")
        if self._config.family is GEMMA3:
            scale = 1 + scale
        square = np.square(hidden).mean(-1, keepdims=True, dtype=np.float32)
        normed: Rows = hidden / np.sqrt(square + np.float32(self._config.norm_epsilon)) * scale
        return normed

    def _product(self, hidden: Rows, name: str) -> Rows:
        spec = self._specs[name]
        rows, columns = spec.shape
        together = spec.rows_together
        step = max(1, _SLICE_BYTES // (4 * columns) // together) * together
        product = np.empty((len(hidden), rows), np.float32)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            product[:, first:last] = hidden @ self._weights.rows(spec, first, last).T
        bias = name.removesuffix(".weight") + ".bias"
        if bias in self._specs:
            product += self._vector(bias)
        return product

    def _vector(self, name: str) -> Rows:
        spec = self._specs[name]
        return self._weights.rows(spec, 0, spec.shape[0])


def _rotated(heads: Rows, rope: Rope) -> Rows:
    """(tokens, heads, width) with the two halves of each head turned against each other."""
    half = heads.shape[-1] // 2
    angles = np.arange(len(heads))[:, None] * _frequencies(rope, half)
    cos, sin = (part(angles).astype(np.float32)[:, None] for part in (np.cos, np.sin))
    first, second = heads[..., :half], heads[..., half:]
    turned: Rows = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    return turned


def _frequencies(rope: Rope, half: int) -> npt.NDArray[np.float64]:
    plain: npt.NDArray[np.float64] = rope.theta ** -(np.arange(half) / half)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind != "llama3":
        return plain
    # As Transformers writes it: short waves stay, long ones are stretched, the rest is blended.
    turns = rope.original_context * plain / (2 * math.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    share = (turns - low) / (high - low)
    blended = (1 - share) * plain / rope.factor + share * plain
    return np.where(turns < low, plain / rope.factor, np.where(turns > high, plain, blended))


def _seen(count: int, window: int | None) -> Mask:
    """(query, key): what came before, itself included; of that the last ``window``."""
    ago = np.arange(count)[:, None] - np.arange(count)
    seen: Mask = (ago >= 0) & (ago < (window or count))
    return seen


def _softmax(scores: Rows) -> Rows:
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    normed: Rows = shares / shares.sum(-1, keepdims=True)
    return normed


def _gelu(values: Rows) -> Rows:
    inner = np.float32(math.sqrt(2 / math.pi)) * (values + np.float32(0.044715) * values**3)
    activated: Rows = np.float32(0.5) * values * (1 + np.tanh(inner))
    return activated
