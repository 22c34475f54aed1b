"""A decoder layer, forward and backward, of all the families.

    h₁ = h  + [norm] o(attention(rope([norm] q(x)), rope([norm] k(x)), v(x)))     x  = norm(h)
    h₂ = h₁ + [norm] down(activation(gate(y)) * up(y))                            y  = norm(h₁)

[norm]: where the family has one. Backward is written out instead of left to autograd, so that each
tensor has its place in the workspace, only what must be is computed twice, and nothing is computed
for frozen weights. That its gradients are Transformers' and PEFT's is in tests/agent/training/
test_families.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.training.attention import Attention
from agent.training.glu import Glu
from agent.training.norm import Norm
from agent.training.projection import Projection
from agent.training.rotary import Rotary
from agent.training.workspace import Kept, Pass

# One seed for each projection's dropout follows from the layer's.
_SEED_OF = {
    name: place
    for place, name in enumerate(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    )
}


@dataclass(frozen=True, slots=True)
class Norms:
    """Those in [] are None where the family has none."""

    attention: Norm
    query: Norm | None
    key: Norm | None
    after_attention: Norm | None
    feed_forward: Norm
    after_feed_forward: Norm | None


class Layer:
    """``projections`` by their Transformers names ("q_proj", …); ``key_heads``: how many."""

    def __init__(
        self,
        projections: Mapping[str, Projection],
        norms: Norms,
        rotary: Rotary,
        glu: Glu,
        attention: Attention,
        key_heads: int,
    ) -> None:
        self.projections = projections
        self._norms = norms
        self._rotary = rotary
        self._glu = glu
        self._attention = attention
        self._key_heads = key_heads

    def forward(self, run: Pass, kept: Kept, out: Tensor, seed: int | None) -> None:
        """From ``kept.hidden`` to ``out`` (tokens, hidden); fills the rest of ``kept``. ``seed``
        decides what LoRA's dropout drops; None: nothing."""
        self._norms.attention.forward(kept.hidden, run.total)
        run.normed.copy_(run.total)
        self._product("q_proj", run.normed, kept.query, seed)
        self._product("k_proj", run.normed, kept.key, seed)
        self._product("v_proj", run.normed, kept.value, seed)
        self._attend(run, kept, *self._queries_and_keys(run, kept))
        self._product("o_proj", run.attended, kept.attended, seed)
        self._leave_attention(run, kept, out)
        self._gate_and_up(run, kept, out, seed)
        self._glu.forward(kept.gate, kept.up, run.wide)
        self._product("down_proj", run.wide, kept.fed, seed)
        self._add_normed(kept.fed, self._norms.after_feed_forward, run.raw, out)

    def backward(self, run: Pass, kept: Kept, seed: int | None) -> None:
        """Turns ``run.gradient``, with respect to the layer's output, into the one with respect to
        its input, and sums up LoRA's gradients. ``seed`` is that of ``forward``."""
        self._leave_attention(run, kept, run.between)
        self._feed_forward_backward(run, kept, seed)
        self._attention_backward(run, kept, seed)

    def _feed_forward_backward(self, run: Pass, kept: Kept, seed: int | None) -> None:
        if kept.wide:
            self._enter_feed_forward(run, run.between)
        else:
            self._gate_and_up(run, kept, run.between, seed)
        if self.projections["down_proj"].lora is not None:
            self._glu.forward(kept.gate, kept.up, run.fed_by)
        self._enter_backward(run, kept.fed, self._norms.after_feed_forward)
        self._product_backward("down_proj", run.fed_by, run.narrow, run.wide, seed)
        self._glu.backward(kept.gate, kept.up, run.wide)
        run.total.zero_()
        for name, gradient in (("gate_proj", kept.gate), ("up_proj", kept.up)):
            self._product_backward(name, run.normed, gradient, run.narrow, seed)
            run.total.add_(run.narrow)
        self._norms.feed_forward.backward(run.between, run.total)
        run.gradient.add_(run.total)

    def _attention_backward(self, run: Pass, kept: Kept, seed: int | None) -> None:
        query, key = self._queries_and_keys(run, kept)
        if self.projections["o_proj"].lora is not None:
            self._attend(run, kept, query, key)
        self._enter_backward(run, kept.attended, self._norms.after_attention)
        self._product_backward("o_proj", run.attended, run.narrow, run.query_gradient, seed)
        for_query, for_key, for_value = self._attention.backward(
            query,
            key,
            self._by_head(kept.value).squeeze(2),
            self._by_head(run.query_gradient),
            run.segments,
            run.scores,
        )
        self._before_heads(run, kept.query, self._norms.query, for_query)
        self._before_heads(run, kept.key, self._norms.key, for_key.unsqueeze(2))
        self._by_head(run.query_gradient).copy_(for_query)
        self._by_head(run.key_gradient).copy_(for_key.unsqueeze(2))
        self._by_head(run.value_gradient).copy_(for_value.unsqueeze(2))
        self._norms.attention.forward(kept.hidden, run.total)
        run.normed.copy_(run.total)
        run.total.zero_()
        for name, gradient in (
            ("q_proj", run.query_gradient),
            ("k_proj", run.key_gradient),
            ("v_proj", run.value_gradient),
        ):
            self._product_backward(name, run.normed, gradient, run.narrow, seed)
            run.total.add_(run.narrow)
        self._norms.attention.backward(kept.hidden, run.total)
        run.gradient.add_(run.total)

    def _queries_and_keys(self, run: Pass, kept: Kept) -> tuple[Tensor, Tensor]:
        """As attention takes them, in float32."""
        query, key = (_exact(self._by_head(product)) for product in (kept.query, kept.key))
        for tensor, norm in ((query, self._norms.query), (key, self._norms.key)):
            if norm is not None:
                norm.forward(tensor, tensor)
            self._rotary.rotate(tensor, run.positions)
        return query, key.squeeze(2)

    def _before_heads(
        self, run: Pass, product: Tensor, norm: Norm | None, gradient: Tensor
    ) -> None:
        """The inverse way of a gradient (key heads, tokens, group, head), in place."""
        self._rotary.rotate_back(gradient, run.positions)
        if norm is not None:
            norm.backward(_exact(self._by_head(product)), gradient)

    def _attend(self, run: Pass, kept: Kept, query: Tensor, key: Tensor) -> None:
        """Fills ``run.attended``."""
        value, out = self._by_head(kept.value).squeeze(2), self._by_head(run.attended)
        self._attention.forward(query, key, value, run.segments, run.scores, out)

    def _by_head(self, product: Tensor) -> Tensor:
        """(tokens, width) seen as (key heads, tokens, group, head); the group of a key is 1."""
        heads = product.view(len(product), self._key_heads, -1, self._attention.head)
        return heads.transpose(0, 1)

    def _leave_attention(self, run: Pass, kept: Kept, out: Tensor) -> None:
        """``out``: the hidden state between attention and feed-forward."""
        out.copy_(kept.hidden)
        self._add_normed(kept.attended, self._norms.after_attention, run.raw, out)

    def _enter_feed_forward(self, run: Pass, hidden: Tensor) -> None:
        self._norms.feed_forward.forward(hidden, run.total)
        run.normed.copy_(run.total)

    def _gate_and_up(self, run: Pass, kept: Kept, hidden: Tensor, seed: int | None) -> None:
        self._enter_feed_forward(run, hidden)
        self._product("gate_proj", run.normed, kept.gate, seed)
        self._product("up_proj", run.normed, kept.up, seed)

    def _enter_backward(self, run: Pass, product: Tensor, norm: Norm | None) -> None:
        """``run.narrow``: the gradient with respect to a product that is normed and then added."""
        if norm is None:
            run.narrow.copy_(run.gradient)
            return
        run.raw.copy_(product)
        run.total.copy_(run.gradient)
        norm.backward(run.raw, run.total)
        run.narrow.copy_(run.total)

    @staticmethod
    def _add_normed(product: Tensor, norm: Norm | None, buffer: Tensor, out: Tensor) -> None:
        buffer.copy_(product)
        if norm is not None:
            norm.forward(buffer, buffer)
        out += buffer

    def _product(self, name: str, x: Tensor, out: Tensor, seed: int | None) -> None:
        self.projections[name].forward(x, out, _seed(name, seed))

    def _product_backward(
        self, name: str, x: Tensor, gradient: Tensor, out: Tensor, seed: int | None
    ) -> None:
        self.projections[name].backward(x, gradient, out, _seed(name, seed))


def _exact(product: Tensor) -> Tensor:
    """A copy in float32 and in order."""
    return torch.empty(product.shape, device=product.device).copy_(product)


def _seed(name: str, seed: int | None) -> int | None:
    return None if seed is None else seed + _SEED_OF[name]
