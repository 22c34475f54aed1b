"""RMSNorm (Zhang and Sennrich, 2019): y = x * r * weight, r = 1 / sqrt(mean(x²) + ε)."""

import torch
from torch import Tensor


class Norm:
    """Over the last dimension, in float32. ``weight``: (width,), frozen."""

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight = weight
        self._epsilon = epsilon

    def forward(self, x: Tensor, out: Tensor) -> None:
        """``x`` is float32; ``out`` may be x itself."""
        torch.mul(x, self._inverse_root(x), out=out)
        out.mul_(self._weight)

    def backward(self, x: Tensor, gradient: Tensor) -> None:
        """Turns the gradient with respect to y, in place, into the one with respect to x:

        r * (g * weight) - x * r³ * mean(g * weight * x)
        """
        root = self._inverse_root(x)
        gradient.mul_(self._weight)
        along = torch.linalg.vecdot(gradient, x).unsqueeze(-1)
        gradient.mul_(root).addcmul_(x, along.mul_(root**3), value=-1 / x.shape[-1])

    def _inverse_root(self, x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length.square_().div_(x.shape[-1]).add_(self._epsilon).rsqrt_()
