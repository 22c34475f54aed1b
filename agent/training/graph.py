"""The model that is trained: Transformers' own class over the mapped weights, with PEFT's LoRA.

The class is built on the meta device, where it costs nothing. Then each of its Linear and Embedding
modules is replaced by a frozen one that reads the GGUF file, each norm gets its weights, and PEFT
injects its adapters. So the graph is the reference implementation itself, and the adapters are
PEFT's; only the products, the recomputation and the loss are ours.

Families: Gemma 3. Another one needs its configuration (as gemma3.py) and the same proof.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

from agent.training import gemma3
from agent.training.failures import bad_spec
from agent.training.frozen import FrozenEmbedding, FrozenLinear
from agent.training.loss import summed_loss
from agent.training.recompute import recomputed
from agent.training.samples import TokenSample
from agent.training.seeds import derived
from agent.training.weights import MappedWeights, Weight
from artifacts.base_model import BaseModel
from artifacts.convert.families import GEMMA3, Change, TensorSpec
from protos.nanofleet.v1 import job_pb2

_ADAPTER = "default"
_HEAD = "output.weight"
_EMBEDDING = "token_embd.weight"


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

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients; torch's random state stays as it is."""
        self._module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._module.train()

    def summed_loss(self, sample: TokenSample) -> Tensor:
        """The cross-entropy in nats, summed over the sample's labelled tokens."""
        output = self._module(input_ids=sample.tokens[None], use_cache=False)
        # The hidden state before a token predicts it.
        before = output.last_hidden_state[0, sample.labelled - 1]
        return summed_loss(before, self._head, sample.tokens[sample.labelled])


def build(base: BaseModel, weights: MappedWeights, spec: job_pb2.TrainSpec) -> TrainedModel:
    """The adapters' initial values come from the spec's seed, through torch's global generator."""
    if base.architecture != GEMMA3.architecture:
        raise bad_spec(
            f"Models of architecture {base.architecture} cannot be trained yet, only "
            f"{GEMMA3.architecture}. Choose another base."
        )
    with torch.device("meta"):
        module = Gemma3TextModel(gemma3.configuration(base))
    head = _fill(module, base, weights)
    _recompute_layers(module, spec.stored_layers)
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=sorted(spec.lora.targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name,
    )
    torch.manual_seed(derived(spec.seed, "adapter"))
    with warnings.catch_warnings():
        # PEFT asks Transformers for a property by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        inject_adapter_in_model(config, module, adapter_name=_ADAPTER)
    # LoRA's dropout and Transformers' hook for recomputation are live only then.
    module.train()
    return TrainedModel(module, head, config)


def _fill(module: Gemma3TextModel, base: BaseModel, weights: MappedWeights) -> Weight:
    """Gives each module its weights; returns the matrix of the output head."""
    size = gemma3.dimensions(base)
    for tensor in GEMMA3.tensors(size, head=False):
        path = tensor.source.removeprefix("model.").removesuffix(".weight")
        owner, _, name = path.rpartition(".")
        replacement = _module(tensor, module.get_submodule(path), weights, size.hidden)
        setattr(module.get_submodule(owner), name, replacement)
    # Its buffers are on meta with the rest; they follow from the configuration alone.
    module.rotary_emb = type(module.rotary_emb)(module.config)
    left = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if left:
        raise bad_spec(f"The base model has no weights for {', '.join(left)}. Import it again.")
    head = _HEAD if _HEAD in weights else _EMBEDDING
    return weights.matrix(head, (size.vocabulary, size.hidden))


def _module(
    tensor: TensorSpec, original: nn.Module, weights: MappedWeights, hidden: int
) -> nn.Module:
    if isinstance(original, nn.Embedding):
        matrix = weights.matrix(tensor.target, (tensor.shape[0], tensor.shape[1]))
        return FrozenEmbedding(matrix, scale=hidden**0.5)
    if isinstance(original, nn.Linear):
        return FrozenLinear(weights.matrix(tensor.target, (tensor.shape[0], tensor.shape[1])))
    vector = weights.vector(tensor.target, tensor.shape[0])
    if tensor.change is Change.PLUS_ONE:
        # llama.cpp multiplies by the stored number, Transformers' Gemma by one more.
        vector -= 1
    original.weight = nn.Parameter(vector, requires_grad=False)
    return original


def _recompute_layers(module: Gemma3TextModel, stored_layers: int) -> None:
    """All decoder layers but the deepest ``stored_layers`` compute their activations twice."""
    layers = list(module.get_submodule("layers").children())
    for layer in layers[: max(0, len(layers) - stored_layers)]:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = recomputed
