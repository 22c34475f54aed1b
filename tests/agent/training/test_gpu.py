"""The training engine on a real GPU, against the processor and the reference. Skipped without one;
test_device.py shows there, on torch's meta device, that no two devices are mixed."""

import signal
from pathlib import Path

import pytest
import torch

from agent.training import device, graph, precision
from agent.training.device import GPU, PROCESSOR
from agent.training.graph import TrainedModel
from agent.training.weights import MappedWeights
from artifacts import adapter, base_model
from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests.agent.training import driver
from tests.agent.training.driver import Worker, losses
from tests.agent.training.test_families import RECIPES, check_equal, file, folder, recipe
from tests.agent.training.test_graph import gradients, sample

__all__ = ["file", "folder"]

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),
]

SPEC = driver.recipe(steps=40, lora_dropout=0.1, checkpoint_period_s=1, lora_rank=8, lora_alpha=16)


def model_on(
    where: torch.device,
    file: Path,
    spec: job_pb2.TrainSpec,
    data_type: torch.dtype = torch.float32,
) -> TrainedModel:
    """Each with the same adapter, whose B matrices are not zero."""
    base = base_model.read(file)
    model = graph.build(base, MappedWeights(base, data_type, where), spec)
    generator = torch.Generator().manual_seed(5)
    first = graph.build(base, MappedWeights(base, data_type), spec)
    for name, parameter in first.parameters.items():
        noise = 0.05 * torch.randn(parameter.shape, generator=generator)
        model.parameters[name].data.copy_(parameter.data + noise)
    return model


def test_a_gpu_that_computes_right_is_chosen() -> None:
    found = device.choose()
    assert found.device == GPU
    assert torch.cuda.get_device_name() in found.why
    assert device.difference(GPU) < device._TOLERANCE
    assert device.choose("cpu").device == PROCESSOR


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_are_those_of_transformers_and_peft(folder: Path, file: Path, name: str) -> None:
    check_equal(model_on(GPU, file, RECIPES[name]), folder, file, RECIPES[name])


def test_packed_samples_are_as_if_apart(file: Path) -> None:
    pack = [sample(), sample(23, 1), sample(50, 49)]
    together, apart = (model_on(GPU, file, recipe()) for _ in range(2))
    together.summed_loss(*pack).backward()
    for one in pack:
        apart.summed_loss(one).backward()
    for name, parameter in apart.parameters.items():
        found, expected = together.parameters[name].grad, parameter.grad
        assert found is not None, name
        assert expected is not None, name
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name


def test_bfloat16_products_round_and_no_more(file: Path) -> None:
    """As on the processor."""
    native = torch.cuda.get_device_capability() >= (8, 0)
    assert precision.choose(1152, GPU) == (torch.bfloat16 if native else torch.float32)
    exact, rounded = (
        model_on(GPU, file, recipe(), kind) for kind in (torch.float32, torch.bfloat16)
    )
    for model in (exact, rounded):
        model.summed_loss(sample()).backward()
    assert torch.cosine_similarity(gradients(exact), gradients(rounded), dim=0) > 0.999


def test_kills_and_stops_change_no_number(tiny_base: Path, persona: Path, tmp_path: Path) -> None:
    """The attempts of one job, against one that nothing disturbed."""
    with Worker(tiny_base, persona, tmp_path / "undisturbed", SPEC, device="") as worker:
        expected = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    started = next(r.started for r in expected if r.WhichOneof("report") == "started")
    assert started.device == "cuda"
    assert torch.cuda.get_device_name() in started.device_reason
    result = expected[-1].finished.result
    assert result.peak_gpu_bytes > 0
    assert result.final_loss < 0.5 * result.first_loss

    folder = tmp_path / "disturbed"
    with Worker(tiny_base, persona, folder, SPEC, device="") as worker:
        begin = worker.until(lambda r: r.progress.step > 3)
        worker.send(stop=worker_pb2.StopTraining())
        stopped = worker.finish()
    with Worker(tiny_base, persona, folder, SPEC, device="") as worker:
        killed = worker.until(lambda r: r.progress.step > 0)
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
    with Worker(tiny_base, persona, folder, SPEC, device="") as worker:
        last = worker.finish()
        assert last[-1].WhichOneof("report") == "finished", worker.log()

    found = losses([*begin, *stopped, *killed, *last])
    assert found == {step: loss for step, loss in losses(expected).items() if step in found}
    assert 40 in found
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    adapter.unpack(folder / "adapter.tar", ours)
    adapter.unpack(tmp_path / "undisturbed" / "adapter.tar", theirs)
    name = "adapter_model.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_a_job_whose_gpu_is_gone_goes_on_on_the_processor(
    tiny_base: Path, persona: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worker(tiny_base, persona, tmp_path / "job", SPEC, device="") as worker:
        worker.until(lambda r: r.progress.step > 3)
        worker.send(stop=worker_pb2.StopTraining())
        worker.finish()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Worker(tiny_base, persona, tmp_path / "job", SPEC, device="") as worker:
        reports = worker.finish()
        assert reports[-1].WhichOneof("report") == "finished", worker.log()
    started = next(r.started for r in reports if r.WhichOneof("report") == "started")
    assert started.device == "cpu"
    assert started.resumed_at_step > 0
    said = " ".join(r.log.text for r in reports if r.WhichOneof("report") == "log")
    assert "The checkpoint is of cuda: losses may differ." in said
