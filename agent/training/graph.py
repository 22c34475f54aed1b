"""The model that is trained: its decoder layers over the mapped weights, with LoRA.

Families: those of the converter. What differs between them is data (configuration.py, and the
converter's table of tensors): which norms there are, biases, heads, windows, rotary positions, the
activation. Another family needs its line there and the same proof.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agent.model import configuration
from agent.model.configuration import Configuration, Rope
from agent.training.attention import Attention
from agent.training.glu import Glu
from agent.training.layer import Layer, Norms
from agent.training.lora import Lora
from agent.training.loss import CHUNK_ROWS, cross_entropy
from agent.training.norm import Norm
from agent.training.projection import Projection
from agent.training.rotary import Rotary
from agent.training.samples import TokenSample
from agent.training.seeds import derived
from agent.training.weights import MappedWeights, Weight
from agent.training.workspace import Pass, Workspace
from artifacts.base_model import BaseModel
from artifacts.convert.families import Change
from protos.nanofleet.v1 import job_pb2

# Transformers' paths of the projections in a layer, in their order there.
_PATHS = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
_SEEDS = 1 << 62


class TrainedModel:
    """``parameters``: LoRA's matrices by their module's path in Transformers' model, as
    ``layers.0.self_attn.q_proj.lora_A.weight``."""

    def __init__(
        self,
        layers: Sequence[Layer],
        norm: Norm,
        embedding: Weight,
        head: Weight,
        settings: Configuration,
        spec: job_pb2.TrainSpec,
        chunk_rows: int,
    ) -> None:
        self._chunk_rows = chunk_rows
        self._layers = layers
        self._norm = norm
        self._embedding = embedding
        self._head = head
        self._settings = settings
        self._stored_layers = spec.stored_layers
        self._dropout = spec.lora.dropout > 0
        self._workspace: Workspace | None = None
        self._run: _Run | None = None
        self.parameters: Mapping[str, nn.Parameter] = {
            f"layers.{number}.{path}.lora_{side}.weight": matrix
            for number, layer in enumerate(layers)
            for name, path in _PATHS.items()
            if (lora := layer.projections[name].lora) is not None
            for side, matrix in (("A", lora.a), ("B", lora.b))
        }

    def summed_loss(self, *samples: TokenSample) -> Tensor:
        """The cross-entropy in nats, summed over the labelled tokens of samples that share a
        micro-step, each attending to itself only.

        Its backward sums up the gradients of ``parameters``. It is that of the newest loss only:
        there is one workspace. Under ``torch.no_grad`` nothing is dropped.
        """
        if torch.is_grad_enabled():
            return _summed_loss(torch.zeros((), requires_grad=True), self, samples)
        _, _, rows, targets = self._forward(samples, seeds=None)
        return self._loss(rows, targets, with_gradient=False)[0]

    def release(self) -> None:
        """Gives the workspace back, for the time of a pause."""
        self._workspace = self._run = None

    def forward_and_gradient(self, samples: Sequence[TokenSample]) -> tuple[Tensor, "_Run"]:
        seeds = None
        if self._dropout:
            seeds = [int(seed) for seed in torch.randint(_SEEDS, (len(self._layers),))]
        place, before, rows, targets = self._forward(samples, seeds)
        loss, gradient = self._loss(rows, targets)
        assert gradient is not None
        self._run = _Run(place, seeds, before, gradient)
        return loss, self._run

    def backward(self, run: "_Run", scale: Tensor) -> None:
        if run is not self._run:
            raise RuntimeError("only the newest loss has a backward, and only one")
        self._run = None
        place, gradient = run.place, run.gradient.mul_(scale)
        self._norm.backward(place.last_hidden[run.before], gradient)
        place.gradient.zero_()
        place.gradient[run.before] = gradient
        for number in reversed(range(len(self._layers))):
            seed = None if run.seeds is None else run.seeds[number]
            self._layers[number].backward(place, place.layers[number], seed)

    def _forward(
        self, samples: Sequence[TokenSample], seeds: Sequence[int] | None
    ) -> tuple[Pass, Tensor, Tensor, Tensor]:
        """The pass; for each labelled token where the hidden state is that predicts it, that state
        normed, and the token."""
        lengths = [len(sample.tokens) for sample in samples]
        place = self._space(sum(lengths)).begin(lengths)
        device = self._head.device
        tokens = torch.cat([sample.tokens for sample in samples]).to(device)
        first = place.layers[0].hidden
        first.copy_(self._embedding.gather(tokens)).mul_(self._settings.embedding_scale)
        for number, layer in enumerate(self._layers):
            last = number + 1 == len(self._layers)
            out = place.last_hidden if last else place.layers[number + 1].hidden
            layer.forward(
                place, place.layers[number], out, None if seeds is None else seeds[number]
            )
        before = _labelled(samples).to(device)
        rows = place.last_hidden[before]
        self._norm.forward(rows, rows)
        return place, before, rows, tokens[before + 1]

    def _loss(
        self, rows: Tensor, targets: Tensor, *, with_gradient: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        return cross_entropy(
            rows, self._head, targets, with_gradient=with_gradient, chunk_rows=self._chunk_rows
        )

    def _space(self, tokens: int) -> Workspace:
        if self._workspace is None or self._workspace.tokens < tokens:
            self._workspace = None
            self._workspace = Workspace(
                self._settings.size,
                tokens,
                self._head.data_type,
                self._stored_layers,
                self._head.device,
            )
        return self._workspace


class _Run:
    """A forward pass that has its backward before it."""

    def __init__(
        self, place: Pass, seeds: Sequence[int] | None, before: Tensor, gradient: Tensor
    ) -> None:
        self.place = place
        self.seeds = seeds
        self.before = before
        self.gradient = gradient


class _SummedLoss(torch.autograd.Function):
    """The bridge to autograd. The first input requires a gradient and gets none."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, model: TrainedModel, samples: Sequence[TokenSample]
    ) -> Tensor:
        ctx.model = model
        loss, ctx.run = model.forward_and_gradient(samples)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.model.backward(ctx.run, gradient)
        return None, None, None


