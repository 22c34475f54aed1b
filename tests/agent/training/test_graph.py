"""What the graph keeps whatever the settings, and bounded rounding in bfloat16; that it is the
reference's is in test_families.py."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from agent.training import graph
from agent.training.graph import TrainedModel
from agent.training.samples import TokenSample
from agent.training.weights import MappedWeights
from artifacts.base_model import BaseModel
from protos.nanofleet.v1 import job_pb2
from tests.agent.training.driver import recipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def trained_model(
    base: BaseModel, spec: job_pb2.TrainSpec, data_type: torch.dtype = torch.float32
) -> TrainedModel:
    """LoRA's B matrices are zero at first, and hide every error in the gradients of A."""
    model = graph.build(base, MappedWeights(base, data_type), spec)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def sample(length: int = 90, prompt: int = 40) -> TokenSample:
    """Longer than the sliding window, so that it bites."""
    tokens = torch.randint(10, 640, (length,), generator=torch.Generator().manual_seed(1))
    return TokenSample(tokens, torch.arange(prompt, length))


def gradients(model: TrainedModel) -> Tensor:
    found = [parameter.grad for parameter in model.parameters.values()]
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stored", [2, 6, 99])
def test_stored_layers_change_nothing(base: BaseModel, stored: int, dropout: float) -> None:
    found = []
    for stored_layers in (0, stored):
        spec = recipe(stored_layers=stored_layers, lora_dropout=dropout)
        model = trained_model(base, spec)
        torch.manual_seed(11)
        loss = model.summed_loss(sample())
        loss.backward()
        found.append((loss.item(), gradients(model), torch.get_rng_state()))
    (loss, gradient, state), (other_loss, other_gradient, other_state) = found
    assert loss == other_loss
    assert torch.equal(gradient, other_gradient)
    assert torch.equal(state, other_state)


def test_bfloat16_products_round_and_no_more(base: BaseModel) -> None:
    exact, rounded = (
        trained_model(base, recipe(), data_type) for data_type in (torch.float32, torch.bfloat16)
    )
    losses = [model.summed_loss(sample()) for model in (exact, rounded)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=2e-3)
    expected, found = gradients(exact), gradients(rounded)
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_only_the_targets_are_trained(base: BaseModel) -> None:
    model = graph.build(
        base, MappedWeights(base, torch.float32), recipe(lora_targets=["q_proj", "down_proj"])
    )
    assert {name.split(".")[3] for name in model.parameters} == {"q_proj", "down_proj"}
    assert len(model.parameters) == 6 * 2 * 2


def test_the_seed_decides_the_first_adapter(base: BaseModel) -> None:
    def first(seed: int) -> Tensor:
        model = graph.build(base, MappedWeights(base, torch.float32), recipe(seed=seed))
        return next(iter(model.parameters.values())).detach()

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_training_loads_no_compiler(base: BaseModel) -> None:
    """torch.optim and torch.utils.checkpoint would load it, at the price of 68 MB."""
    program = f"""
import sys, torch
from pathlib import Path
from agent.training import graph, optimizer
from agent.training.samples import TokenSample
from agent.training.weights import MappedWeights
from artifacts import base_model
from tests.agent.training.driver import recipe
base = base_model.read(Path({str(base.path)!r}))
model = graph.build(base, MappedWeights(base, torch.float32), recipe())
before = set(sys.modules)
adamw = optimizer.AdamW(model.parameters, 0)
model.summed_loss(TokenSample(torch.arange(60), torch.arange(20, 60))).backward()
adamw.step(1e-3)
print(sorted(set(sys.modules) - before))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert child.stdout.decode().strip() == "[]"
