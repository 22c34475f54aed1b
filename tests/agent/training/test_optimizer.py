"""Our AdamW and clipping against torch's own, number for number."""

import pytest
import torch

from agent.training.optimizer import AdamW


def parameters() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (4, 30), "b": (20, 4)}
    return {
        name: torch.randn(shape, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def set_gradients(*sets: dict[str, torch.Tensor], seed: int) -> None:
    for found in sets:
        generator = torch.Generator().manual_seed(seed)
        for parameter in found.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_torch_over_20_steps(weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    adamw = AdamW(ours, weight_decay)
    expected = torch.optim.AdamW(theirs.values(), lr=1e-2, weight_decay=weight_decay)
    for step in range(20):
        rate = 1e-2 * (step + 1) / 20
        expected.param_groups[0]["lr"] = rate
        set_gradients(ours, theirs, seed=step)
        adamw.step(rate)
        expected.step()
        for name, parameter in ours.items():
            assert torch.equal(parameter, theirs[name]), (step, name)


@pytest.mark.parametrize("limit", [0.5, 1000.0])
def test_clips_as_torch_does(limit: float) -> None:
    ours, theirs = parameters(), parameters()
    set_gradients(ours, theirs, seed=3)
    norm = AdamW(ours, 0).clip(limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs.values(), limit)
    assert norm == pytest.approx(float(expected))
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad)


def test_a_limit_of_zero_leaves_the_gradients() -> None:
    ours = parameters()
    set_gradients(ours, seed=3)
    before = {name: p.grad.clone() for name, p in ours.items() if p.grad is not None}
    assert AdamW(ours, 0).clip(0) > 1
    for name, gradient in before.items():
        assert torch.equal(gradient, torch.as_tensor(ours[name].grad))
