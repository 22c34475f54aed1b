"""The loss in chunks equals the loss over whole logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agent.training.loss import cross_entropy
from agent.training.weights import MappedWeights, PlainWeight, QInt8Weight, Scratch, Weight
from artifacts.base_model import BaseModel

VOCABULARY, WIDTH, POSITIONS = 700, 48, 9


def head(scale: float = 0.3) -> Weight:
    matrix = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0)) * scale
    return PlainWeight(matrix, VOCABULARY, WIDTH, Scratch(torch.float32))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).requires_grad_()
    # The first and the last row of the head are among the targets, and one target twice.
    targets = torch.tensor([0, VOCABULARY - 1, 5, 5, 127, 128, 300, 511, 512])
    return hidden, targets


@pytest.mark.parametrize("chunk_rows", [1, 7, 128, VOCABULARY - 1, VOCABULARY, 5000])
@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_equals_the_loss_over_whole_logits(chunk_rows: int, scale: float) -> None:
    """With scale 30 the logits reach hundreds: exp() without the running maximum overflows."""
    hidden, targets = inputs()
    weight = head(scale)
    loss, found = cross_entropy(hidden.detach(), weight, targets, chunk_rows=chunk_rows)

    expected = functional.cross_entropy(hidden @ weight.dense().T, targets, reduction="sum")
    expected.backward()
    without, none = cross_entropy(
        hidden.detach(), weight, targets, with_gradient=False, chunk_rows=chunk_rows
    )
    assert (without, none) == (loss, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, hidden.grad, rtol=1e-4, atol=1e-5 * scale)


def test_with_the_quantised_head_of_a_model(base: BaseModel) -> None:
    weight = MappedWeights(base, torch.float32).matrix("token_embd.weight", (640, 128))
    hidden = torch.randn(5, 128, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([0, 639, 100, 255, 256])
    dense = weight.gather(torch.arange(640))
    expected = functional.cross_entropy(hidden @ dense.T, targets, reduction="sum")
    loss, _ = cross_entropy(hidden, weight, targets, chunk_rows=256)
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("chunk_rows", [7, 128, VOCABULARY])
def test_with_a_head_that_has_a_scale_for_each_row(chunk_rows: int) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(-127, 128, (VOCABULARY, WIDTH), generator=generator, dtype=torch.int8)
    scale = torch.rand(VOCABULARY, generator=generator) / 100
    weight = QInt8Weight(values, scale, VOCABULARY, WIDTH, Scratch(torch.float32))
    hidden, targets = inputs()
    loss, found = cross_entropy(hidden.detach(), weight, targets, chunk_rows=chunk_rows)
    dense = values.float() * scale[:, None]
    expected = functional.cross_entropy(hidden @ dense.T, targets, reduction="sum")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(found, hidden.grad, rtol=1e-4, atol=1e-5)


def test_not_finite_is_not_hidden() -> None:
    hidden, targets = inputs()
    with torch.no_grad():
        hidden[3] = torch.nan
    loss, _ = cross_entropy(hidden.detach(), head(), targets)
    assert not loss.isfinite()
