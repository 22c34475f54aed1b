"""All memory that a micro-step computes in, taken once.

Memory that is asked for and freed for each tensor does not come back whole: with a 1B model's
shape the allocator's holes cost a quarter of a gigabyte and 0.7 million page faults a sample. Here
each tensor has its place from the start, so a training's memory is a sum that can be forecast.

What is kept of a layer for backward: its input, and the products as wide as the hidden state. The
two wide ones of the feed-forward are computed again, except for the stored layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.training.attention import Scores, Segment
from artifacts.convert.families import Dimensions


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one layer, from forward to backward: (tokens, width) each. ``attended`` and ``fed`` are
    the products that leave attention and feed-forward, before a norm. ``wide``: whether gate and
    up are this layer's own."""

    hidden: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    attended: Tensor
    fed: Tensor
    gate: Tensor
    up: Tensor
    wide: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """One micro-step's place in the workspace: the leading rows of every tensor.

    ``gradient`` to ``raw`` are float32, all others have the products' data type.
    """

    segments: Sequence[Segment]
    positions: Tensor
    layers: Sequence[Kept]
    last_hidden: Tensor
    # (tokens, hidden)
    gradient: Tensor
    between: Tensor
    total: Tensor
    raw: Tensor
    normed: Tensor
    narrow: Tensor
    # (tokens, feed forward)
    wide: Tensor
    fed_by: Tensor
    # (tokens, width of the heads)
    attended: Tensor
    query_gradient: Tensor
    key_gradient: Tensor
    value_gradient: Tensor
    scores: Scores


class Workspace:
    """For micro-steps of up to ``tokens`` tokens; the deepest ``stored_layers`` keep all."""

    def __init__(
        self,
        size: Dimensions,
        tokens: int,
        data_type: torch.dtype,
        stored_layers: int,
        device: torch.device,
    ) -> None:
        def exact(*shape: int) -> Tensor:
            return torch.empty(shape, device=device)

        def product(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=data_type, device=device)

        self.tokens = tokens
        self._device = device
        self._first_stored = size.layers - min(stored_layers, size.layers)
        self._hidden = exact(size.layers + 1, tokens, size.hidden)
        self._query = product(size.layers, tokens, size.query)
        self._key_value = product(2, size.layers, tokens, size.key)
        self._leaving = product(2, size.layers, tokens, size.hidden)
        # The first pair is that of all layers that are not stored.
        stored = size.layers - self._first_stored
        self._gate_up = product(1 + stored, 2, tokens, size.feed_forward)
        self._wide = product(2, tokens, size.feed_forward)
        self._exact = exact(4, tokens, size.hidden)
        self._narrow = product(2, tokens, size.hidden)
        self._query_wide = product(2, tokens, size.query)
        self._key_wide = product(2, tokens, size.key)
        self._scores = Scores(size.heads, tokens, data_type, device)

    def begin(self, lengths: Sequence[int]) -> Pass:
        """For samples of these lengths, after each other; their sum is at most ``tokens``."""
        ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
        rows = slice(0, ends[-1])
        return Pass(
            segments=[(end - length, end) for length, end in zip(lengths, ends, strict=True)],
            positions=torch.cat([torch.arange(length) for length in lengths]).to(self._device),
            layers=[self._kept(number, rows) for number in range(len(self._query))],
            last_hidden=self._hidden[-1, rows],
            gradient=self._exact[0, rows],
            between=self._exact[1, rows],
            total=self._exact[2, rows],
            raw=self._exact[3, rows],
            normed=self._narrow[0, rows],
            narrow=self._narrow[1, rows],
            wide=self._wide[0, rows],
            fed_by=self._wide[1, rows],
            attended=self._query_wide[0, rows],
            query_gradient=self._query_wide[1, rows],
            key_gradient=self._key_wide[0, rows],
            value_gradient=self._key_wide[1, rows],
            scores=self._scores,
        )

    def _kept(self, number: int, rows: slice) -> Kept:
        wide = number >= self._first_stored
        pair = self._gate_up[1 + number - self._first_stored if wide else 0, :, rows]
        return Kept(
            hidden=self._hidden[number, rows],
            query=self._query[number, rows],
            key=self._key_value[0, number, rows],
            value=self._key_value[1, number, rows],
            attended=self._leaving[0, number, rows],
            fed=self._leaving[1, number, rows],
            gate=pair[0],
            up=pair[1],
            wide=wide,
        )
