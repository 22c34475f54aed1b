"""A worker that is asked to rehearse its job: what it shows, waits for, and does not change."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from agent.training import comparison, room
from agent.training.failures import TrainingFailure
from agent.training.preflight import STEPS, TRIAL
from artifacts import adapter
from artifacts.convert import FileType, convert_model
from protos.nanofleet.v1 import job_pb2, worker_pb2
from tests.agent.training.driver import Worker, losses, recipe
from tests.tiny import build_hugging_face_folder

# A job that no test waits for.
LONG = recipe(steps=100_000, lora_dropout=0.1, accumulation=1)


@pytest.fixture
def rehearsing(tiny_base: Path, persona: Path, tmp_path: Path) -> Iterator[Worker]:
    """A long job that has come to its rehearsal, and waits."""
    with Worker(tiny_base, persona, tmp_path / "job", LONG, rehearse=True) as worker:
        yield worker


def until_rehearsed(worker: Worker) -> list[worker_pb2.TrainingReport]:
    return worker.until(lambda report: report.HasField("rehearsed"))


def checks(reports: list[worker_pb2.TrainingReport]) -> list[str]:
    return [report.check.name for report in reports if report.HasField("check")]


def test_a_rehearsal_changes_no_number(
    tiny_base: Path, persona: Path, tmp_path: Path, rehearsing: Worker
) -> None:
    before = until_rehearsed(rehearsing)
    assert checks(before) == ["data", "memory", "training", "checkpoint", "adapter"]
    assert list(losses(before)) == list(range(1, STEPS + 1))
    done = before[-1].rehearsed
    assert Path(done.adapter_path) == tmp_path / "job" / TRIAL / adapter.GGUF
    assert Path(done.adapter_path).stat().st_size > 0
    rehearsing.send(resume=worker_pb2.ResumeTraining())
    after = rehearsing.until(lambda report: report.progress.step == 2 * STEPS)
    assert not (tmp_path / "job" / TRIAL).exists()
    with Worker(tiny_base, persona, tmp_path / "straight", LONG) as worker:
        straight = worker.until(lambda report: report.progress.step == 2 * STEPS)
    assert losses([*before, *after]) == losses(straight)
    assert checks(straight) == []


def test_what_stops_while_it_waits_goes_on_from_there(
    tiny_base: Path, persona: Path, tmp_path: Path, rehearsing: Worker
) -> None:
    until_rehearsed(rehearsing)
    rehearsing.send(stop=worker_pb2.StopTraining())
    last = rehearsing.finish()[-1]
    assert last.stopped.step == STEPS
    assert not (tmp_path / "job" / TRIAL).exists()
    with Worker(tiny_base, persona, tmp_path / "job", LONG, rehearse=True) as worker:
        again = until_rehearsed(worker)
    # What the data and the memory are was seen before the checkpoint that it goes on from.
    assert checks(again) == ["training", "checkpoint", "adapter"]
    assert list(losses(again)) == list(range(STEPS + 1, 2 * STEPS + 1))


def test_a_short_job_is_its_own_rehearsal(tiny_base: Path, persona: Path, tmp_path: Path) -> None:
    """It is told how long it will take, and waits for nobody."""
    spec = recipe(steps=30)
    spec.evaluation.CopyFrom(job_pb2.Evaluation(held_out_fraction=0.3, period_steps=15))
    with Worker(tiny_base, persona, tmp_path / "job", spec, rehearse=True) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    assert checks(reports) == ["data", "memory", "training"]
    (done,) = [report.rehearsed for report in reports if report.HasField("rehearsed")]
    assert done.adapter_path == ""
    assert done.plan.duration_s == done.plan.stages[0].duration_s > 0
    assert (done.plan.stages[0].samples, done.plan.stages[0].held_out_samples) == (3, 2)
    result = reports[-1].finished.result
    assert done.plan.measured_peak_bytes <= result.peak_rss_bytes


def test_a_checkpoint_that_is_not_what_was_trained_is_told(
    tmp_path: Path, rehearsing: Worker
) -> None:
    until_rehearsed(rehearsing)
    trial = tmp_path / "job" / TRIAL
    compared = comparison.checkpoint_with_export(LONG, tmp_path / "job", trial)
    weights = load_file(trial / adapter.SAFETENSORS)
    assert compared == len(weights)
    name = sorted(weights)[0]
    weights[name][0, 0] += 1e-3
    save_file(weights, trial / adapter.SAFETENSORS)
    with pytest.raises(TrainingFailure, match=rf"\(1 of {compared} tensors differ\)"):
        comparison.checkpoint_with_export(LONG, tmp_path / "job", trial)


def test_memory_that_is_not_there_is_told_by_a_process_that_lives() -> None:
    room.take(1 << 20)
    with pytest.raises(TrainingFailure, match="cannot be taken now") as caught:
        room.take(1 << 60)
    assert caught.value.cause == job_pb2.CAUSE_OOM
    assert "memory_budget" in caught.value.message


def test_samples_of_many_lengths_take_no_more_memory_than_one(tmp_path: Path) -> None:
    """Libraries that prepare a product for each shape must not keep them all. Wide enough for
    bfloat16, where they do."""
    folder = build_hugging_face_folder(tmp_path / "wide", layers=2, hidden=1024)
    convert_model(folder, tmp_path / "wide.gguf", FileType.Q8_0)
    data = tmp_path / "lengths.jsonl"
    lines = [{"text": "a " * length} for length in range(4, 130)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = recipe(steps=60, sequence_length=300)
    with Worker(tmp_path / "wide.gguf", data, tmp_path / "job", spec, rehearse=True) as worker:
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    (plan,) = [report.rehearsed.plan for report in reports if report.HasField("rehearsed")]
    result = reports[-1].finished.result
    assert result.peak_rss_bytes <= 1.1 * plan.peak_bytes


def test_a_rehearsal_alone_rests_between_its_steps_and_goes_on(
    tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    with Worker(tiny_base, persona, tmp_path / "job", LONG, plan=True) as worker:
        worker.send(pause=worker_pb2.PauseTraining())
        before = worker.until(lambda report: report.HasField("paused"))
        assert checks(before) == ["data", "memory"]
        worker.send(resume=worker_pb2.ResumeTraining())
        after = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    assert [report.WhichOneof("report") for report in after[:1]] == ["resumed"]
    assert checks(after) == ["training", "checkpoint", "adapter"]
    assert after[-1].rehearsed.plan.stages[0].steps == LONG.stages[0].steps


@pytest.mark.parametrize("first", ["pause", "stop"])
def test_a_rehearsal_alone_that_is_told_to_stop_has_no_plan(
    first: str, tiny_base: Path, persona: Path, tmp_path: Path
) -> None:
    with Worker(tiny_base, persona, tmp_path / "job", LONG, plan=True) as worker:
        if first == "pause":
            worker.send(pause=worker_pb2.PauseTraining())
            worker.until(lambda report: report.HasField("paused"))
        worker.send(stop=worker_pb2.StopTraining())
        reports = worker.finish()
        assert worker.process.returncode == 0, worker.log()
    assert reports[-1].HasField("stopped")
    assert "training" not in checks(reports)
    assert not any(report.HasField("rehearsed") for report in reports)
