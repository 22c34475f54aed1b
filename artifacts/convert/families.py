"""What differs between the model families: the names, shapes and conventions of their weights.

The same decoder layer goes by two sets of names. The table below gives both, with the shape, for
every tensor that a family has, so that a checkpoint with one tensor more, one less, or one of
another shape is refused here instead of being served as noise later. Two conventions change the
numbers themselves:

- Gemma's norm multiplies by (1 + w) and llama.cpp's by w: the stored weight is w + 1.
- Hugging Face rotates the two halves of a head against each other. For `llama`, llama.cpp rotates
  neighbouring pairs, so the rows of query and key are interleaved per head. The others are not.

Leaving out either gives a file that loads and talks nonsense (logits off by 5 to 7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from protos.errors import InvalidRequest

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dimensions:
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int

    @property
    def query(self) -> int:
        return self.heads * self.head

    @property
    def key(self) -> int:
        return self.kv_heads * self.head


def scale_name(matrix: str) -> str:
    """Of a qint8 matrix's row scales in the file: ``blk.0.attn_q.scale`` of ``….weight``."""
    return matrix.removesuffix(".weight") + ".scale"


class Change(Enum):
    """What happens to a tensor's numbers on the way."""

    NONE = "none"
    PLUS_ONE = "norm weight + 1"
    INTERLEAVE = "halves of each head to neighbouring pairs"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor by its two names. ``rows_together`` must not be split between slices of rows."""

    source: str
    target: str
    shape: tuple[int, ...]
    change: Change = Change.NONE
    rows_together: int = 1

    def apply(self, rows: Rows) -> Rows:
        if self.change is Change.PLUS_ONE:
            shifted: Rows = rows + np.float32(1)
            return shifted
        if self.change is Change.INTERLEAVE:
            halves = rows.reshape(-1, 2, self.rows_together // 2, *rows.shape[1:])
            pairs: Rows = halves.swapaxes(1, 2).reshape(rows.shape)
            return pairs
        return rows

    def undo(self, rows: Rows) -> Rows:
        """The checkpoint's numbers from the file's."""
        if self.change is Change.PLUS_ONE:
            shifted: Rows = rows - np.float32(1)
            return shifted
        if self.change is Change.INTERLEAVE:
            pairs = rows.reshape(-1, self.rows_together // 2, 2, *rows.shape[1:])
            halves: Rows = pairs.swapaxes(1, 2).reshape(rows.shape)
            return halves
        return rows


# (name in the checkpoint, name in the file, shape in the words of Dimensions)
_Row = tuple[str, str, tuple[str, ...]]

_ATTENTION: tuple[_Row, ...] = (
    ("input_layernorm.weight", "attn_norm.weight", ("hidden",)),
    ("self_attn.q_proj.weight", "attn_q.weight", ("query", "hidden")),
    ("self_attn.k_proj.weight", "attn_k.weight", ("key", "hidden")),
    ("self_attn.v_proj.weight", "attn_v.weight", ("key", "hidden")),
    ("self_attn.o_proj.weight", "attn_output.weight", ("hidden", "query")),
)
_FEED_FORWARD: tuple[_Row, ...] = (
    ("mlp.gate_proj.weight", "ffn_gate.weight", ("feed_forward", "hidden")),
    ("mlp.up_proj.weight", "ffn_up.weight", ("feed_forward", "hidden")),
    ("mlp.down_proj.weight", "ffn_down.weight", ("hidden", "feed_forward")),
)
_TWO_NORMS: tuple[_Row, ...] = (
    ("post_attention_layernorm.weight", "ffn_norm.weight", ("hidden",)),
)
_FOUR_NORMS: tuple[_Row, ...] = (
    ("post_attention_layernorm.weight", "post_attention_norm.weight", ("hidden",)),
    ("pre_feedforward_layernorm.weight", "ffn_norm.weight", ("hidden",)),
    ("post_feedforward_layernorm.weight", "post_ffw_norm.weight", ("hidden",)),
)
_HEAD_NORMS: tuple[_Row, ...] = (
    ("self_attn.q_norm.weight", "attn_q_norm.weight", ("head",)),
    ("self_attn.k_norm.weight", "attn_k_norm.weight", ("head",)),
)
_BIASES: tuple[_Row, ...] = (
    ("self_attn.q_proj.bias", "attn_q.bias", ("query",)),
    ("self_attn.k_proj.bias", "attn_k.bias", ("key",)),
    ("self_attn.v_proj.bias", "attn_v.bias", ("key",)),
)


@dataclass(frozen=True, slots=True)
class Family:
    """``architecture`` is llama.cpp's word, ``model_type`` Transformers'."""

    architecture: str
    model_type: str
    activation: str
    rope_theta: float  # where a configuration leaves it to the class
    layer: tuple[_Row, ...]
    norm_change: Change = Change.NONE
    rope_change: Change = Change.NONE

    def tensors(self, size: Dimensions, *, head: bool) -> Iterator[TensorSpec]:
        """Every tensor of a model; ``head`` when its output matrix is not the embedding."""
        yield TensorSpec(
            "model.embed_tokens.weight", "token_embd.weight", (size.vocabulary, size.hidden)
        )
        for number in range(size.layers):
            for row in self.layer:
                yield self._spec(row, size, f"model.layers.{number}.", f"blk.{number}.")
        yield self._spec(("norm.weight", "output_norm.weight", ("hidden",)), size, "model.", "")
        if head:
            yield TensorSpec("lm_head.weight", "output.weight", (size.vocabulary, size.hidden))

    def _spec(self, row: _Row, size: Dimensions, before: str, after: str) -> TensorSpec:
        source, target, words = row
        shape = tuple(int(getattr(size, word)) for word in words)
        change = Change.NONE
        if "norm" in target:
            change = self.norm_change
        elif target.startswith(("attn_q.", "attn_k.")):
            change = self.rope_change
        together = size.head if change is Change.INTERLEAVE else 1
        return TensorSpec(before + source, after + target, shape, change, together)


GEMMA3 = Family(
    architecture="gemma3",
    model_type="gemma3_text",
    activation="gelu_pytorch_tanh",
    rope_theta=1_000_000.0,
    layer=(*_ATTENTION, *_HEAD_NORMS, *_FOUR_NORMS, *_FEED_FORWARD),
    norm_change=Change.PLUS_ONE,
)
QWEN2 = Family(
    architecture="qwen2",
    model_type="qwen2",
    activation="silu",
    rope_theta=10_000.0,
    layer=(*_ATTENTION, *_BIASES, *_TWO_NORMS, *_FEED_FORWARD),
)
QWEN3 = Family(
    architecture="qwen3",
    model_type="qwen3",
    activation="silu",
    rope_theta=10_000.0,
    layer=(*_ATTENTION, *_HEAD_NORMS, *_TWO_NORMS, *_FEED_FORWARD),
)
LLAMA = Family(
    architecture="llama",
    model_type="llama",
    activation="silu",
    rope_theta=10_000.0,
    layer=(*_ATTENTION, *_TWO_NORMS, *_FEED_FORWARD),
    rope_change=Change.INTERLEAVE,
)
FAMILIES = (GEMMA3, QWEN2, QWEN3, LLAMA)


def by_model_type(model_type: str, where: str) -> Family:
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    raise InvalidRequest(
        f"{where}: models of type {model_type!r} are not supported.",
        why=f"Supported are {', '.join(family.model_type for family in FAMILIES)}.",
        reason="UNKNOWN_ARCHITECTURE",
    )


def by_architecture(architecture: str, where: str) -> Family:
    for family in FAMILIES:
        if family.architecture == architecture:
            return family
    raise InvalidRequest(
        f"{where}: models of architecture {architecture!r} are not supported.",
        why=f"Supported are {', '.join(family.architecture for family in FAMILIES)}.",
        fix="Use a base model of one of these.",
        reason="UNKNOWN_ARCHITECTURE",
    )
