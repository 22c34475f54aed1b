"""Cross-entropy at the labelled positions, without ever holding the logits.

256 positions of a vocabulary of 262,144 are 268 MB in float32, and the usual loss holds them four
times: logits, their softmax, the gradient of both. Here the vocabulary is walked in chunks, once,
keeping for each position the running maximum m, the running sum l of exp(logit - m), and the
running sum of exp(logit - m) * row. At the end

    loss     = m + log l - logit of the target
    gradient = (weighted sum of rows) / l - row of the target

so that loss and gradient come out of the same pass, and backward has nothing left to compute.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agent.training.weights import Weight

# Rows of the head at once: 19 MB of float32 at a width of 1,152.
CHUNK_ROWS = 4096


class ChunkedCrossEntropy(torch.autograd.Function):
    """hidden (positions, columns), head (vocabulary, columns), targets (positions): the summed loss
    in nats."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Weight, targets: Tensor, chunk_rows: int) -> Tensor:
        narrow = hidden.to(head.data_type)
        with_gradient = ctx.needs_input_grad[0]
        maximum = torch.full((len(targets), 1), -torch.inf)
        total = torch.zeros(len(targets), 1)
        target_logits = torch.zeros(len(targets))
        rows_sum = torch.zeros(hidden.shape) if with_gradient else None
        for first in range(0, head.rows, chunk_rows):
            last = min(first + chunk_rows, head.rows)
            rows = head.chunk(first, last)
            logits = functional.linear(narrow, rows).float()
            here = torch.nonzero((targets >= first) & (targets < last)).flatten()
            target_logits[here] = logits[here, targets[here] - first]
            new_maximum = torch.maximum(maximum, logits.amax(1, keepdim=True))
            shrink = torch.exp(maximum - new_maximum)
            exponentials = logits.sub_(new_maximum).exp_()
            total.mul_(shrink).add_(exponentials.sum(1, keepdim=True))
            if rows_sum is not None:
                rows_sum.mul_(shrink).add_(exponentials.to(rows.dtype) @ rows)
            maximum = new_maximum
        if rows_sum is not None:
            ctx.save_for_backward(rows_sum.div_(total).sub_(head.gather(targets)))
        return ((maximum + total.log()).flatten() - target_logits).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (hidden_gradient,) = ctx.saved_tensors
        return hidden_gradient * gradient, None, None, None


_cross_entropy: Callable[[Tensor, Weight, Tensor, int], Tensor] = ChunkedCrossEntropy.apply


def summed_loss(
    hidden: Tensor, head: Weight, targets: Tensor, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """The cross-entropy in nats, summed over the positions."""
    return _cross_entropy(hidden, head, targets, chunk_rows)
