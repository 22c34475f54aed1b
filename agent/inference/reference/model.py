"""Transformers' own class with a GGUF file's dequantised weights, float32.

What other engines are measured with: the class, its attention and its rotary positions are not
ours. The configuration comes from the file's header as for training (agent/model/configuration.py),
the numbers are unpacked by the gguf package and put back in the checkpoint's conventions.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from agent.model.configuration import HEAD, ROPE_FACTORS, Configuration, Rope, configuration
from agent.model.tensors import Tensors
from artifacts.base_model import BaseModel
from artifacts.convert.families import GEMMA3

# Numbers unpacked at once: the whole embedding of a 1B model would be a gigabyte.
_SLAB = 1 << 22


def load(base: BaseModel) -> nn.Module:
    """Four bytes for each parameter. Raises InvalidRequest for a base that is not supported."""
    shape = configuration(base)
    # In float32 from the start: cast afterwards, Gemma's embedding scale would stay rounded.
    with no_init_weights():
        model: Any = AutoModelForCausalLM.from_config(_config(base, shape))
    # A part of the initialisation that was left out.
    model.tie_weights()
    fill(model, base)
    if ROPE_FACTORS in base.tensors:
        _stretch(model, torch.from_numpy(Tensors(base).vector(ROPE_FACTORS)))
    loaded: nn.Module = model.eval()
    return loaded


def fill(model: nn.Module, base: BaseModel) -> None:
    """Gives a model of the base's shape the base's weights."""
    shape, tensors = configuration(base), Tensors(base)
    state = model.state_dict()
    for spec in shape.family.tensors(shape.size, head=HEAD in base.tensors):
        target = state[spec.source]
        if len(spec.shape) == 1:
            target.copy_(torch.from_numpy(spec.undo(tensors.vector(spec.target))))
            continue
        rows, columns = spec.shape
        step = -(-_SLAB // columns // spec.rows_together) * spec.rows_together
        for first in range(0, rows, step):
            last = min(first + step, rows)
            slab = spec.undo(tensors.rows(spec.target, first, last))
            target[first:last].copy_(torch.from_numpy(slab))


def _config(base: BaseModel, shape: Configuration) -> Any:
    size, layer = shape.size, shape.layers[-1]
    values: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.head,
        "max_position_embeddings": base.context_length,
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": HEAD not in base.tensors,
        "rope_parameters": _rope(layer.rope),
        "dtype": torch.float32,
        "attn_implementation": "sdpa",
    }
    if shape.family is GEMMA3:
        values |= _windows(shape)
    return AutoConfig.for_model(shape.family.model_type, **values)


def _windows(shape: Configuration) -> dict[str, Any]:
    """What only Gemma has: most of its layers look back over a window, with a rope of their own."""
    kinds = {
        "full_attention" if one.window is None else "sliding_attention": one for one in shape.layers
    }
    local = kinds.get("sliding_attention", shape.layers[0])
    return {
        "layer_types": [
            "full_attention" if one.window is None else "sliding_attention" for one in shape.layers
        ],
        "sliding_window": local.window,
        "query_pre_attn_scalar": shape.size.head,
        "rope_parameters": {kind: _rope(one.rope) for kind, one in kinds.items()},
    }


def _rope(rope: Rope) -> dict[str, Any]:
    if rope.factor == 1:
        return {"rope_type": "default", "rope_theta": rope.theta}
    return {"rope_type": "linear", "rope_theta": rope.theta, "factor": rope.factor}


def _stretch(model: nn.Module, divisors: torch.Tensor) -> None:
    """Llama 3.1's stretched context: the file has what each frequency is divided by, and not the
    parameters that it follows from."""
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):
            buffer.div_(divisors)
