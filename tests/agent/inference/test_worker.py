"""The worker as the agent sees it: a process, and frames on two pipes."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.inference.engines import ENGINES
from agent.inference.queue import LIMIT
from agent.workers.channel import FrameReader, FrameWriter
from artifacts.adapter import GGUF
from protos.nanofleet.v1 import inference_pb2, job_pb2, worker_pb2
from tests.agent.inference.conftest import TinyAdapter
from tests.tiny import SPECIAL

PROMPT = "The quick brown fox jumps over the lazy dog, and then"
# <eos> and <end_of_turn> of tests/tiny.py.
END_TOKENS = (1, len(SPECIAL) + 1)
Command = worker_pb2.InferenceCommand


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    commands: FrameWriter
    reports: FrameReader[worker_pb2.InferenceReport]
    listening: bool = True

    def hang_up(self) -> None:
        """Once: a second close could hit a descriptor that has a new owner."""
        if self.listening:
            self.listening = False
            self.commands.close()

    def open(
        self,
        base: Path,
        context_length: int = 512,
        engine: str = "",
        cache: Path | None = None,
        streams: int = 1,
    ) -> worker_pb2.InferenceReport:
        command = worker_pb2.OpenModel(
            base_path=str(base),
            context_length=context_length,
            threads=1,
            engine=engine,
            cache_folder=str(cache or ""),
            streams=streams,
        )
        self.commands.write(Command(open=command))
        return self.report()

    def start(
        self,
        request_id: int,
        request: inference_pb2.GenerateRequest,
        adapter: str = "",
        deadline_s: float = 0.0,
    ) -> None:
        start = worker_pb2.StartGeneration(
            request_id=request_id, request=request, adapter_path=adapter, deadline_s=deadline_s
        )
        self.commands.write(Command(start=start))

    def cancel(self, request_id: int) -> None:
        cancel = worker_pb2.CancelGeneration(request_id=request_id)
        self.commands.write(Command(cancel=cancel))

    def report(self) -> worker_pb2.InferenceReport:
        report = self.reports.read()
        assert report is not None, "the worker has ended"
        return report

    def embed(self, request_id: int, request: inference_pb2.EmbedRequest) -> None:
        embed = worker_pb2.StartEmbedding(request_id=request_id, request=request)
        self.commands.write(Command(embed=embed))

    def score(self, request_id: int, request: inference_pb2.ScoreRequest) -> None:
        score = worker_pb2.StartScoring(request_id=request_id, request=request)
        self.commands.write(Command(score=score))

    def until_finished(self, *request_ids: int) -> dict[int, "Outcome"]:
        """Everything that is reported until each of the requests has ended."""
        outcomes = {request_id: Outcome() for request_id in request_ids}
        while not all(outcome.ended for outcome in outcomes.values()):
            report = self.report()
            assert report.WhichOneof("report") in ("chunk", "failed"), report
            if report.HasField("chunk"):
                outcomes[report.chunk.request_id].add(report.chunk.response)
            else:
                outcomes[report.failed.request_id].failed = report.failed
        return outcomes

    def answer(
        self, request: inference_pb2.GenerateRequest, adapter: TinyAdapter | None = None
    ) -> "Outcome":
        if adapter:
            request.adapter_digest = adapter.adapter.digest
        self.start(1, request, str(adapter.adapter.path) if adapter else "")
        return self.until_finished(1)[1]


class Outcome:
    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[int] = []
        self.last: inference_pb2.GenerateResponse | None = None
        self.failed: worker_pb2.GenerationFailed | None = None

    @property
    def ended(self) -> bool:
        return self.last is not None or self.failed is not None

    @property
    def usage(self) -> inference_pb2.Usage:
        assert self.last
        return self.last.usage

    @property
    def finish(self) -> inference_pb2.FinishReason.ValueType:
        assert self.last
        return self.last.finish_reason

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        assert not self.ended
        self.text += response.text
        self.tokens += response.token_ids
        if response.finish_reason:
            self.last = response


@contextmanager
def spawned() -> Iterator[Worker]:
    """A worker that was asked nothing yet; it must end by itself when the pipe closes."""
    command_read, command_write = os.pipe()
    report_read, report_write = os.pipe()
    # About a hundred reports: an answer that nobody reads stands still, on a busy machine too.
    fcntl.fcntl(report_read, fcntl.F_SETPIPE_SZ, 4096)
    arguments = ["--commands", command_read, "--reports", report_write, "--parent", os.getpid()]
    process = subprocess.Popen(
        [sys.executable, "-m", "agent.inference.worker", *map(str, arguments)],
        pass_fds=(command_read, report_write),
    )
    os.close(command_read)
    os.close(report_write)
    reports = FrameReader(report_read, worker_pb2.InferenceReport)
    worker = Worker(process, FrameWriter(command_write), reports)
    try:
        yield worker
    finally:
        worker.hang_up()
        while reports.read() is not None:
            pass
        reports.close()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def worker(lively_base_q8: Path) -> Iterator[Worker]:
    with spawned() as started:
        opened = started.open(lively_base_q8).opened
        assert opened.context_length == 512
        assert opened.load_s > 0
        assert opened.anonymous_bytes > 0
        assert opened.file_bytes > lively_base_q8.stat().st_size
        yield started
    assert started.process.returncode == 0


def asked(prompt: str = PROMPT, max_tokens: int = 16) -> inference_pb2.GenerateRequest:
    return inference_pb2.GenerateRequest(prompt=prompt, max_tokens=max_tokens)


def endless() -> inference_pb2.GenerateRequest:
    """Neither a turn's end nor a loop ends it."""
    request = asked("Once upon a time", max_tokens=400)
    request.sampling.temperature = 1.5
    for token in END_TOKENS:
        request.sampling.logit_bias[token] = float("-inf")
    return request


