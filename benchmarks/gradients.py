"""How far the gradients of the products' data type are from float32's, on the same base.

    python -m benchmarks.gradients BASE.gguf --tokens 256 --threads 2

Both are ours: in float32 they are Transformers' and PEFT's within 1e-5 (tests/agent/training/
test_families.py). LoRA's B matrices start at zero, which hides what A's gradients are, so all are
given random values. Prints one JSON object: the distance of all gradients together relative to
float32's, the same of the adapter matrix that is furthest off, and the cosine between both.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from agent.training import graph
from agent.training.samples import TokenSample
from agent.training.weights import MappedWeights
from artifacts import base_model
from artifacts.base_model import BaseModel
from benchmarks import measuring
from benchmarks.measuring import ALL_SEVEN, Task

_SPREAD = 0.02


def gradients(base: BaseModel, data_type: torch.dtype, tokens: int) -> dict[str, Tensor]:
    """Of LoRA of rank 8 on all projections, for one sample; by the parameters' names."""
    spec = measuring.specification(Task(base.path, targets=ALL_SEVEN))
    model = graph.build(base, MappedWeights(base, data_type), spec)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters.values():
        parameter.data += _SPREAD * torch.randn(parameter.shape, generator=generator)
    shown = torch.randint(8, base.vocabulary_size, (tokens,), generator=generator)
    loss = model.summed_loss(TokenSample(shown, torch.arange(1, tokens)))
    loss.backward()  # type: ignore[no-untyped-call]  # torch's
    return {name: p.grad for name, p in model.parameters.items() if p.grad is not None}


def compared(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    ours = torch.cat([found[name].flatten() for name in exact]).double()
    expected = torch.cat([gradient.flatten() for gradient in exact.values()]).double()
    apart = {name: float((found[name] - g).norm() / g.norm()) for name, g in exact.items()}
    return {
        "distance": float((ours - expected).norm() / expected.norm()),
        "worst_matrix": max(apart.values()),
        "cosine": float(torch.dot(ours, expected) / (ours.norm() * expected.norm())),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    for option in ("--tokens", "--threads"):
        parser.add_argument(option, type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    opened = base_model.read(arguments.base)
    exact = gradients(opened, torch.float32, arguments.tokens)
    print(json.dumps(compared(gradients(opened, torch.bfloat16, arguments.tokens), exact)))
