"""One run of a job: the training worker from its start to its end, told as events of the journal.

    worker's report            journal
    started, log               a line of the log
    progress                   progress
    evaluated                  evaluated
    checkpoint                 a checkpoint, from which the next attempt would go on
    finished                   the adapter is put into the store, then Finished
    stopped                    Stopped
    failed                     Broke with the worker's cause
    (the end of the pipe)      Broke: CANCELED when we killed it, OOM when it is proved, else
                               WORKER_CRASH

The adapter is in the store, complete, before the job is said to have succeeded; a death in between
leaves it in the job's folder, where recovery.py finds it.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.jobs import results, spec, states
from agent.jobs.journal import Account, Entry
from agent.jobs.records import Records
from agent.workers.channel import FrameError
from agent.workers.limits import Group
from agent.workers.process import Exit, Launcher, Worker
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from protos.errors import DiskFull, NanofleetError
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import JobResult, LogLine, TrainProgress, TrainSpec
from protos.nanofleet.v1.worker_pb2 import (
    StartTraining,
    StopTraining,
    TrainingCommand,
    TrainingReport,
    WorkerFailed,
)

_LOG = logging.getLogger(__name__)

MODULE = "agent.training.worker"
LOG_NAME = "worker.log"
# After its last report a worker has nothing left to do but to be torn down by the interpreter.
_GOODBYE_S = 10.0
# What a runaway worker may put into the journal; all of it is in the worker's log.
_MOST_LOG_LINES = 200
# The last words of allocators that end the process instead of raising an error.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "NvMapMemAlloc", "bad_alloc")


async def _enter_nothing(base: Path, train: TrainSpec, name: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt of a device uses."""

    records: Records
    store: ArtifactStore
    launcher: Launcher
    jobs: Path  # the folder of the jobs' folders
    threads: int = 0  # 0: as many as there are cores
    device: str = ""  # "cpu", "cuda"; empty: the worker chooses
    energy_j: Callable[[], float | None] = lambda: None
    limit: Callable[[], Group | None] = lambda: None
    # Called around each attempt, with the job's base model: room is made for it, and given back.
    enter: Callable[[Path, TrainSpec, str], Awaitable[None]] = _enter_nothing
    leave: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Ending:
    event: states.Event
    account: Account


