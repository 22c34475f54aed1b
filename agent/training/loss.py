"""Cross-entropy at the labelled positions, without ever holding the logits.

256 positions of a vocabulary of 262,144 are 268 MB in float32, and the usual loss holds them four
times: logits, their softmax, the gradient of both. Here the vocabulary is walked in chunks, once,
keeping for each position the running maximum m, the running sum l of exp(logit - m), and the
running sum of exp(logit - m) * row. At the end

    loss     = m + log l - logit of the target
    gradient = (weighted sum of rows) / l - row of the target

so that loss and gradient come out of the same pass.
"""

import torch
from torch import Tensor

from agent.training.weights import Weight

# Rows of the head at once: 9 MB of float32 at a width of 1,152.
CHUNK_ROWS = 2048


def cross_entropy(
    hidden: Tensor,
    head: Weight,
    targets: Tensor,
    *,
    with_gradient: bool = True,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[Tensor, Tensor | None]:
    """hidden (positions, columns) in float32, head (vocabulary, columns), targets (positions): the
    summed loss in nats, and its gradient with respect to hidden."""
    narrow = hidden.to(head.data_type)
    positions = len(targets)
    maximum = hidden.new_full((positions, 1), -torch.inf)
    total = hidden.new_zeros(positions, 1)
    target_logits = hidden.new_zeros(positions)
    rows_sum = torch.zeros_like(hidden) if with_gradient else None
    products = hidden.new_empty(positions, chunk_rows, dtype=head.data_type)
    buffer = hidden.new_empty(positions, chunk_rows)
    for first in range(0, head.rows, chunk_rows):
        last = min(first + chunk_rows, head.rows)
        rows, product = head.chunk(first, last), products[:, : last - first]
        torch.mm(narrow, rows.t(), out=product)
        logits = buffer[:, : last - first].copy_(product)
        scale = None if head.row_scale is None else head.row_scale[first:last]
        if scale is not None:
            logits.mul_(scale)
        place = (targets - first).clamp(0, last - first - 1)
        target_logits = torch.where(
            targets == place + first, logits.gather(1, place[:, None])[:, 0], target_logits
        )
        new_maximum = torch.maximum(maximum, logits.amax(1, keepdim=True))
        shrink = torch.exp(maximum - new_maximum)
        exponentials = logits.sub_(new_maximum).exp_()
        total.mul_(shrink).add_(exponentials.sum(1, keepdim=True))
        if rows_sum is not None:
            if scale is not None:
                exponentials.mul_(scale)
            rows_sum.mul_(shrink).add_(product.copy_(exponentials) @ rows)
        maximum = new_maximum
    loss = ((maximum + total.log()).flatten() - target_logits).sum()
    if rows_sum is not None:
        rows_sum.div_(total).sub_(head.gather(targets))
    return loss, rows_sum
