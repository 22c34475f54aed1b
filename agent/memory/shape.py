"""The sizes in a base model that decide how much memory it needs.

They are read from the shapes of its tensors, which are the same for every family, rather than from
metadata keys, which are not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from artifacts.base_model import BaseModel
from protos.errors import InvalidRequest

# Projections by their Transformers names, as a recipe gives them, and as GGUF names them.
PROJECTIONS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    # Width of all query heads together, and of all key heads.
    query: int
    key_value: int
    vocabulary: int
    # Whether the embedding is the output matrix, too.
    tied: bool
    weights_bytes: int
    # Rows and columns of each projection, by its Transformers name.
    projections: Mapping[str, tuple[int, int]]

    @property
    def matrix_elements(self) -> int:
        """Of all matrices: what the model is, but for its norms."""
        layer = sum(rows * columns for rows, columns in self.projections.values())
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + ends

    @property
    def largest_matrix(self) -> int:
        """Elements of the largest projection; the embedding is only ever read in slices."""
        return max(rows * columns for rows, columns in self.projections.values())

    def lora_parameters(self, targets: frozenset[str], rank: int) -> int:
        """A pair of matrices of this rank beside each target of each layer."""
        sides = (sum(shape) for name, shape in self.projections.items() if name in targets)
        return self.layers * rank * sum(sides)


def shape_of(model: BaseModel) -> Shape:
    """Raises InvalidRequest when the model is no decoder of the families that are supported."""
    projections = {
        name: _matrix(model, f"blk.0.{gguf}.weight") for name, gguf in PROJECTIONS.items()
    }
    vocabulary, hidden = _matrix(model, "token_embd.weight")
    return Shape(
        layers=model.block_count,
        hidden=hidden,
        feed_forward=projections["gate_proj"][0],
        heads=_heads(model),
        query=projections["q_proj"][0],
        key_value=projections["k_proj"][0],
        vocabulary=vocabulary,
        tied="output.weight" not in model.tensors,
        weights_bytes=model.size_bytes,
        projections=projections,
    )


def _heads(model: BaseModel) -> int:
    """The one size that no tensor shows."""
    found = model.metadata.get(f"{model.architecture}.attention.head_count")
    return found if isinstance(found, int) else 1


def _matrix(model: BaseModel, name: str) -> tuple[int, int]:
    tensor = model.tensors.get(name)
    if tensor is None or len(tensor.shape) != 2:
        raise InvalidRequest(
            f"The base model {model.name} has no matrix {name}.",
            why="Memory is forecast for decoders of the Gemma 3, Qwen and Llama families.",
            fix="Use a model of one of these families.",
        )
    rows, columns = tensor.shape
    return rows, columns
