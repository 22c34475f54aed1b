"""What the trainer is compared with: Transformers and PEFT in float32, with the stock modules."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from agent.inference.reference.model import fill
from agent.training.graph import TrainedModel
from artifacts import base_model
from protos.nanofleet.v1 import job_pb2

IGNORED = -100
_PREFIX = "base_model.model.model."


def stock_model(folder: Path, file: Path) -> nn.Module:
    """The configuration of the Hugging Face folder, and the weights of the GGUF file made of it,
    dequantised by the gguf package, as the reference engine has them: nothing of it passes through
    the code under test."""
    # The same attention kernel as the trainer's: between it and the eager one, Transformers' own
    # gradients differ by up to 9e-6 on the tiny Llama, as much as the bound of the comparison.
    config = AutoConfig.from_pretrained(folder, attn_implementation="sdpa")
    # Made in the folder's bfloat16 and cast afterwards, Gemma's embedding scale would stay rounded.
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model, base_model.read(file))
    return model


def stock_lora(folder: Path, file: Path, spec: job_pb2.TrainSpec, like: TrainedModel) -> PeftModel:
    """With the same adapter weights as ``like``."""
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        target_modules=list(spec.lora.targets),
        use_rslora=spec.lora.rank_stabilized,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(stock_model(folder, file), config)
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
