"""LoRA (Hu et al., 2021): a trained product of two thin matrices beside a frozen one.

    y = W x + scale * B A dropout(x)        scale: alpha / rank, or alpha / sqrt(rank) for rsLoRA

The matrices are kept in float32 and multiplied in the data type of the frozen products, as x is.
"""

import math

import torch
from torch import Tensor, nn

from protos.nanofleet.v1 import job_pb2


def scale(lora: job_pb2.LoraSpec) -> float:
    return lora.alpha / (math.sqrt(lora.rank) if lora.rank_stabilized else lora.rank)


class Lora:
    """``a``: (rank, columns), ``b``: (rows, rank). A starts as PEFT's does, from torch's global
    generator of the processor, whatever the device; B at zero."""

    def __init__(
        self, rows: int, columns: int, spec: job_pb2.LoraSpec, device: torch.device
    ) -> None:
        start = nn.init.kaiming_uniform_(torch.empty(spec.rank, columns), a=math.sqrt(5))
        self.a = nn.Parameter(start.to(device))
        self.b = nn.Parameter(torch.zeros(rows, spec.rank, device=device))
        self._scale = scale(spec)
        self._dropout = spec.dropout

    def add(self, x: Tensor, out: Tensor, seed: int | None) -> None:
        """Adds its product with x (tokens, columns) to ``out`` (tokens, rows). ``seed`` decides
        what is dropped; None: nothing is."""
        low = self._dropped(x, seed) @ self._like(self.a, x).t()
        out.addmm_(low, self._like(self.b, x).t(), alpha=self._scale)

    def backward(self, x: Tensor, gradient: Tensor, out: Tensor, seed: int | None) -> None:
        """``gradient`` (tokens, rows) is with respect to the product: sums up A's and B's, and adds
        x's to ``out`` (tokens, columns). ``seed`` is that of ``add``."""
        a, b, seen = self._like(self.a, x), self._like(self.b, x), self._dropped(x, seed)
        low_gradient = (gradient @ b).mul_(self._scale)
        _sum_up(self.b, (gradient.t() @ (seen @ a.t())).float().mul_(self._scale))
        _sum_up(self.a, (low_gradient.t() @ seen).float())
        if seen is x:
            out.addmm_(low_gradient, a)
        else:
            out.add_(self._dropped(low_gradient @ a, seed))

    def _dropped(self, x: Tensor, seed: int | None) -> Tensor:
        if seed is None or self._dropout == 0:
            return x
        kept = torch.empty_like(x)
        kept.bernoulli_(1 - self._dropout, generator=torch.Generator(x.device).manual_seed(seed))
        return kept.mul_(x).div_(1 - self._dropout)

    @staticmethod
    def _like(matrix: Tensor, x: Tensor) -> Tensor:
        return matrix.detach().to(x.dtype)


def _sum_up(parameter: nn.Parameter, gradient: Tensor) -> None:
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad.add_(gradient)