def test_adapters_failures_and_good_requests_in_one_process(
    worker: Worker, first: TinyAdapter, second: TinyAdapter, broken: TinyAdapter
) -> None:
    base = worker.answer(asked())
    one, two = worker.answer(asked(), first), worker.answer(asked(), second)
    assert len({tuple(outcome.tokens) for outcome in (base, one, two)}) == 3

    missing = asked()
    missing.adapter_digest = "sha256:" + "0" * 64
    worker.start(1, missing, "/nowhere/adapter.gguf")
    no_adapter = worker.until_finished(1)[1].failed
    too_long = worker.answer(asked(PROMPT * 100)).failed
    not_finite = worker.answer(asked(), broken).failed
    warm = asked()
    warm.sampling.temperature = -1
    impossible = worker.answer(warm).failed
    assert no_adapter
    assert too_long
    assert not_finite
    assert impossible
    assert no_adapter.reason == "ADAPTER_UNUSABLE"
    assert too_long.reason == "PROMPT_TOO_LONG"
    assert "512" in too_long.message
    assert not_finite.reason == "NON_FINITE_LOGITS"
    assert impossible.reason == "INVALID_SAMPLING"

    again = worker.answer(asked(), first)
    assert again.tokens == one.tokens
    assert again.usage.cached_tokens > 0
    assert worker.answer(asked()).tokens == base.tokens


def test_usage_comes_with_the_last_message(worker: Worker) -> None:
    outcome = worker.answer(asked("A prompt that nobody sent before.", max_tokens=10))
    usage = outcome.usage
    assert outcome.finish == inference_pb2.FINISH_REASON_LENGTH
    assert usage.completion_tokens == len(outcome.tokens) == 10
    assert usage.prompt_tokens > 0
    assert usage.queue_s >= 0
    assert usage.prefill_s > 0
    assert usage.decode_s > 0
    assert usage.decode_tokens_per_s > 0


def test_a_chat_is_answered(worker: Worker) -> None:
    request = inference_pb2.GenerateRequest(max_tokens=8)
    request.chat.messages.add(role="user", content="What is the name of the robot?")
    assert worker.answer(request).ended
    request.chat.messages.add(role="user", content="And mine?")
    failed = worker.answer(request).failed
    assert failed
    assert "alternate" in failed.why


