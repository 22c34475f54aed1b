"""The model that is trained: Transformers' own class over the mapped weights, with PEFT's LoRA.

The class is built on the meta device, where it costs nothing. Then each of its Linear and Embedding
modules is replaced by a frozen one that reads the GGUF file, each norm gets its weights, and PEFT
injects its adapters. So the graph is the reference implementation itself, and the adapters are
PEFT's; only the products, the recomputation and the loss are ours.

Families: those of the converter. Another one needs its line in families.py, its configuration in
configuration.py and the same proof.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoModel

from agent.training import configuration
from agent.training.failures import bad_spec
from agent.training.frozen import FrozenEmbedding, FrozenLinear
from agent.training.loss import summed_loss
from agent.training.recompute import recomputed
from agent.training.samples import TokenSample
from agent.training.weights import MappedWeights, Weight
from artifacts.base_model import BaseModel
from artifacts.convert.families import GEMMA3, Change, TensorSpec
from protos.nanofleet.v1 import job_pb2

_ADAPTER = "default"


class TrainedModel:
    """``parameters``: LoRA's matrices by their module's path in Transformers' model, as
    ``layers.0.self_attn.q_proj.lora_A.weight``."""

    def __init__(self, module: nn.Module, head: Weight, config: LoraConfig) -> None:
        self._module = module
        self._head = head
        self.lora_config = config
        self.parameters: Mapping[str, nn.Parameter] = {
            name.replace(f".{_ADAPTER}.", "."): parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }

    def summed_loss(self, sample: TokenSample) -> Tensor:
        """The cross-entropy in nats, summed over the sample's labelled tokens."""
        output = self._module(input_ids=sample.tokens[None], use_cache=False)
        # The hidden state before a token predicts it.
        before = output.last_hidden_state[0, sample.labelled - 1]
        return summed_loss(before, self._head, sample.tokens[sample.labelled])


def build(base: BaseModel, weights: MappedWeights, spec: job_pb2.TrainSpec) -> TrainedModel:
    """The adapters' initial values come from the spec's seed, through torch's global generator."""
    settings = configuration.configuration(base)
    with torch.device("meta"):
        module: nn.Module = AutoModel.from_config(settings)
    head = _fill(module, base, weights)
    _recompute_layers(module, spec.stored_layers)
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        use_rslora=spec.lora.rank_stabilized,
        target_modules=sorted(spec.lora.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name,
    )
    torch.manual_seed(spec.seed)
    with warnings.catch_warnings():
        # PEFT asks Transformers for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        inject_adapter_in_model(config, module, adapter_name=_ADAPTER)
    # LoRA's dropout and Transformers' hook for recomputation are live only then.
    module.train()
    return TrainedModel(module, head, config)


def _fill(module: nn.Module, base: BaseModel, weights: MappedWeights) -> Weight:
    """Gives each module its weights; returns the matrix of the output head."""
    family, size = configuration.family(base), configuration.dimensions(base)
    tensors = list(family.tensors(size, head=False))
    biases = {_path(tensor): tensor for tensor in tensors if tensor.source.endswith(".bias")}
    for tensor in tensors:
        path = _path(tensor)
        if tensor is biases.get(path):
            continue  # its matrix takes it along
        owner, _, name = path.rpartition(".")
        original = module.get_submodule(path)
        replacement = _module(tensor, biases.get(path), original, weights)
        if isinstance(replacement, FrozenEmbedding) and family is GEMMA3:
            replacement.scale = size.hidden**0.5
        setattr(module.get_submodule(owner), name, replacement)
    _fill_rotary(module, weights, size.head)
    left = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if left:
        raise bad_spec(f"The base model has no weights for {', '.join(left)}. Import it again.")
    head = configuration.HEAD if configuration.HEAD in weights else configuration.EMBEDDING
    return weights.matrix(head, (size.vocabulary, size.hidden))


def _path(tensor: TensorSpec) -> str:
    return tensor.source.removeprefix("model.").rpartition(".")[0]


def _fill_rotary(module: nn.Module, weights: MappedWeights, head: int) -> None:
    """Its buffers are on meta with the rest; they follow from the file's header alone, but for
    Llama 3's divisors, which are a tensor."""
    rotary: Any = type(module.rotary_emb)(module.config)
    if configuration.ROPE_FACTORS in weights:
        rotary.inv_freq /= weights.vector(configuration.ROPE_FACTORS, head // 2)
    module.rotary_emb = rotary


def _module(
    tensor: TensorSpec, bias: TensorSpec | None, original: nn.Module, weights: MappedWeights
) -> nn.Module:
    if isinstance(original, nn.Embedding):
        matrix = weights.matrix(tensor.target, (tensor.shape[0], tensor.shape[1]))
        return FrozenEmbedding(matrix, scale=1.0)
    if isinstance(original, nn.Linear):
        matrix = weights.matrix(tensor.target, (tensor.shape[0], tensor.shape[1]))
        added = None if bias is None else weights.vector(bias.target, bias.shape[0])
        interleaved = tensor.rows_together if tensor.change is Change.INTERLEAVE else 0
        return FrozenLinear(matrix, added, interleaved)
    vector = weights.vector(tensor.target, tensor.shape[0])
    if tensor.change is Change.PLUS_ONE:
        # llama.cpp multiplies by the stored number, Transformers' Gemma by one more.
        vector -= 1
    original.weight = nn.Parameter(vector, requires_grad=False)
    return original


def _recompute_layers(module: nn.Module, stored_layers: int) -> None:
    """All decoder layers but the deepest ``stored_layers`` compute their activations twice."""
    layers: list[Any] = list(module.get_submodule("layers").children())
    for layer in layers[: max(0, len(layers) - stored_layers)]:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = recomputed
