"""Batch generation on a real agent with a real model: cut, paused, interrupted, refused."""

import json
import os
import signal
from pathlib import Path

import grpc
import pytest

from artifacts import dataset, digest
from artifacts.samples import ChatSample
from protos import errors, status
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.inference_pb2 import GenerateRequest, UnloadModelRequest
from protos.nanofleet.v1.job_pb2 import (
    CancelJobRequest,
    JobEvent,
    JobSpec,
    PauseJobRequest,
    PlanJobRequest,
    ResumeJobRequest,
)
from tests.agent.daemon import Daemon, Stubs
from tests.agent.jobs.samples import FIRST, SECOND, generate_spec
from tests.agent.kitchen import Kitchen, ended, events, submit, until

TINY = Path(__file__).parents[2] / "controller/demo/tiny/tiny-gemma3.gguf"
WORDS = ("sea", "robot", "kitchen", "wave", "fox", "dog", "sun", "story")
PROMPTS = 150


def written(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    packed = path.with_suffix(".zst")
    dataset.compress(path, packed)
    return packed


@pytest.fixture
def batch(daemon: Daemon, tmp_path: Path) -> Kitchen:
    lines = [
        {"topic": WORDS[n % 8], "question": " ".join(WORDS[n * m % 8] for m in range(2 + n % 30))}
        for n in range(PROMPTS)
    ]
    daemon.start()
    return Kitchen(daemon, TINY, written(tmp_path / "questions.jsonl", lines))


def spec(kitchen: Kitchen, **changes: object) -> bytes:
    own = {
        "base_digest": digest.of_file(kitchen.base),
        "dataset_digest": digest.of_file(kitchen.data),
    }
    job = JobSpec(name="teach", generate=generate_spec(**{**own, **changes}))
    return job.SerializeToString(deterministic=True)


async def refusal(stubs: Stubs, content: bytes) -> errors.NanofleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(stubs, content)
    return status.from_rpc_error(caught.value, "the device")


def is_checkpoint_of(attempt: int) -> object:
    return lambda event: event.attempt == attempt and event.HasField("checkpoint")


def is_state(state: "job_pb2.JobState.ValueType") -> object:
    return lambda event: event.transition.to == state


async def test_cut_killed_and_paused_it_gives_the_bytes_of_an_uninterrupted_run(
    batch: Kitchen, tmp_path: Path
) -> None:
    content = spec(batch)
    async with batch.daemon.stubs() as stubs:
        await batch.stock(stubs)
        await submit(stubs, content)
        await until(stubs, is_checkpoint_of(1))
    batch.daemon.kill()
    batch.daemon.start()
    async with batch.daemon.stubs() as stubs:
        await until(stubs, is_checkpoint_of(2))
        noted = json.loads((batch.daemon.state / "workers/batch.json").read_text())
        os.kill(noted["pid"], signal.SIGKILL)
        await until(stubs, is_checkpoint_of(3))
        await stubs.jobs.PauseJob(PauseJobRequest(job_id=FIRST))
        await until(stubs, is_state(job_pb2.JOB_STATE_PAUSED))
        await stubs.jobs.ResumeJob(ResumeJobRequest(job_id=FIRST))
        job = await ended(stubs)
        history = [event async for event in events(stubs)]
        await submit(stubs, content, SECOND)
        whole = await ended(stubs, SECOND)
        packed = await stubs.get(job.result.generated.dataset_digest)

    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    assert [attempt.cause for attempt in job.attempts] == [
        job_pb2.CAUSE_WORKER_CRASH,
        job_pb2.CAUSE_WORKER_CRASH,
        job_pb2.CAUSE_UNSPECIFIED,
        job_pb2.CAUSE_UNSPECIFIED,
    ]
    check_continued(history)
    made, other = job.result.generated, whole.result.generated
    assert made.dataset_digest == other.dataset_digest
    assert (made.kept, list(made.faults), made.tokens) == (
        other.kept,
        list(other.faults),
        other.tokens,
    )
    (tmp_path / "made.zst").write_bytes(packed)
    samples = list(dataset.read(tmp_path / "made.zst"))
    assert len(samples) == made.kept == PROMPTS
    for number, sample in enumerate(samples):
        assert isinstance(sample, ChatSample)
        asked, answer = sample.messages
        assert asked.content.startswith(f"Answer about the {WORDS[number % 8]}: ")
        assert answer.role == "assistant"


def check_continued(history: list[JobEvent]) -> None:
    """Each attempt begins behind the last checkpoint that was told of before it, and none of them
    goes back."""
    done = 0
    for event in history:
        if event.HasField("checkpoint"):
            assert event.checkpoint.step >= done
            done = event.checkpoint.step
        if "Generating, after" in event.log.text:
            assert int(event.log.text.split("after prompt ")[1].split(":")[0]) >= done > 0
    assert done == PROMPTS


async def test_a_request_comes_first(batch: Kitchen) -> None:
    answers = batch.daemon.state / "jobs" / FIRST / "answers.jsonl"
    async with batch.daemon.stubs() as stubs:
        await batch.stock(stubs)
        base = digest.of_file(batch.base)
        warm = GenerateRequest(base_digest=base, prompt="The sea", max_tokens=1)
        [_ async for _ in stubs.inference.Generate(warm)]
        await submit(stubs, spec(batch))
        await until(stubs, is_checkpoint_of(1))
        request = GenerateRequest(
            base_digest=base, prompt="The sea", max_tokens=900, gbnf='root ::= ("a" | "b"){900}'
        )
        request.sampling.temperature = 5.0
        said, counts = 0, []
        async for response in stubs.inference.Generate(request):
            said += len(response.token_ids)
            if said > 700:  # the order to rest has long arrived, on a busy machine, too
                counts.append(answers.read_bytes().count(b"\n"))
        assert said == 900
        assert counts[0] == counts[-1] < PROMPTS, "not a line more while somebody waits"
        job = await ended(stubs)
        await stubs.inference.UnloadModel(UnloadModelRequest())
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.generating.prompts == PROMPTS
    assert len(job.attempts) == 1


async def test_lines_that_cannot_be_answered_are_counted_and_left_out(
    daemon: Daemon, tmp_path: Path
) -> None:
    lines: list[dict[str, object]] = [
        {"topic": "sea", "question": "What is the sea?"},
        {"topic": "sea", "question": "sea " * 400},
        {"topic": " ", "question": " "},
        {"topic": "sea", "question": "What is the sea?"},
    ]
    daemon.start()
    kitchen = Kitchen(daemon, TINY, written(tmp_path / "questions.jsonl", lines))
    content = JobSpec.FromString(spec(kitchen, drop=[job_pb2.ANSWER_FAULT_REPEATED]))
    content.generate.sampling.temperature = 0
    content.generate.chat.messages[0].content = "{question}"
    async with daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        await submit(stubs, content.SerializeToString())
        job = await ended(stubs)
        steps = [step async for step in stubs.jobs.PlanJob(
            PlanJobRequest(spec=content.SerializeToString()))]  # fmt: skip
    made = job.result.generated
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    told = {
        job_pb2.AnswerFault.Name(count.fault).removeprefix("ANSWER_FAULT_"): (
            count.answers,
            count.first_line,
            count.dropped,
        )
        for count in made.faults
    }
    assert told == {
        "PROMPT_EMPTY": (1, 3, True),
        "PROMPT_TOO_LONG": (1, 2, True),
        "REPEATED": (1, 4, True),
    }
    assert (made.prompts, made.kept) == (4, 1)
    plan = steps[-1].plan
    assert [step.check.name for step in steps[:-1]] == ["data", "generation"]
    assert (plan.prompts.prompts, plan.prompts.too_long, plan.prompts.answers) == (4, 1, 2)
    assert plan.peak_bytes > 0
    assert plan.usable_bytes > 0


async def test_what_cannot_be_run_is_refused_or_fails_with_its_cause(
    daemon: Daemon, tmp_path: Path
) -> None:
    daemon.start()
    short = written(tmp_path / "questions.jsonl", [{"topic": "sea", "question": "Who?"}])
    kitchen = Kitchen(daemon, TINY, short)
    async with daemon.stubs() as stubs:
        await kitchen.stock(stubs)
        missing = await refusal(stubs, spec(kitchen, dataset_digest=digest.of_bytes(b"none")))
        assert isinstance(missing, errors.NotFound)
        assert missing.field == "generate.dataset_digest"
        unset = JobSpec.FromString(spec(kitchen))
        unset.generate.ClearField("chat")
        wrong = await refusal(stubs, unset.SerializeToString())
        assert (wrong.field, wrong.what) == (
            "generate.template", "generate.template is not set."
        )  # fmt: skip

        cut = spec(kitchen, max_tokens=1, drop=[job_pb2.ANSWER_FAULT_CUT])
        await submit(stubs, cut)
        job = await ended(stubs)
        assert job.state == job_pb2.JOB_STATE_FAILED
        assert job.attempts[-1].cause == job_pb2.CAUSE_BAD_DATA
        assert job.message.startswith(
            "None of the 1 answers can be kept: 1 cut off at max_tokens (first in line 1). "
        )
        assert job.generating.faults[0].dropped

        await submit(stubs, spec(kitchen, json_schema='{"type": "nothing"}'), SECOND)
        job = await ended(stubs, SECOND)
        assert job.attempts[-1].cause == job_pb2.CAUSE_BAD_SPEC
        assert "The JSON schema cannot be used." in job.message
        await stubs.jobs.CancelJob(CancelJobRequest(job_id=SECOND))