def test_a_running_and_a_waiting_request_are_cancelled(worker: Worker) -> None:
    worker.start(1, endless())
    worker.start(2, asked())
    first_chunk = worker.report().chunk
    assert first_chunk.request_id == 1
    assert not first_chunk.response.finish_reason
    worker.cancel(2)
    worker.cancel(1)
    worker.cancel(99)
    outcomes = worker.until_finished(1, 2)
    assert outcomes[1].finish == inference_pb2.FINISH_REASON_CANCELED
    assert outcomes[2].finish == inference_pb2.FINISH_REASON_CANCELED
    assert not outcomes[2].tokens
    assert worker.answer(asked()).finish == inference_pb2.FINISH_REASON_LENGTH


def test_more_requests_than_may_wait_are_told_to_come_back(worker: Worker) -> None:
    too_many = 8
    request_ids = range(1, 1 + LIMIT + too_many)
    for request_id in request_ids:
        worker.start(request_id, endless() if request_id == 1 else asked(max_tokens=1))
    outcomes = worker.until_finished(*request_ids)
    refused = [outcome.failed for outcome in outcomes.values() if outcome.failed]
    assert {failed.reason for failed in refused} == {"BUSY"}
    # One less when the first had left the queue before the last one came.
    assert len(refused) in (too_many - 1, too_many)


def test_the_adapter_that_is_set_is_served_first(
    worker: Worker, first: TinyAdapter, second: TinyAdapter
) -> None:
    worker.start(1, endless())
    worker.report()
    for request_id, tiny in enumerate([first, second, first], start=2):
        request = asked(max_tokens=2)
        request.adapter_digest = tiny.adapter.digest
        worker.start(request_id, request, str(tiny.adapter.path))
    ended: list[int] = []
    while len(ended) < 4:
        chunk = worker.report().chunk
        if chunk.response.finish_reason:
            ended.append(chunk.request_id)
    assert ended == [1, 2, 4, 3]


def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed(worker: Worker) -> None:
    worker.start(1, endless())
    worker.report()
    late, patient, urgent = asked(max_tokens=2), asked(max_tokens=2), asked(max_tokens=2)
    patient.priority = inference_pb2.PRIORITY_LOW
    urgent.priority = inference_pb2.PRIORITY_HIGH
    for request_id, request in enumerate((late, patient, asked(max_tokens=2), urgent), start=2):
        deadline_s = time.monotonic() + 1e-3 if request is late else 0.0
        worker.start(request_id, request, deadline_s=deadline_s)
    failed: worker_pb2.GenerationFailed | None = None
    ended: list[int] = []
    while len(ended) < 4:
        report = worker.report()
        if report.HasField("failed"):
            failed = report.failed
            assert 1 not in ended, "it is told at its deadline, not when its turn would come"
        elif report.chunk.response.finish_reason:
            ended.append(report.chunk.request_id)
    assert ended == [1, 5, 4, 3]
    assert failed
    assert (failed.request_id, failed.reason) == (2, "DEADLINE_PASSED")


def test_embeddings_and_scores_come_one_by_one(worker: Worker) -> None:
    texts = ["the sea", "the sea is wide"]
    worker.embed(1, inference_pb2.EmbedRequest(texts=texts, normalized=True))
    embeddings = [worker.report().embedding for _ in texts]
    assert [(e.request_id, e.response.index) for e in embeddings] == [(1, 0), (1, 1)]
    assert all(len(e.response.embedding) == 128 for e in embeddings)
    items = [
        inference_pb2.ScoreItem(prompt="the sea", completion=" is wide"),
        inference_pb2.ScoreItem(completion="the sea is wide"),
    ]
    worker.score(2, inference_pb2.ScoreRequest(items=items))
    scores = [worker.report().score for _ in items]
    assert [(s.request_id, s.response.index) for s in scores] == [(2, 0), (2, 1)]
    for score in scores:
        assert score.response.logprob_sum < 0
        mean = score.response.logprob_sum / score.response.tokens
        assert score.response.logprob_mean == pytest.approx(mean)
    worker.embed(3, inference_pb2.EmbedRequest(texts=[""]))
    assert worker.report().failed.field == "texts"


