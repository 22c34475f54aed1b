"""What the trainer is compared with: Transformers and PEFT in float32, with the stock modules."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import Gemma3ForCausalLM

from agent.training import gemma3
from agent.training.graph import TrainedModel
from agent.training.weights import MappedWeights
from artifacts.base_model import BaseModel
from artifacts.convert.families import GEMMA3
from protos.nanofleet.v1 import job_pb2

IGNORED = -100
_PREFIX = "base_model.model.model."


def stock_model(base: BaseModel) -> Gemma3ForCausalLM:
    """With the weights of the GGUF file, dequantised."""
    model = Gemma3ForCausalLM(gemma3.configuration(base)).float()
    weights = MappedWeights(base, torch.float32)
    state = model.state_dict()
    for tensor in GEMMA3.tensors(gemma3.dimensions(base), head=False):
        if len(tensor.shape) == 2:
            matrix = weights.matrix(tensor.target, tensor.shape)
            state[tensor.source].copy_(matrix.gather(torch.arange(matrix.rows)))
        else:
            state[tensor.source].copy_(weights.vector(tensor.target, *tensor.shape) - 1)
    return model


def stock_lora(base: BaseModel, spec: job_pb2.TrainSpec, like: TrainedModel) -> PeftModel:
    """With the same adapter weights as ``like``."""
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=list(spec.lora.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(stock_model(base), config)
    for name, parameter in parameters(model).items():
        parameter.data.copy_(like.parameters[name].data)
    return model


def parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """LoRA's, by the names that TrainedModel has for them."""
    return {
        name.removeprefix(_PREFIX).replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def summed_loss(model: torch.nn.Module, tokens: Tensor, labelled: Tensor) -> Tensor:
    """Transformers' own loss, as a sum."""
    labels = torch.full_like(tokens, IGNORED)
    labels[labelled] = tokens[labelled]
    mean: Tensor = model(input_ids=tokens[None], labels=labels[None]).loss
    return mean * len(labelled)
