"""How many floating-point operations a training sample takes; a multiply-add is two.

The work that the method prescribes, not the work that an implementation does: dequantising, norms,
activations, the optimizer and softmax are not counted, so a share of the peak can only be
understated.
"""

from collections.abc import Sequence

from benchmarks.shapes import Shape


def sample_flops(
    shape: Shape, tokens: int, targets: Sequence[str], rank: int, stored_layers: int = 0
) -> float:
    """Of one sample with every token but the first labelled.

    For a layer with P weights: 2 T P forward, the same for the recompute of a layer that is not
    stored, and the same for the gradient of its inputs; frozen weights need no gradient of their
    own. Nothing is below the first layer, so its q, k and v hand no gradient on. Attention: 4 T² d
    forward (scores and mixture, the whole square), twice that backward, with d = heads x head.
    LoRA on a matrix m x n: 2 T r (m + n) forward, twice that backward. The head: logits of the
    labelled tokens, and their gradient's product with the same matrix; 2 L H V each.
    """
    matrices = {
        "q_proj": (shape.hidden, shape.heads * shape.head),
        "k_proj": (shape.hidden, shape.kv_heads * shape.head),
        "v_proj": (shape.hidden, shape.kv_heads * shape.head),
        "o_proj": (shape.heads * shape.head, shape.hidden),
        "gate_proj": (shape.hidden, shape.feed_forward),
        "up_proj": (shape.hidden, shape.feed_forward),
        "down_proj": (shape.feed_forward, shape.hidden),
    }
    linear = 2 * tokens * sum(m * n for m, n in matrices.values())
    attention = 4 * tokens**2 * shape.heads * shape.head
    lora = 2 * tokens * rank * sum(sum(matrices[name]) for name in targets)
    forward = linear + attention + lora
    backward = linear + 2 * attention + 2 * lora
    not_needed = (
        2
        * tokens
        * sum(m * n for name, (m, n) in matrices.items() if name in ("q_proj", "k_proj", "v_proj"))
    )
    recomputed = shape.layers - stored_layers
    head = 2 * 2 * (tokens - 1) * shape.hidden * shape.vocabulary
    return shape.layers * (forward + backward) + recomputed * forward - not_needed + head