def test_several_answers_at_once_are_each_as_if_alone(
    lively_base_q8: Path, first: TinyAdapter
) -> None:
    """Of prompts and lengths of their own, with a wrong one among them, and one that is canceled
    while the others go on."""
    requests = {1: asked("Once", 30), 2: asked(PROMPT, 12), 3: asked("The sea " * 40, 20)}
    requests[4] = asked()
    requests[4].gbnf = "root"
    adapted = asked("With another adapter", 5)
    adapted.adapter_digest = first.adapter.digest
    with spawned() as worker:
        opened = worker.open(lively_base_q8, context_length=2048, streams=4).opened
        assert opened.streams == 4
        alone = {number: worker.answer(request) for number, request in requests.items()}
        worker.start(9, endless())
        worker.report()
        for number, request in requests.items():
            worker.start(number, request)
        worker.start(5, adapted, str(first.adapter.path))
        together: dict[int, Outcome] = {number: Outcome() for number in requests}
        endless_tokens = 0
        while not all(outcome.ended for outcome in together.values()):
            report = worker.report()
            if report.HasField("failed"):
                together[report.failed.request_id].failed = report.failed
            elif report.chunk.request_id == 9:
                endless_tokens += len(report.chunk.response.token_ids)
            else:
                together[report.chunk.request_id].add(report.chunk.response)
        assert endless_tokens > 0, "it went on beside the others"
        worker.cancel(9)
        rest = {5: Outcome(), 9: Outcome()}
        while not all(outcome.ended for outcome in rest.values()):
            chunk = worker.report().chunk
            rest[chunk.request_id].add(chunk.response)
    assert rest[9].finish == inference_pb2.FINISH_REASON_CANCELED
    assert len(rest[5].tokens) == 5
    for number in (1, 2, 3):
        assert together[number].tokens == alone[number].tokens
    for outcome in (together[4], alone[4]):
        assert outcome.failed
        assert outcome.failed.reason == "INVALID_GRAMMAR"


@pytest.mark.parametrize(
    "content", [b"", b"no model at all" * 100, b"GGUF\x03\0\0\0" + b"\xff" * 99]
)
def test_a_file_that_is_no_model_ends_the_worker_with_a_sentence(
    content: bytes, tmp_path: Path
) -> None:
    base = tmp_path / "garbage.gguf"
    base.write_bytes(content)
    with spawned() as worker:
        failed = worker.open(base).worker_failed
        assert worker.process.wait(timeout=60) == 1
    assert failed.cause == job_pb2.CAUSE_BAD_DATA
    assert "garbage.gguf could not be loaded" in failed.message
    assert "import it again" in failed.message


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_serves_and_keeps_its_proof(
    engine: str, lively_base_q8: Path, first: TinyAdapter, tmp_path: Path
) -> None:
    own = ENGINES[engine].adapter_file
    path = first.adapter.path if own == GGUF else first.folder / own
    with spawned() as worker:
        opened = worker.open(lively_base_q8, engine=engine, cache=tmp_path)
        assert opened.opened.context_length == 512
        plain = worker.answer(asked())
        request = asked()
        request.adapter_digest = first.adapter.digest
        worker.start(2, request, str(path))
        adapted = worker.until_finished(2)[2]
    assert plain.tokens != adapted.tokens
    assert adapted.finish == inference_pb2.FINISH_REASON_LENGTH
    assert (tmp_path / "proved" / engine).is_file()


def test_an_unknown_engine_ends_the_worker_with_a_sentence(lively_base_q8: Path) -> None:
    with spawned() as worker:
        failed = worker.open(lively_base_q8, engine="lama").worker_failed
        assert worker.process.wait(timeout=60) == 1
    assert "Did you mean llama?" in failed.message


def test_a_worker_ends_when_its_agent_closes_the_pipe_in_the_middle_of_an_answer(
    lively_base_q8: Path,
) -> None:
    with spawned() as worker:
        worker.open(lively_base_q8)
        worker.start(1, asked(max_tokens=450))
        worker.report()
        worker.hang_up()
        assert worker.process.wait(timeout=60) == 0


def test_a_worker_that_was_asked_nothing_ends_quietly() -> None:
    with spawned() as worker:
        pass
    assert worker.process.returncode == 0


def test_a_second_open_is_a_defect_of_the_agent_and_says_so(lively_base_q8: Path) -> None:
    with spawned() as worker:
        worker.open(lively_base_q8)
        report = worker.open(lively_base_q8)
        assert report.WhichOneof("report") == "worker_failed"
        assert "open" in report.worker_failed.message
        assert worker.process.wait(timeout=60) == 1
