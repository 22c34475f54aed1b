"""Causal attention within the segments of a pack, forward and backward, some rows at a time.

    S = scale * Q Kᵀ    P = softmax(S)    O = P V                       for the rows of some queries
    dV = Pᵀ dO    dP = dO Vᵀ    dS = scale * P * (dP - rowsum(dP * P))    dQ = dS K    dK = dSᵀ Q

torch's fused kernel takes a head at a time, in float32 or not: at a micro-step's few hundred tokens
and with the few key heads of these models it is four times slower than plain products in which all
query heads of a key head are rows. A block sees the keys up to its end and not those that
its window has left, so memory grows with the tokens, not with their square. P is computed again in
backward. Scores are products in float32 whatever the data type of the others: what softmax takes
the exponential of must not be rounded to 8 bits.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# First and last (exclusive) token of a sample among those that share a micro-step.
Segment = tuple[int, int]

# Queries at a time: enough for a fast product, few enough to skip what lies in the future.
BLOCK = 64


class Attention:
    """Of one layer. Query is (key heads, tokens, group, head): the heads that share a key; key and
    value are (key heads, tokens, head). ``window``: a token sees so many, itself included, of its
    own segment before it; None: all."""

    def __init__(self, head: int, window: int | None) -> None:
        self.head = head
        self._scale = head**-0.5
        self._window = window

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        segments: Sequence[Segment],
        place: "Scores",
        out: Tensor,
    ) -> None:
        """To ``out``, as query's shape. Query and key are float32, value and out the products'."""
        for first, last, keys in self._blocks(segments):
            weights = self._weights(query, key, first, last, keys, place)
            mixed = place.narrow(weights) @ value[:, keys:last]
            out[:, first:last].copy_(mixed.view_as(query[:, first:last]))

    def backward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        gradient: Tensor,
        segments: Sequence[Segment],
        place: "Scores",
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, key and value, float32, from that of ``out``."""
        query_gradient, key_gradient, value_gradient = (
            torch.zeros_like(like) for like in (query, key, key)
        )
        narrow_query, narrow_key = query.to(value.dtype), key.to(value.dtype)
        for first, last, keys in self._blocks(segments):
            weights = self._weights(query, key, first, last, keys, place)
            upstream = _rows(gradient, first, last)
            seen = slice(keys, last)
            value_gradient[:, seen] += place.narrow(weights).mT @ upstream
            slope = place.first(weights.shape).copy_(upstream @ value[:, seen].mT)
            slope.sub_(torch.linalg.vecdot(slope, weights).unsqueeze(-1)).mul_(weights)
            narrow = place.narrow(slope.mul_(self._scale))
            mixed = narrow @ narrow_key[:, seen]
            query_gradient[:, first:last].copy_(mixed.view_as(query[:, first:last]))
            key_gradient[:, seen] += narrow.mT @ _rows(narrow_query, first, last)
        return query_gradient, key_gradient, value_gradient

    def _weights(
        self, query: Tensor, key: Tensor, first: int, last: int, keys: int, place: "Scores"
    ) -> Tensor:
        """P of the queries ``first`` to ``last`` (key heads, tokens * group, keys)."""
        rows = _rows(query, first, last)
        seen = key[:, keys:last]
        scores = place.first((len(key), rows.shape[1], last - keys))
        torch.baddbmm(scores, rows, seen.mT, beta=0, alpha=self._scale, out=scores)
        by_token = scores.view(len(key), last - first, -1, last - keys)
        by_token.masked_fill_(self._unseen(first, last, keys, key.device)[:, None], -torch.inf)
        return torch.softmax(scores, -1, out=place.second(scores.shape))

    def _unseen(self, first: int, last: int, keys: int, device: torch.device) -> Tensor:
        """For each of the queries (its row) which keys lie in its future or behind its window."""
        behind = first - keys
        unseen = torch.ones(last - first, last - keys, dtype=torch.bool, device=device)
        if self._window is None:
            return unseen.triu_(behind + 1)
        return unseen.triu(behind + 1).logical_or_(unseen.tril_(behind - self._window))

    def _blocks(self, segments: Sequence[Segment]) -> Iterator[tuple[int, int, int]]:
        """First and last (exclusive) query of each block, and the first key that it sees."""
        for start, end in segments:
            for first in range(start, end, BLOCK):
                back = 0 if self._window is None else max(start, first - self._window + 1)
                yield first, min(first + BLOCK, end), max(start, back)


class Scores:
    """The place of one block's scores, for blocks of ``heads`` heads that see ``tokens`` keys."""

    def __init__(
        self, heads: int, tokens: int, data_type: torch.dtype, device: torch.device
    ) -> None:
        size = heads * min(BLOCK, tokens) * tokens
        self._exact = torch.empty(2, size, device=device)
        self._narrow = None
        if data_type != torch.float32:
            self._narrow = torch.empty(size, dtype=data_type, device=device)

    def first(self, shape: Sequence[int]) -> Tensor:
        return _view(self._exact[0], shape)

    def second(self, shape: Sequence[int]) -> Tensor:
        return _view(self._exact[1], shape)

    def narrow(self, exact: Tensor) -> Tensor:
        """In the data type of the products; valid until the next."""
        return exact if self._narrow is None else _view(self._narrow, exact.shape).copy_(exact)


def _rows(tensor: Tensor, first: int, last: int) -> Tensor:
    """Tokens ``first`` to ``last`` of (key heads, tokens, group, head), with the group as rows."""
    return tensor[:, first:last].reshape(len(tensor), -1, tensor.shape[-1])


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[: torch.Size(shape).numel()].view(*shape)
