"""A whole training against a loop written by hand over Transformers, PEFT and torch.optim."""

import math
from pathlib import Path

import pytest
import torch

from agent.training import graph, token_file
from agent.training.samples import Samples
from agent.training.token_file import Example
from agent.training.trainer import Progress, Trainer
from agent.training.weights import MappedWeights
from artifacts.base_model import BaseModel
from tests.agent.training import reference
from tests.agent.training.driver import recipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

STEPS, ACCUMULATION, WARMUP = 6, 3, 2
RATE, CLIP, DECAY = 5e-3, 0.5, 0.1


def examples() -> list[list[Example]]:
    """Five samples, the last of two examples. Answers of 1 to 41 tokens; the longest example is
    longer than the sliding window."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for prompt, answer in ((5, 1), (30, 41), (12, 7), (50, 20), (9, 3), (15, 8)):
        tokens = torch.randint(10, 640, (prompt + answer,), generator=generator).tolist()
        found.append([Example(tokens, [False] * prompt + [True] * answer)])
    return [*found[:4], [*found[4], *found[5]]]


def rate(step: int) -> float:
    """Two steps up, then a cosine that would be zero after the last step."""
    if step < WARMUP:
        return RATE * (step + 1) / WARMUP
    return RATE * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


def test_equals_one_large_batch_for_each_step(
    tiny_folder: Path, base_f32: BaseModel, tmp_path: Path
) -> None:
    """Three samples of unequal length in a step are one mean over all their labelled tokens, in
    however many examples."""
    spec = recipe(steps=STEPS, accumulation=ACCUMULATION, learning_rate=RATE, gradient_clip=CLIP,
                  weight_decay=DECAY, warmup_fraction=WARMUP / STEPS, lora_alpha=12)  # fmt: skip
    path = tmp_path / "tokens.bin"
    samples = Samples(path, token_file.write(path, bytes(32), examples()), seed=1)
    model = graph.build(base_f32, MappedWeights(base_f32, torch.float32), spec)
    stock = reference.stock_lora(tiny_folder, base_f32.path, spec, model)
    theirs = reference.parameters(stock)
    adamw = torch.optim.AdamW(theirs.values(), lr=RATE, weight_decay=DECAY)
    trainer = Trainer(model, [samples], spec, Progress())

    for step in range(STEPS):
        numbers = range(step * ACCUMULATION, (step + 1) * ACCUMULATION)
        batch = [example for number in numbers for example in samples.at(number)]
        labelled = sum(len(sample.labelled) for sample in batch)
        adamw.zero_grad()
        loss = sum(reference.summed_loss(stock, s.tokens, s.labelled) for s in batch) / labelled
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), CLIP)
        adamw.param_groups[0]["lr"] = rate(step)
        adamw.step()

        finished = [trainer.micro_step() for _ in batch][-1]
        assert finished is not None
        assert trainer.progress.samples == (step + 1) * ACCUMULATION
        assert finished.loss == pytest.approx(loss.item(), rel=1e-5)
        assert finished.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
        assert finished.learning_rate == pytest.approx(rate(step))

    moved = torch.cat([p.detach().flatten() for p in theirs.values()])
    found = torch.cat([model.parameters[name].detach().flatten() for name in theirs])
    assert (found - moved).norm() < 1e-3 * moved.norm()
    assert trainer.finished
