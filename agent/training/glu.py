"""The gated unit of the feed-forward: out = activation(gate) * up, element by element.

Its operands are a layer's widest tensors. They stay in the data type of the products, as those
left them; the arithmetic is float32, on so few rows at a time that they stay in the cache, and
nothing as wide is ever made in float32.

Both activations are x σ(z). SiLU (Elfwing et al., 2017) has z = x, GELU's approximation by tanh
(Hendrycks and Gimpel, 2016) z = 2 √(2/π) (x + 0.044715 x³), as (1 + tanh y) / 2 = σ(2 y). A
sigmoid takes half the time of a tanh, and one serves the activation and its slope:

    activation' = σ(z) + x σ(z) (1 - σ(z)) z'
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

_ROWS = 16
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


class Glu:
    """``activation``: "silu" or "gelu_pytorch_tanh", as in Transformers' configurations."""

    def __init__(self, width: int, activation: str, device: torch.device) -> None:
        self._gelu = activation != "silu"
        self._linear = torch.tensor(_LINEAR, device=device)
        self._buffers = torch.empty(5, _ROWS, width, device=device)

    def forward(self, gate: Tensor, up: Tensor, out: Tensor) -> None:
        """All (tokens, width)."""
        for rows in _blocks(len(gate)):
            g, u, sigmoid, _, _ = self._buffers[:, : rows.stop - rows.start]
            g.copy_(gate[rows])
            u.copy_(up[rows])
            out[rows].copy_(self._sigmoid(g, sigmoid).mul_(g).mul_(u))

    def backward(self, gate: Tensor, up: Tensor, gradient: Tensor) -> None:
        """``gradient`` is with respect to ``out``; gate and up become theirs, in place."""
        for rows in _blocks(len(gate)):
            g, u, sigmoid, slope, upstream = self._buffers[:, : rows.stop - rows.start]
            g.copy_(gate[rows])
            u.copy_(up[rows])
            upstream.copy_(gradient[rows])
            self._sigmoid(g, sigmoid)
            if self._gelu:
                self._slope(g, 3 * _CUBIC, slope)
            active = g.mul_(sigmoid)
            slope = slope.mul_(active) if self._gelu else slope.copy_(active)
            slope.addcmul_(slope, sigmoid, value=-1).add_(sigmoid)
            up[rows].copy_(active.mul_(upstream))
            gate[rows].copy_(slope.mul_(upstream).mul_(u))

    def _sigmoid(self, x: Tensor, out: Tensor) -> Tensor:
        """σ(z)."""
        if self._gelu:
            return self._slope(x, _CUBIC, out).mul_(x).sigmoid_()
        return torch.sigmoid(x, out=out)

    def _slope(self, x: Tensor, cubic: float, out: Tensor) -> Tensor:
        """z / x with GELU's ``cubic``, z' with three times that."""
        return torch.addcmul(self._linear, x, x, value=cubic, out=out)


def _blocks(tokens: int) -> Iterator[slice]:
    for first in range(0, tokens, _ROWS):
        yield slice(first, min(first + _ROWS, tokens))