_summed_loss: Callable[[Tensor, TrainedModel, Sequence[TokenSample]], Tensor] = _SummedLoss.apply


def _labelled(samples: Sequence[TokenSample]) -> Tensor:
    """Where in the pack the hidden states are that predict a labelled token."""
    places, start = [], 0
    for sample in samples:
        places.append(sample.labelled + (start - 1))
        start += len(sample.tokens)
    return torch.cat(places)


def build(
    base: BaseModel,
    weights: MappedWeights,
    spec: job_pb2.TrainSpec,
    chunk_rows: int = CHUNK_ROWS,
) -> TrainedModel:
    """``chunk_rows``: of the head, whose logits exist at a time (see loss.py). The adapters'
    initial values come from the spec's seed, through torch's global generator."""
    settings = configuration.configuration(base)
    found = _Found(settings, weights)
    device = weights.scratch.device
    glu = Glu(settings.size.feed_forward, settings.family.activation, device)
    rotaries = {
        kind.rope: _rotary(kind.rope, settings.size.head, weights) for kind in settings.layers
    }
    layers = []
    torch.manual_seed(derived(spec.seed, "adapter"))
    for number, kind in enumerate(settings.layers):
        projections = {name: found.projection(number, path) for name, path in _PATHS.items()}
        for name in projections:
            if name in spec.lora.targets:
                weight = projections[name].weight
                projections[name].lora = Lora(weight.rows, weight.columns, spec.lora, device)
        layers.append(
            Layer(
                projections,
                found.norms(number),
                rotaries[kind.rope],
                glu,
                Attention(settings.size.head, kind.window),
                settings.size.kv_heads,
            )
        )
    shape = (settings.size.vocabulary, settings.size.hidden)
    embedding = weights.matrix(configuration.EMBEDDING, shape)
    tied = configuration.HEAD not in weights
    head = embedding if tied else weights.matrix(configuration.HEAD, shape)
    return TrainedModel(
        layers, found.norm("model.norm"), embedding, head, settings, spec, chunk_rows
    )


def _rotary(rope: Rope, head: int, weights: MappedWeights) -> Rotary:
    divisors = None
    if configuration.ROPE_FACTORS in weights:
        divisors = weights.vector(configuration.ROPE_FACTORS, head // 2)
    return Rotary(rope, head, divisors, weights.scratch.device)


class _Found:
    """The parts of the model by their names in Transformers' checkpoints."""

    def __init__(self, settings: Configuration, weights: MappedWeights) -> None:
        self._tensors = {
            tensor.source: tensor for tensor in settings.family.tensors(settings.size, head=False)
        }
        self._epsilon = settings.norm_epsilon
        self._weights = weights

    def projection(self, layer: int, path: str) -> Projection:
        name = f"model.layers.{layer}.{path}"
        tensor = self._tensors[f"{name}.weight"]
        matrix = self._weights.matrix(tensor.target, (tensor.shape[0], tensor.shape[1]))
        bias = None
        if added := self._tensors.get(f"{name}.bias"):
            bias = self._weights.vector(added.target, added.shape[0])
        interleaved = tensor.rows_together if tensor.change is Change.INTERLEAVE else 0
        return Projection(matrix, bias, interleaved)

    def norms(self, layer: int) -> Norms:
        """Two norms enter attention and feed-forward; where four are around them, the name of the
        second is that of one which leaves."""
        path = f"model.layers.{layer}"
        four = f"{path}.pre_feedforward_layernorm.weight" in self._tensors
        after_attention = f"{path}.post_attention_layernorm"
        return Norms(
            attention=self.norm(f"{path}.input_layernorm"),
            query=self._optional(f"{path}.self_attn.q_norm"),
            key=self._optional(f"{path}.self_attn.k_norm"),
            after_attention=self.norm(after_attention) if four else None,
            feed_forward=self.norm(
                f"{path}.pre_feedforward_layernorm" if four else after_attention
            ),
            after_feed_forward=self._optional(f"{path}.post_feedforward_layernorm"),
        )

    def norm(self, name: str) -> Norm:
        tensor = self._tensors[f"{name}.weight"]
        return Norm(self._weights.vector(tensor.target, tensor.shape[0]), self._epsilon)

    def _optional(self, name: str) -> Norm | None:
        return self.norm(name) if f"{name}.weight" in self._tensors else None
