"""A teacher answers on a real agent, and a student learns from the answers."""

import json
from pathlib import Path

import pytest

from artifacts import dataset as datasets
from artifacts.samples import ChatSample
from controller import Fleet, JobFile, parse_job
from protos.errors import InvalidDataset, InvalidRequest, NotFound, Refused, WrongBase
from protos.nanofleet.v1 import artifact_pb2, job_pb2
from protos.nanofleet.v1.job_pb2 import JobPlan, PlanCheck
from tests.controller.recipes import job

TINY = Path(__file__).parents[2] / "controller/demo/tiny/tiny-gemma3.gguf"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    asked = ("Who are you?", "Where is the sea?", "What is a robot?", "Why is it so?")
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in asked))
    return path


@pytest.fixture
async def school(fleet: Fleet) -> Fleet:
    await fleet.import_model(TINY, name="teacher")
    return fleet


def teaching(name: str, questions: Path, **keys: object) -> JobFile:
    asked = {
        "base": "teacher",
        "dataset": str(questions),
        "template": "{question}",
        "max_tokens": 24,
        "drop": [],
        "threads": 1,
        **keys,
    }
    return parse_job({"name": name, "device": "kitchen", "generate": asked})


async def test_a_student_learns_what_a_teacher_has_said(school: Fleet, questions: Path) -> None:
    steps = [step.found async for step in school.plan(teaching("teach", questions))]
    assert [step.name for step in steps if isinstance(step, PlanCheck)] == [
        "files", "data", "generation"
    ]  # fmt: skip
    assert isinstance(steps[-1], JobPlan)
    assert steps[-1].prompts.prompts == steps[-1].prompts.answers == 4
    record = await school.submit(teaching("teach", questions))
    with pytest.raises(Refused):
        await school.submit(job("early", Path("job/teach")))
    events = [event async for event in school.watch(record.id)]
    told = [event.generated for event in events if event.HasField("generated")]
    assert told[-1].prompts == told[-1].total_prompts == 4

    ended = school.job("teach")
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, ended.job.message
    assert ended.job.generating == told[-1]
    assert ended.job.result.generated.kept == 4
    student = await school.submit(job("student", Path("job/teach")))
    entry = await school.fetch_result("teach")
    assert (entry.name, entry.kind) == ("teach", artifact_pb2.ARTIFACT_KIND_DATASET)
    assert (entry.details["shape"], entry.details["samples"]) == ("chat", 4)
    assert student.job.spec.train.stages[0].dataset_digest == entry.digest
    learnt = await school.wait(student.id, 120)
    assert learnt.state == job_pb2.JOB_STATE_SUCCEEDED, learnt.job.message

    # An adapter has made no dataset; asked again with it, the teacher answers as one.
    with pytest.raises(InvalidRequest, match="has made an adapter"):
        await school.submit(job("wrong", Path("job/student")))
    await school.fetch_result("student")
    with pytest.raises(WrongBase, match="does not fit the base model teacher"):
        await school.submit(teaching("again", questions, adapter="student"))
    again = await school.submit(teaching("again", questions, base="tiny", adapter="student"))
    worn = await school.wait(again.id, 60)
    assert worn.state == job_pb2.JOB_STATE_SUCCEEDED, worn.job.message


async def test_what_is_wrong_is_found_before_anything_is_sent(
    school: Fleet, questions: Path, tmp_path: Path
) -> None:
    before = school.jobs()
    with pytest.raises(InvalidDataset) as caught:
        await school.submit(teaching("typo", questions, template="{qestion}"))
    assert caught.value.fix == "Did you mean {question}?"
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidDataset, match="nothing to answer"):
        await school.submit(teaching("empty", tmp_path / "empty.jsonl"))
    with pytest.raises(InvalidDataset, match="prompts without answers"):
        await school.submit(job("lazy", Path("questions")))
    with pytest.raises(NotFound):
        await school.submit(teaching("lost", questions, adapter="nobody"))
    assert school.jobs() == before


async def test_a_dataset_that_trains_can_be_asked_again(
    school: Fleet, dataset: Path, tmp_path: Path
) -> None:
    record = await school.submit(teaching("again", dataset, template=None, system="Be brief."))
    ended = await school.wait(record.id, 60)
    assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, ended.job.message
    entry = await school.fetch_result(record.id)
    await school.pull("kitchen", entry.digest, tmp_path / "made.zst")
    samples = list(datasets.read(tmp_path / "made.zst"))
    assert len(samples) == 6
    for sample in samples:
        assert isinstance(sample, ChatSample)
        assert [message.role for message in sample.messages] == ["system", "user", "assistant"]
