"""Trainings that break off in a real worker: what is left of them, and what they say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests import disks
from tests.agent.training.driver import Worker, failure, losses, recipe

TMPFS_BYTES = 4 << 20


def is_progress(report: worker_pb2.TrainingReport) -> bool:
    return report.WhichOneof("report") == "progress"


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").iterdir())


def test_divergence_leaves_the_last_sound_checkpoint(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    """Each step doubles the weights, and turns them round: no float32 holds that for long."""
    spec = recipe(learning_rate=1.0, weight_decay=3.0, gradient_clip=0.0, steps=1000,
                  schedule=job_pb2.SCHEDULE_CONSTANT, warmup_fraction=0.0)  # fmt: skip
    folder = tmp_path / "job"
    with Worker(tiny_base, persona, folder, spec) as worker:
        worker.until(is_progress)
        worker.send(stop=worker_pb2.StopTraining())
        stopped = worker.finish()[-1].stopped
    (good,) = checkpoints(folder)
    before = good.read_bytes()

    spec.checkpoint_period_s = 1
    with Worker(tiny_base, persona, folder, spec) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 1
    found = failure(reports)
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert (
        "the training diverged. Lower the learning rate (1), or set gradient_clip" in found.message
    )
    kept = checkpoints(folder)
    for path in kept:
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())
    assert found.message.endswith(f"was kept: {kept[-1]}.")
    if kept == [good]:
        assert f"The checkpoint of step {stopped.step} was kept" in found.message
        assert good.read_bytes() == before


def test_divergence_before_the_first_checkpoint(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    spec = recipe(learning_rate=1e9, gradient_clip=0.0, warmup_fraction=0.0, steps=50)
    with Worker(tiny_base, persona, tmp_path / "job", spec) as worker:
        found = failure(worker.finish())
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert "the training diverged. Lower the learning rate (1e+09)" in found.message
    assert found.message.endswith("No checkpoint had been written.")
    assert not checkpoints(tmp_path / "job")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small_disk(tmp_path / "disk", TMPFS_BYTES) as folder:
        yield folder


def test_a_disk_that_fills_up_costs_no_checkpoint(
    tiny_base: Path, persona: Path, small_disk: Path, tmp_path: Path
) -> None:
    folder = small_disk / "job"
    spec = recipe(steps=6)
    with Worker(tiny_base, persona, folder, spec) as worker:
        first = worker.until(is_progress)
        worker.send(stop=worker_pb2.StopTraining())
        first += worker.finish()
    (good,) = checkpoints(folder)
    before = good.read_bytes()
    ballast = small_disk / "ballast"
    ballast.write_bytes(
        bytes(TMPFS_BYTES - len(before) * 3 // 2 - (folder / "tokens-0.bin").stat().st_size)
    )

    with Worker(tiny_base, persona, folder, spec) as worker:
        full = worker.finish()
        assert worker.process.returncode == 1
    found = failure(full)
    assert found.cause == job_pb2.CAUSE_DISK_FULL
    assert "The disk became full. Free space on the device" in found.message
    assert found.message.endswith(f"was kept: {good}.")
    assert checkpoints(folder) == [good]
    assert good.read_bytes() == before

    ballast.unlink()
    with Worker(tiny_base, persona, folder, spec) as worker:
        last = worker.finish()
        assert last[-1].WhichOneof("report") == "finished", worker.log()
    with Worker(tiny_base, persona, tmp_path / "undisturbed", spec) as worker:
        expected = losses(worker.finish())
    assert {**losses(first), **losses(last)} == expected