class Attempt:
    def __init__(self, entry: Entry, means: Means) -> None:
        self.job_id = entry.job.id
        self.settled = asyncio.Event()  # set by the runner when the ending is journalled
        self.progress = TrainProgress()
        # Of the newest step; None before the first one, and from a pause to the next step.
        self.tokens_per_s: float | None = None
        self._means = means
        self._name = entry.job.spec.name
        self._train = spec.shrunk(entry.job.spec.train, entry.standing.shrinks)
        self._folder = means.jobs / entry.job.id
        self._worker: Worker[TrainingReport] | None = None
        self._stop_asked = False
        self._killed = False
        self._peak_anonymous_bytes = 0
        self._log_lines = 0

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    async def run(self) -> Ending:
        """Runs the worker to its end. Cancelled, it kills the worker first."""
        energy_before_j = self._means.energy_j()
        try:
            last, exit = await self._run()
        finally:
            self._means.leave()
        return await self._ending(last, exit, energy_before_j)

    async def stop(self) -> None:
        """Lets the worker write a checkpoint and end at the next micro-step."""
        self._stop_asked = True
        if self._worker is not None:
            await _send(self._worker, TrainingCommand(stop=StopTraining()))

    def kill(self) -> None:
        """Ends the worker now; its last checkpoint stays."""
        self._killed = True
        if self._worker is not None:
            self._worker.kill()

    async def _run(self) -> tuple[TrainingReport, Exit]:
        base, datasets = await asyncio.to_thread(self._inputs)
        worker = self._worker = await self._launched(base)
        try:
            await self._begin(worker, base, datasets)
            last = await self._follow(worker)
            worker.finish()
            exit = await worker.wait(_GOODBYE_S)
        except BaseException:
            worker.kill()
            await worker.wait()
            raise
        return last, exit

    async def _launched(self, base: Path) -> Worker[TrainingReport]:
        means = self._means
        await means.enter(base, self._train, self._name)
        return await means.launcher.start(
            MODULE,
            TrainingReport,
            self._folder / LOG_NAME,
            name="training",
            group=means.limit(),
        )

    async def _begin(
        self, worker: Worker[TrainingReport], base: Path, datasets: Sequence[Path]
    ) -> None:
        """Tells it what to do, and what was wished while it was being started."""
        if self._killed:
            worker.kill()
        start = StartTraining(
            job_id=self.job_id,
            job_name=self._name,
            spec=self._train,
            base_path=str(base),
            dataset_paths=[str(path) for path in datasets],
            job_folder=str(self._folder),
            threads=self._train.threads or self._means.threads or len(os.sched_getaffinity(0)),
            device=self._means.device,
        )
        await _send(worker, TrainingCommand(start=start))
        if self._stop_asked:
            await _send(worker, TrainingCommand(stop=StopTraining()))

    def _inputs(self) -> tuple[Path, list[Path]]:
        """The base, and the dataset of each stage."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = self._means.store
        return (
            store.path(Digest(self._train.base_digest)),
            [store.path(Digest(stage.dataset_digest)) for stage in self._train.stages],
        )

    async def _follow(self, worker: Worker[TrainingReport]) -> TrainingReport:
        """Journals what is reported; returns the report that ends the attempt (empty: none did)."""
        try:
            async for report in worker.reports():
                if report.WhichOneof("report") in ("finished", "stopped", "failed"):
                    return report
                await self.note(report)
        except FrameError as error:
            worker.kill()
            said = f"The training worker sent what is no report: {error}."
            failed = WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=said)
            return TrainingReport(failed=failed)
        return TrainingReport()

    async def note(self, report: TrainingReport) -> None:
        """Takes in a report that does not end the attempt. Progress that cannot be written for
        want of space is lost; the job goes on."""
        journal, write = self._means.records.journal, self._means.records.write
        try:
            match report.WhichOneof("report"):
                case "progress":
                    self._observe(report.progress)
                    await write(journal.progress, self.job_id, report.progress)
                case "evaluated":
                    await write(journal.evaluated, self.job_id, report.evaluated)
                case "checkpoint":
                    await write(journal.checkpoint, self.job_id, report.checkpoint)
                case "paused":
                    self.tokens_per_s = None
                case "started":
                    await write(journal.log, self.job_id, LogLine(text=_told(report)))
                case "log" if self._log_lines < _MOST_LOG_LINES:
                    self._log_lines += 1
                    await write(journal.log, self.job_id, report.log)
        except DiskFull as error:
            _LOG.warning("job %s: not journalled: %s", self.job_id, error)

    def _observe(self, progress: TrainProgress) -> None:
        self.progress = progress
        self.tokens_per_s = progress.tokens_per_s
        self._peak_anonymous_bytes = max(self._peak_anonymous_bytes, progress.anonymous_bytes)

    async def _ending(
        self, last: TrainingReport, exit: Exit, energy_before_j: float | None
    ) -> Ending:
        match last.WhichOneof("report"):
            case "finished":
                result = last.finished.result
                energy_j = self._means.energy_j()
                if energy_j is not None and energy_before_j is not None:
                    result.energy_j = energy_j - energy_before_j
                return await self._kept(Path(last.finished.adapter_path), result, exit)
            case "stopped":
                message = f"Stopped after step {last.stopped.step}."
                return Ending(states.Stopped(), self._account(exit, message))
            case "failed":
                return self._broken(last.failed, exit)
        if self._killed:
            return self._broken(WorkerFailed(cause=job_pb2.CAUSE_CANCELED), exit)
        return self._broken(_death(exit), exit)

    async def _kept(self, adapter: Path, result: JobResult, exit: Exit) -> Ending:
        result.peak_rss_bytes = max(result.peak_rss_bytes, exit.peak_rss_bytes)
        try:
            await asyncio.to_thread(results.keep, self._means.store, adapter, result)
        except NanofleetError as error:
            full = isinstance(error, DiskFull)
            cause = job_pb2.CAUSE_DISK_FULL if full else job_pb2.CAUSE_WORKER_CRASH
            return self._broken(WorkerFailed(cause=cause, message=str(error)), exit)
        account = self._account(exit, f"The loss went from {result.first_loss:.3f} to "
                                f"{result.final_loss:.3f}.", result)  # fmt: skip
        return Ending(states.Finished(), account)

    def _broken(self, failed: WorkerFailed, exit: Exit) -> Ending:
        event = states.Broke(failed.cause, can_shrink=spec.smaller(self._train) is not None)
        return Ending(event, self._account(exit, failed.message))

    def _account(self, exit: Exit, message: str, result: JobResult | None = None) -> Account:
        peak_rss_bytes = max(exit.peak_rss_bytes, self.progress.peak_rss_bytes)
        return Account(message, result, exit.log_tail, peak_rss_bytes, self._peak_anonymous_bytes)


async def _send(worker: Worker[TrainingReport], command: TrainingCommand) -> None:
    """A worker that is gone is noticed at the other end of the pipe."""
    try:
        await worker.send(command)
    except NanofleetError as error:
        _LOG.info("training worker %d: %s", worker.pid, error)


def _death(exit: Exit) -> WorkerFailed:
    """Why a worker died that did not say it. Lack of memory is claimed only with a proof."""
    if exit.out_of_memory or any(words in exit.log_tail for words in _OUT_OF_MEMORY):
        return WorkerFailed(cause=job_pb2.CAUSE_OOM)
    sentence = states.POLICIES[job_pb2.CAUSE_WORKER_CRASH].sentence
    message = f"{sentence} It ended with {exit}."
    return WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=message)


def _told(report: TrainingReport) -> str:
    started = report.started
    begin = f"resuming after step {started.resumed_at_step}" if started.resumed_at_step else "new"
    return (
        f"Training, {begin}: {started.samples} samples, {started.labelled_tokens} labelled tokens,"
        f" {started.threads} threads, {started.data_type}. {started.device_reason}"
    )
