"""Rotary positions (Su et al., 2021): the halves of a head are rotated against each other."""

import torch
from torch import Tensor

from agent.model.configuration import Rope


class Rotary:
    """``head``: the width of one. ``divisors`` (head / 2) of the frequencies stretch the context
    where a model has them (Llama 3)."""

    def __init__(
        self, rope: Rope, head: int, divisors: Tensor | None, device: torch.device
    ) -> None:
        frequencies = (1 / rope.theta ** (torch.arange(0, head, 2).float() / head)).to(device)
        self._frequencies = frequencies / (rope.factor if divisors is None else divisors)
        self._cosines = self._sines = torch.empty(0, device=device)

    def rotate(self, x: Tensor, positions: Tensor) -> None:
        """x (…, tokens, heads, head), in place; each position is less than the tokens are many."""
        self._reach(len(positions))
        self._turn(x, self._cosines[positions], self._sines[positions])

    def rotate_back(self, x: Tensor, positions: Tensor) -> None:
        """The inverse, which is what a gradient takes."""
        self._turn(x, self._cosines[positions], -self._sines[positions])

    def _reach(self, length: int) -> None:
        if len(self._cosines) < length:
            positions = torch.arange(length, device=self._frequencies.device).float()
            angles = positions[:, None] * self._frequencies
            self._cosines, self._sines = angles.cos(), angles.sin()

    @staticmethod
    def _turn(x: Tensor, cosines: Tensor, sines: Tensor) -> None:
        cosines, sines = cosines[:, None], sines[:, None]
        first, second = x.chunk(2, -1)
        turned = first * sines
        first.mul_(cosines).addcmul_(second, sines, value=-1)
        second.mul_(cosines).add_(turned)
