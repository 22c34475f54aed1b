"""A frozen matrix with its bias and, where it is a target, its LoRA.

A product dequantises the matrix, uses it and forgets it, in forward and again in backward: a saved
copy would be the model in floating point. There is no gradient with respect to the frozen weight.
"""

import torch
from torch import Tensor

from agent.training.lora import Lora
from agent.training.weights import Weight


class Projection:
    """``bias``: (rows,). ``interleaved``: the width of a head whose rows the file has as
    neighbouring pairs where Transformers, and so the adapter, has halves; 0 for none. The product
    is put in order, not the weight: that would cost a copy of the matrix."""

    def __init__(self, weight: Weight, bias: Tensor | None = None, interleaved: int = 0) -> None:
        self.weight = weight
        self.lora: Lora | None = None
        self._bias = None if bias is None else bias.to(weight.data_type)
        self._half = interleaved // 2

    def forward(self, x: Tensor, out: Tensor, seed: int | None) -> None:
        """x (tokens, columns) to ``out`` (tokens, rows); both have the products' data type."""
        if self._half:
            product = x @ self.weight.dense().t()
            self.weight.scale(product)
            pairs = product.view(len(x), -1, self._half, 2)
            out.view(len(x), -1, 2, self._half).copy_(pairs.transpose(2, 3))
        else:
            torch.mm(x, self.weight.dense().t(), out=out)
            self.weight.scale(out)
        if self._bias is not None:
            out.add_(self._bias)
        if self.lora is not None:
            self.lora.add(x, out, seed)

    def backward(self, x: Tensor, gradient: Tensor, out: Tensor, seed: int | None) -> None:
        """From the gradient (tokens, rows), which is used up, that of x to ``out`` (tokens,
        columns), and LoRA's. ``x`` and ``seed`` are those of ``forward``."""
        # First, because it needs the gradient as it came, and a copy would be as wide as a layer.
        if self.lora is not None:
            out.zero_()
            self.lora.backward(x, gradient, out, seed)
        if self._half:
            halves = gradient.view(len(gradient), -1, 2, self._half)
            gradient = halves.transpose(2, 3).reshape(gradient.shape)
        self.weight.scale(gradient)
        if self.lora is None:
            torch.mm(gradient, self.weight.dense(), out=out)
        else:
            out.addmm_(gradient, self.weight.dense())
