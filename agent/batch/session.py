"""A batch generation from its first prompt, or from where it was interrupted, to its dataset.

    what is recorded ─▶ the engine ─▶ line by line: ask, judge, append ─▶ … ─▶ the dataset
                                             │
                     orders are obeyed after each token; every SYNC_S seconds what was appended is
                     synced, and told as a checkpoint and progress

What is wrong with a line is counted and the next one follows; what is wrong with the job, or with
every one of its lines, is raised.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from agent.batch import asking
from agent.batch.answers import Answer, Answers, Arithmetic, encoded
from agent.batch.model import Model, Reply
from agent.batch.obeying import Obeying, Stopped
from agent.batch.tally import Tally, dropped_by
from agent.quality.answers import Fault, fault_of
from agent.workers import residency
from agent.workers.commands import Commands
from agent.workers.residency import AnonymousPeak
from artifacts import dataset, durable, headroom, prompts, template
from artifacts.persisting import Point
from artifacts.prompts import PromptLine
from protos import faults
from protos.errors import InvalidDataset
from protos.nanofleet.v1 import job_pb2, worker_pb2
from protos.nanofleet.v1.worker_pb2 import StartGenerating, TrainingReport

# At most so much work is lost with the power, and so often progress is told.
SYNC_S = 5.0

_PLAIN, _PACKED = "dataset.jsonl", "dataset.jsonl.zst"


class Session:
    """``report`` takes what is for the agent."""

    def __init__(
        self,
        start: StartGenerating,
        commands: Commands,
        report: Callable[[TrainingReport], None],
        open_model: Callable[[StartGenerating], Model] = Model.opened,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._spec = start.spec
        self._commands = commands
        self._report = report
        self._open_model = open_model
        self._clock = clock
        self._folder = Path(start.job_folder)
        self._tally = Tally(dropped_by(start.spec))
        self._seen: set[bytes] = set()
        self._peak = AnonymousPeak()
        self._total = 0
        self._done = 0
        self._model: Model | None = None
        self._told_s = 0.0
        self._obeying = Obeying(commands, report, lambda: self._done, clock)

    def run(self) -> None:
        """The last report is that it finished or stopped. Raises what explain() of failures.py
        knows."""
        needed = template.named_in(self._spec)
        path, name = Path(self._start.dataset_path), self._spec.dataset_name
        self._total = prompts.check(path, name=name, needed=needed).prompts
        try:
            with self._peak, self._answers() as answers:
                self._start.engine = answers.arithmetic.engine
                self._start.threads = answers.arithmetic.threads
                try:
                    for line in prompts.read(path, name=name, needed=needed):
                        self._answer_all(line, answers)
                    self._save(answers)
                    self._finish(answers)
                except Stopped:
                    self._save(answers)
                    stopped = worker_pb2.TrainingStopped(
                        step=self._done, lease_ended=self._commands.lease_ended
                    )
                    self._report(TrainingReport(stopped=stopped))
        finally:
            if self._model is not None:
                self._model.close()

    def _answers(self) -> Answers:
        wished = Arithmetic(self._start.engine, self._start.threads)
        with headroom.naming_disk_faults(self._folder):
            return Answers(self._folder, wished)

    def _answer_all(self, line: PromptLine, answers: Answers) -> None:
        for number in range(1, self._spec.answers + 1):
            answer = answers.recorded(line.line, number)
            if answer is None:
                answer = self._answer(line, number)
                with headroom.naming_disk_faults(self._folder):
                    answers.add(answer)
            self._take(answer)
        self._done += 1
        if self._model is not None and self._clock() - self._told_s >= SYNC_S:
            self._save(answers)

    def _take(self, answer: Answer) -> None:
        self._tally.add(answer.line, answer.fault, answer.tokens, answer.took_s)
        if answer.sample is not None:
            self._seen.add(_key(answer))

    def _answer(self, line: PromptLine, number: int) -> Answer:
        """Raises Stopped."""
        model = self._opened()
        self._obeying.check()
        prompt = asking.asked(self._spec, line)
        if prompt is None:
            return Answer(line.line, number, Fault.PROMPT_EMPTY, 0, 0.0, None)
        seed = asking.seed_of(self._spec.sampling.seed, line.line, number)
        reply = model.answer(prompt, seed, self._obeying.may_go_on)
        if reply is None:
            raise Stopped
        sample = asking.sample(self._spec, line, prompt, reply.text)
        judged = Answer(line.line, number, None, reply.tokens, reply.took_s, sample)
        fault = reply.fault or self._judged(reply, _key(judged))
        kept = None if fault in self._tally.dropped else sample
        return Answer(line.line, number, fault, reply.tokens, reply.took_s, kept)

    def _judged(self, reply: Reply, key: bytes) -> Fault | None:
        wants_json = self._spec.WhichOneof("grammar") == "json_schema"
        return fault_of(
            reply.text, reply.ending, wants_json=wants_json, is_repeated=key in self._seen
        )

    def _opened(self) -> Model:
        """The model, opened for the first answer that is not recorded."""
        if self._model is None:
            self._model = self._open_model(self._start)
            told = worker_pb2.GeneratingStarted(
                done_prompts=self._done, total_prompts=self._total, threads=self._start.threads
            )
            self._report(TrainingReport(generating=told))
        return self._model

    def _save(self, answers: Answers) -> None:
        """A checkpoint: what is recorded is on the disk."""
        with headroom.naming_disk_faults(self._folder):
            answers.sync()
        saved = job_pb2.CheckpointSaved(step=self._done, size_bytes=answers.size_bytes)
        self._report(TrainingReport(generated=self._progress()))
        self._report(TrainingReport(checkpoint=saved))
        self._told_s = self._clock()

    def _progress(self) -> job_pb2.GenerateProgress:
        memory, tally = residency.measure(), self._tally
        left = self._total - self._done
        return job_pb2.GenerateProgress(
            prompts=self._done,
            total_prompts=self._total,
            kept=tally.kept,
            faults=tally.faults(),
            tokens=tally.tokens,
            tokens_per_s=tally.tokens_per_s,
            time_to_go_s=left * tally.took_s / self._done if self._done else 0.0,
            anonymous_bytes=memory.anonymous_bytes,
            file_bytes=memory.file_bytes,
            peak_rss_bytes=memory.peak_rss_bytes,
        )

    def _finish(self, answers: Answers) -> None:
        if not self._tally.kept:
            raise InvalidDataset(
                f"None of the {self._total * self._spec.answers:,} answers can be kept:"
                f" {faults.told(self._tally.faults())}.",
                fix="Change the template, max_tokens or drop in the job file; `nanofleet generate`"
                " shows what the model says to a single prompt.",
            )
        path = self._written(answers)
        if self._commands.lease_ended:
            raise Stopped  # another device may have the job by now
        result = job_pb2.JobResult(
            duration_s=self._tally.took_s,
            tokens_per_s=self._tally.tokens_per_s,
            peak_rss_bytes=residency.measure().peak_rss_bytes,
            peak_anonymous_bytes=self._peak.peak_bytes,
            generated=job_pb2.GenerateResult(
                prompts=self._total,
                kept=self._tally.kept,
                faults=self._tally.faults(),
                tokens=self._tally.tokens,
            ),
        )
        finished = worker_pb2.TrainingFinished(dataset_path=str(path), result=result)
        self._report(TrainingReport(finished=finished))

    def _written(self, answers: Answers) -> Path:
        """The dataset as it is stored, which passes the checks of any dataset."""
        plain, packed = self._folder / _PLAIN, self._folder / _PACKED
        with (
            headroom.naming_disk_faults(self._folder),
            durable.replacing(plain, Point.ANSWERS_GATHERED) as file,
        ):
            for sample in answers.samples():
                file.write(encoded(sample))
        dataset.compress(plain, packed)
        plain.unlink()
        dataset.check(packed, name=self._start.spec.dataset_name)
        return packed


def _key(answer: Answer) -> bytes:
    """Equal for equal samples."""
    return hashlib.blake2b(encoded(answer.sample or {}), digest_size=16).digest()
