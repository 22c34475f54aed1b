"""Where a training computes. There is no GPU in the tests: torch's meta device, which knows where
tensors are and nothing of their values, shows that the engine mixes no two devices."""

from pathlib import Path

import pytest
import torch

from agent.training import device, graph
from agent.training.device import PROCESSOR
from agent.training.weights import MappedWeights
from artifacts import base_model
from artifacts.convert import FileType, convert_model
from tests.agent.training.test_families import SHAPES, recipe
from tests.agent.training.test_graph import sample
from tests.artifacts.convert import shapes

META = torch.device("meta")


def test_the_processor_is_chosen_where_torch_has_no_gpu() -> None:
    assert not torch.cuda.is_available()
    automatic, asked = device.choose(), device.choose("cuda")
    assert automatic == asked
    assert automatic.device == PROCESSOR
    assert "finds no GPU" in automatic.why
    assert "as asked" in device.choose("cpu").why


def test_the_test_of_a_gpu_sees_no_difference_from_the_processor_itself() -> None:
    assert device.difference(PROCESSOR) == 0


def test_the_test_of_a_gpu_sees_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a product that leaves out one of its terms, as a broken kernel would."""
    right = torch.mm
    answers = iter([right, right, lambda a, b: right(a[:, :-1], b[:-1]), right])
    monkeypatch.setattr(torch, "mm", lambda a, b: next(answers)(a, b))
    assert device.difference(PROCESSOR) > device._TOLERANCE


@pytest.mark.parametrize("data_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("file_type", [FileType.Q8_0, FileType.Q4_0, FileType.QINT8])
@pytest.mark.parametrize("family", SHAPES)
def test_forward_and_backward_stay_on_one_device(
    family: str, file_type: FileType, data_type: torch.dtype, tmp_path: Path
) -> None:
    name, changes = SHAPES[family]
    file = tmp_path / "base.gguf"
    convert_model(shapes.build(name, tmp_path / name, **changes), file, file_type)
    base = base_model.read(file)
    model = graph.build(base, MappedWeights(base, data_type, META), recipe(stored_layers=1))
    loss, run = model.forward_and_gradient([sample(), sample(23, 1)])
    model.backward(run, torch.ones((), device=META))
    assert loss.device == META
    assert {parameter.device for parameter in model.parameters.values()} == {META}
    assert all(p.grad is not None and p.grad.device == META for p in model.parameters.values())
