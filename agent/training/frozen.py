"""Frozen modules that take the places of Linear and Embedding in Transformers' graph.

They hold no parameters: a product dequantises its weight, uses it and forgets it, in forward and
again in backward, because a saved copy would be the model in floating point. The gradient with
respect to the weight does not exist here; LoRA's own products stay with autograd.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent.training.weights import Weight


class FrozenProduct(torch.autograd.Function):
    """hidden (…, columns) times weight (rows, columns) transposed; only hidden has a gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Weight) -> Tensor:
        ctx.weight = weight
        product = functional.linear(hidden.to(weight.data_type), weight.dense())
        return product.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        weight: Weight = ctx.weight
        product = gradient.to(weight.data_type) @ weight.dense()
        return product.to(gradient.dtype), None


_frozen_product: Callable[[Tensor, Weight], Tensor] = FrozenProduct.apply


class FrozenLinear(nn.Linear):
    """An nn.Linear by type, so that PEFT adapts it, but with its weight in the mapped file.

    ``bias``: (rows,), frozen. ``interleaved``: the width of a head whose rows the file has as
    neighbouring pairs where Transformers has halves, 0 for none. The product is put in order, not
    the weight: that would cost a copy of the matrix.
    """

    def __init__(self, weight: Weight, bias: Tensor | None = None, interleaved: int = 0) -> None:
        nn.Module.__init__(self)
        self.in_features = weight.columns
        self.out_features = weight.rows
        frozen = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", frozen)
        self.source = weight
        self._interleaved = interleaved
        # PEFT asks the weight for its shape, device and type. One number stands for all.
        stand_in = torch.zeros(1).expand(weight.rows, weight.columns)
        self.register_buffer("weight", stand_in, persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        product = _frozen_product(input, self.source)
        if self._interleaved:
            pairs = product.view(*product.shape[:-1], -1, self._interleaved // 2, 2)
            product = pairs.transpose(-1, -2).flatten(-3)
        return product if self.bias is None else product + self.bias


class FrozenEmbedding(nn.Module):
    """Rows of the mapped matrix, times ``scale``."""

    def __init__(self, weight: Weight, scale: float) -> None:
        super().__init__()
        self.source = weight
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.source.gather(tokens.reshape(-1)).mul_(self.scale)
        return rows.view(*tokens.shape, self.source.columns)
