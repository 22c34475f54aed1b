"""What the trainer is compared with: Transformers and PEFT in float32, with the stock modules."""

from pathlib import Path
from typing import Any

import gguf
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from agent.training.graph import TrainedModel
from artifacts.convert.families import FAMILIES, Dimensions
from protos.nanofleet.v1 import job_pb2

IGNORED = -100
_PREFIX = "base_model.model.model."


def stock_model(folder: Path, file: Path) -> nn.Module:
    """The configuration of the Hugging Face folder, and the weights of the GGUF file made of it,
    dequantised by the gguf package: nothing of it passes through the code under test."""
    # The same attention kernel as the trainer's: between it and the eager one, Transformers' own
    # gradients differ by up to 9e-6 on the tiny Llama, as much as the bound of the comparison.
    config = AutoConfig.from_pretrained(folder, attn_implementation="sdpa")
    # Made in the folder's bfloat16 and cast afterwards, Gemma's embedding scale would stay rounded.
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    family = next(f for f in FAMILIES if f.model_type == config.model_type)
    state = model.state_dict()
    for tensor in family.tensors(_dimensions(config), head="output.weight" in stored):
        found = stored[tensor.target]
        if found.tensor_type == gguf.GGMLQuantizationType.I8:
            scale = stored[tensor.target.replace(".weight", ".scale")]
            values = torch.from_numpy(found.data * scale.data[:, None])
        else:
            values = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type).copy())
        if family.architecture == "gemma3" and "norm" in tensor.source:
            values = values - 1
        if family.architecture == "llama" and (
            "q_proj" in tensor.source or "k_proj" in tensor.source
        ):
            even_then_odd = values.unflatten(0, (-1, config.head_dim))
            values = torch.cat([even_then_odd[:, 0::2], even_then_odd[:, 1::2]], 1).flatten(0, 1)
        state[tensor.source].copy_(values.reshape(state[tensor.source].shape))
    return model


def _dimensions(config: Any) -> Dimensions:
    heads = config.num_attention_heads
    return Dimensions(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        feed_forward=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )


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
