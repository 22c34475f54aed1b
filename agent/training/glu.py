"""The gated unit of the feed-forward: out = activation(gate) * up, element by element.

Its operands are a layer's widest tensors. They stay in the data type of the products, as those
left them; the arithmetic is float32, on so few rows at a time that they stay in the cache, and
nothing as wide is ever made in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_ROWS = 16
_TANH = "tanh"


class Glu:
    """``activation``: "silu" or "gelu_pytorch_tanh", as in Transformers' configurations."""

    def __init__(self, width: int, activation: str, device: torch.device) -> None:
        self._gelu = activation != "silu"
        self._buffers = torch.empty(4, _ROWS, width, device=device)

    def forward(self, gate: Tensor, up: Tensor, out: Tensor) -> None:
        """All (tokens, width)."""
        for rows in _blocks(len(gate)):
            g, u, active, _ = self._buffers[:, : rows.stop - rows.start]
            g.copy_(gate[rows])
            u.copy_(up[rows])
            self._activate(g, active)
            out[rows].copy_(active.mul_(u))

    def backward(self, gate: Tensor, up: Tensor, gradient: Tensor) -> None:
        """``gradient`` is with respect to ``out``; gate and up become theirs, in place."""
        for rows in _blocks(len(gate)):
            g, u, active, upstream = self._buffers[:, : rows.stop - rows.start]
            g.copy_(gate[rows])
            u.copy_(up[rows])
            upstream.copy_(gradient[rows])
            self._activate(g, active)
            up[rows].copy_(active.mul_(upstream))
            gate[rows].copy_(self._activate_back(upstream.mul_(u), g, active))

    def _activate(self, x: Tensor, out: Tensor) -> None:
        if self._gelu:
            torch.ops.aten.gelu.out(x, approximate=_TANH, out=out)
        else:
            torch.ops.aten.silu.out(x, out=out)

    def _activate_back(self, gradient: Tensor, x: Tensor, out: Tensor) -> Tensor:
        if self._gelu:
            torch.ops.aten.gelu_backward.grad_input(gradient, x, approximate=_TANH, grad_input=out)
        else:
            torch.ops.aten.silu_backward.grad_input(gradient, x, grad_input=out)
        return out


def _blocks(tokens: int) -> Iterator[slice]:
    for first in range(0, tokens, _ROWS):
        yield slice(first, min(first + _ROWS, tokens))
