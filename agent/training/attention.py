"""Causal attention within the segments of a pack, by torch's fused kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# First and last (exclusive) token of a sample among those that share a micro-step.
Segment = tuple[int, int]


def attend(
    query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], window: int | None
) -> Tensor:
    """query (tokens, heads, head), key and value (tokens, key heads, head), as query's shape.

    A token sees those of its own segment before it, the nearest ``window`` of them, itself
    included.
    """
    parts = [
        _segment(query[first:last], key[first:last], value[first:last], window)
        for first, last in segments
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _segment(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    tokens = len(query)
    mask = None
    if window is not None and window < tokens:
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril_().triu_(1 - window)
    attended = scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)
