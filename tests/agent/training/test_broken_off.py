"""Trainings that break off in a real worker: what is left of them, and what they say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests import disks
from tests.agent.training.conftest import chat
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


def with_second_stage(spec: job_pb2.TrainSpec, **changes: object) -> job_pb2.TrainSpec:
    """Another stage like the first, but for ``changes``, on a dataset of its own."""
    second = spec.stages.add()
    second.CopyFrom(spec.stages[0])
    second.dataset_digest = "sha256:" + "e" * 64
    for name, value in changes.items():
        setattr(second, name, value)
    return spec


def lines(*samples: object) -> str:
    return "".join(json.dumps(sample) + "\n" for sample in samples)


SOUND = {"prompt": "The robot", "completion": " sleeps."}
LONG = {"prompt": "The robot", "completion": " sleeps." * 40}
VERY_LONG = {"prompt": "The robot", "completion": " sleeps." * 900}
EMPTY = {"prompt": "The robot", "completion": ""}
BAD_SECOND = {
    "only empty completions": (
        lines(EMPTY, EMPTY, EMPTY),
        r"second\.jsonl:1: the answer is empty .*Fill it in or remove the line",
    ),
    "only empty answers of chats": (
        lines(*[chat("Who are you?", "")] * 3),
        r"second\.jsonl:1: .*empty\. Fill it in or remove the sample",
    ),
    "no line at all": ("", r"second\.jsonl has no samples.*Write one JSON object in each line"),
    "longer than sequence_length": (
        lines(SOUND, LONG),
        r"second\.jsonl:2: the sample has \d{3} tokens; sequence_length is 160\. Shorten or split "
        r"it, or raise sequence_length \(up to 2048\)",
    ),
    "longer than the model's window": (
        lines(SOUND, SOUND, VERY_LONG),
        r"second\.jsonl:3: the sample has \d{4} tokens; the base model reads 2048 at most\. "
        r"Shorten or split it\.$",
    ),
}


@pytest.mark.parametrize(("content", "said"), BAD_SECOND.values(), ids=BAD_SECOND)
def test_bad_data_of_a_later_stage_is_found_before_the_first_is_trained(
    tiny_base: Path, persona: Path, tmp_path: Path, content: str, said: str
) -> None:
    second = tmp_path / "second"
    second.write_text(content)
    spec = with_second_stage(recipe(), dataset_name="second.jsonl")
    with Worker(tiny_base, [persona, second], tmp_path / "job", spec) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 1
    found = failure(reports)
    assert found.cause == job_pb2.CAUSE_BAD_DATA
    assert re.search(said, found.message, re.DOTALL), found.message
    assert not any(map(is_progress, reports))


def test_a_later_stage_that_asks_for_nothing_is_named(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    spec = with_second_stage(recipe(), steps=0)
    with Worker(tiny_base, persona, tmp_path / "job", spec) as worker:
        found = failure(worker.finish())
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert "stage 2: steps" in found.message


def test_a_sequence_longer_than_the_models_window_is_refused(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    spec = with_second_stage(recipe(sequence_length=2049))
    with Worker(tiny_base, persona, tmp_path / "job", spec) as worker:
        found = failure(worker.finish())
    assert found.cause == job_pb2.CAUSE_BAD_SPEC
    assert "sequence_length" in found.message
    assert "from 2 to the base model's 2048" in found.message


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


def test_a_disk_that_fills_up_in_a_later_stage_costs_no_checkpoint(
    tiny_base: Path, persona: Path, small_disk: Path, tmp_path: Path
) -> None:
    """With an evaluation, so that the checkpoint holds the first stage's best adapter as well."""
    folder = small_disk / "job"
    spec = with_second_stage(recipe(steps=3), steps=5)
    spec.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.2, period_steps=2))
    with Worker(tiny_base, persona, folder, spec) as worker:
        first = worker.until(lambda report: is_progress(report) and report.progress.stage == 2)
        worker.send(stop=worker_pb2.StopTraining())
        first += worker.finish()
    good = checkpoints(folder)[-1]
    before = good.read_bytes()
    full_disk = disks.fill(small_disk)

    with Worker(tiny_base, persona, folder, spec) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 1
    found = failure(reports)
    assert found.cause == job_pb2.CAUSE_DISK_FULL
    assert "Free space on the device, then `nanofleet job resume`" in found.message
    assert found.message.endswith(f"was kept: {good}.")
    assert any(is_progress(report) and report.progress.stage == 2 for report in reports)
    assert checkpoints(folder)[-1] == good
    assert good.read_bytes() == before

    full_disk.unlink()
    with Worker(tiny_base, persona, folder, spec) as worker:
        last = worker.finish()
        assert last[-1].WhichOneof("report") == "finished", worker.log()
    with Worker(tiny_base, persona, tmp_path / "undisturbed", spec) as worker:
        expected = worker.finish()
    assert {**losses(first), **losses(last)} == losses(expected)
    assert last[-1].finished.result.best.loss == expected[-1].finished.result.best.loss
