"""One run of a job: its worker from its start to its end, told as events of the journal.

    worker's report            journal
    started, generating, log   a line of the log
    progress, generated        progress
    evaluated                  evaluated
    checkpoint                 a checkpoint, from which the next attempt would go on
    check                      a check of its rehearsal
    rehearsed                  the plan; a worker that waits goes on when llama.cpp has spoken with
                               its trial adapter, else Broke: GATE_FAILED
    finished                   what was made is put into the store, then Finished
    stopped                    Stopped: by us, or because the job's lease has ended
    failed                     Broke with the worker's cause; OOM when it is proved that a child
                               of the worker died of it
    (the end of the pipe)      Finished when its adapter is complete; else Broke: CANCELED when we
                               killed it, TIMEOUT when it hung, OOM when it is proved, else
                               WORKER_CRASH

What was made is in the store, complete, before the job is said to have succeeded; a death in
between leaves it in the job's folder, where recovery.py finds an adapter, and the next attempt the
answers. What kinds of jobs differ in is in work.py.

A worker that generates rests while requests are under way, even where the memory is enough for
both: they would share the processor. So there are two reasons to pause, those of the arbiter
(``suspend``) and that; it goes on when neither is left.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from agent.jobs import results, spec, states
from agent.jobs.journal import Account, Entry
from agent.jobs.means import Means, PowerMeter, completed
from agent.jobs.patience import Patience, stopped
from agent.jobs.speech import NOT_SERVED, spoken
from agent.jobs.work import work_of
from agent.memory.arbiter import Act, Decision
from agent.workers import watchdog
from agent.workers.channel import FrameError
from agent.workers.process import Exit, Worker
from agent.workers.watchdog import Watchdog
from artifacts import durable
from protos.causes import POLICIES
from protos.errors import DiskFull, NanofleetError, OutOfMemory
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import (
    Circumstances,
    Decided,
    GenerateProgress,
    JobEvent,
    JobResult,
    LogLine,
    PlanCheck,
    TrainProgress,
)
from protos.nanofleet.v1.telemetry_pb2 import WorkerSample
from protos.nanofleet.v1.worker_pb2 import (
    ExtendLease,
    PauseTraining,
    ResumeTraining,
    StopTraining,
    TrainingCommand,
    TrainingFinished,
    TrainingRehearsed,
    TrainingReport,
    WorkerFailed,
)

M = TypeVar("M", bound=Message)

_LOG = logging.getLogger(__name__)

LOG_NAME = "worker.log"
SPEECH_LOG_NAME = "rehearsal.log"
# After its last report a worker has nothing left to do but to be torn down by the interpreter.
_GOODBYE_S = 10.0
# What a runaway worker may put into the journal; all of it is in the worker's log.
_MOST_LOG_LINES = 200
_LEASE_ENDED = "Its lease ended: no controller was heard in time. It goes on when one is."
# The last words of allocators that end the process instead of raising an error.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "NvMapMemAlloc", "bad_alloc")


@dataclass(frozen=True, slots=True)
class Ending:
    event: states.Event
    account: Account


class _Unserved(Exception):
    """The trial adapter has not passed: ``error`` says why."""

    def __init__(self, error: NanofleetError) -> None:
        super().__init__(str(error))
        self.error = error


class Attempt:
    def __init__(self, entry: Entry, means: Means) -> None:
        self.job_id = entry.job.id
        self.settled = asyncio.Event()  # set by the runner when the ending is journalled
        self.progress: TrainProgress | GenerateProgress = TrainProgress()
        # Of the newest step; None before the first one, and from a pause to the next step.
        self.tokens_per_s: float | None = None
        self._means = means
        self._is_rehearsed = entry.job.rehearsal.HasField("plan")
        self._spec = entry.job.spec
        self._work = work_of(self._spec, takes_least=entry.standing.shrinks > 0)
        self._folder = means.jobs / entry.job.id
        self._worker: Worker[TrainingReport] | None = None
        self._stop_asked = False
        self._killed = False
        # Why the watchdog has ended the worker; empty: it has not.
        self._hung = ""
        self._peak_anonymous_bytes = 0
        self._log_lines = 0
        self._meter = PowerMeter(means.energy_j)
        # Of the board, once the worker is gone.
        self._circumstances: Circumstances | None = None
        # llama.cpp with the trial adapter, while the worker waits.
        self._speech: asyncio.Task[PlanCheck] | None = None
        # Waiting for its memory.
        self._entering: asyncio.Future[None] | None = None
        self._suspended = False
        self._makes_way = False
        # Set while the worker computes nothing and has given its workspace back.
        self._rests = asyncio.Event()
        # Until the worker's end is known.
        self._watching: Watchdog | None = None
        # Set once the process is gone, or never comes: its memory is free.
        self._gone = asyncio.Event()

    @property
    def worker_kind(self) -> "WorkerSample.Kind.ValueType":
        return self._work.kind

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def silent_s(self) -> float | None:
        """For how long the worker has shown no sign of life; None while there is no worker."""
        return self._watching.silent_s if self._watching else None

    @property
    def stalled_s(self) -> float | None:
        """For how long the worker has got nowhere; None while there is no worker."""
        return self._watching.stalled_s if self._watching else None

    async def run(self) -> Ending:
        """Runs the worker to its end. Cancelled, it kills the worker first. Raises InvalidRequest
        for what an older agent took and this one cannot run."""
        spec.check(self._spec)
        observed = self._means.observe()
        try:
            await asyncio.to_thread(durable.make_folder, self._folder)
            command = await self._work.command(
                self._means, self.job_id, self._folder, is_rehearsed=self._is_rehearsed
            )
            await self._tell_all(self._means.without_effect(self._spec))
            if not await self._enter():
                return self._not_started()
            try:
                await self._tell_all(await self._means.take_power())
                last, exit = await self._run(command)
            finally:
                await self._tell_all(await self._means.give_power_back())
        finally:
            self._rests.set()
            self._gone.set()
            self._means.leave()
            self._circumstances = observed()
        return await self._ending(last, exit)

    @property
    def yields(self) -> bool:
        return not self._work.holds_memory

    async def suspend(self) -> None:
        """Returns when the worker rests at a micro-step, its workspace given back, or is gone."""
        self._suspended = True
        if self._worker is None or self._rests.is_set():
            return
        await self._worker.order(TrainingCommand(pause=PauseTraining()))
        await self._rests.wait()

    async def resume(self) -> None:
        """Lets a suspended worker go on; one that waits for its trial adapter still does."""
        self._suspended = False
        if self._worker is not None and self._speech is None and not self._makes_way:
            await self._resume(self._worker)

    async def extend_lease(self, end_ns: int) -> None:
        if self._worker is not None:
            lease = ExtendLease(until_boottime_ns=end_ns)
            await self._worker.order(TrainingCommand(extend_lease=lease))

    async def tell(self, decision: Decision) -> None:
        holds = decision.act is Act.SUSPEND_JOB
        told = Decided(act=decision.act.value, reason=decision.reason, holds=holds)
        await self._write(self._means.records.journal.decided, told)

    async def tell_waiting(self, why: str) -> None:
        told = Decided(act="let the job wait", reason=why, holds=True)
        await self._write(self._means.records.journal.decided, told)

    async def stop(self) -> None:
        """Lets the worker write a checkpoint and end at the next micro-step."""
        self._stop_asked = True
        self._give_up_waiting()
        self._hush()
        if self._worker is not None:
            await self._worker.order(TrainingCommand(stop=StopTraining()))

    async def vacate(self, patience: Patience = Patience()) -> None:  # noqa: B008  # frozen
        """Stops the worker and returns when it is gone; given up, where ``patience`` was over."""
        await self.stop()
        await stopped(self, self._gone, patience)

    def give_up(self) -> None:
        """Ends a worker that was told to stop and does not come to it; its last checkpoint stays.
        Nobody wished the job's end, so it is tried again, as after any hang."""
        if self._worker is not None and self._watching is not None:
            idle = watchdog.readable(self._watching.stalled_s)
            self._hung = (
                f"The {self._work.name} worker was told to stop, got nowhere for {idle}, and was"
                " ended."
            )
            self._worker.kill()

    def kill(self) -> None:
        """Ends the worker now; its last checkpoint stays."""
        self._killed = True
        self._give_up_waiting()
        self._hush()
        if self._worker is not None:
            self._worker.kill()

    async def _enter(self) -> bool:
        """Waits for the job's memory; False when that was given up for a wish."""
        if self._stop_asked or self._killed:
            return False
        base = await asyncio.to_thread(self._means.base, self._work.spec)
        memory = self._means.enter(base, self._work.spec, self)
        entering = self._entering = asyncio.ensure_future(memory)
        try:
            await asyncio.wait({entering})
        finally:
            self._entering = None
            entering.cancel()
            await asyncio.wait({entering})
        if entering.cancelled():
            return False
        entering.result()
        return True

    def _give_up_waiting(self) -> None:
        if self._entering is not None:
            self._entering.cancel()

    def _not_started(self) -> Ending:
        if self._killed:
            canceled = states.Broke(job_pb2.CAUSE_CANCELED)
            return Ending(canceled, Account(POLICIES[job_pb2.CAUSE_CANCELED].sentence))
        return Ending(states.Stopped(), Account("Stopped while it waited for memory."))

    async def _run(self, command: TrainingCommand) -> tuple[TrainingReport, Exit]:
        worker = self._worker = await self._launched()
        try:
            async with (
                watchdog.watching(worker, self._is_resting, self._means.watch) as watching,
                self._making_way(worker),
            ):
                self._watching = watching
                await self._begin(worker, command)
                last = await self._follow(worker, watching)
            if watching.hung:
                self._hung = watching.said(self._work.name)
            worker.finish()
            exit = await worker.wait(_GOODBYE_S)
        except BaseException:
            worker.kill()
            await worker.wait()
            raise
        finally:
            self._watching = None
        return last, exit

    def _is_resting(self) -> bool:
        """One that was told to stop has something to do."""
        return self._rests.is_set() and not self._stop_asked

    async def _launched(self) -> Worker[TrainingReport]:
        means = self._means
        return await means.launcher.start(
            self._work.module,
            TrainingReport,
            self._folder / LOG_NAME,
            name=self._work.name,
            group=means.limit(self._work.name),
        )

    async def _begin(self, worker: Worker[TrainingReport], command: TrainingCommand) -> None:
        """Tells it what to do, and what was wished while it was being started."""
        if self._killed:
            worker.kill()
        self._work.lease(command, self._means.leases.end_ns(self.job_id))
        await worker.order(command)
        if self._suspended:
            await worker.order(TrainingCommand(pause=PauseTraining()))
        if self._stop_asked:
            await worker.order(TrainingCommand(stop=StopTraining()))

    @contextlib.asynccontextmanager
    async def _making_way(self, worker: Worker[TrainingReport]) -> AsyncIterator[None]:
        """Inside, a worker whose work makes way rests while requests are under way."""
        if not self._work.makes_way:
            yield
            return
        task = asyncio.create_task(self._make_way(worker), name="making way")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _make_way(self, worker: Worker[TrainingReport]) -> None:
        while True:
            await self._means.requested()
            self._makes_way = True
            await worker.order(TrainingCommand(pause=PauseTraining()))
            await self._means.unrequested()
            self._makes_way = False
            if not self._suspended:
                await self._resume(worker)

    async def _resume(self, worker: Worker[TrainingReport]) -> None:
        """It does not rest from now on, whenever it says so: who suspends it then must pause it."""
        self._rests.clear()
        await worker.order(TrainingCommand(resume=ResumeTraining()))

    async def _follow(self, worker: Worker[TrainingReport], watching: Watchdog) -> TrainingReport:
        """Journals what is reported; returns the report that ends the attempt (empty: none did)."""
        try:
            async for report in worker.reports():
                watching.reports += 1
                if report.WhichOneof("report") in ("finished", "stopped", "failed"):
                    return report
                await self.note(report)
                if report.HasField("rehearsed"):
                    await self._go_on(worker, report.rehearsed)
        except _Unserved as unserved:
            worker.kill()
            return TrainingReport(failed=self._explained(unserved.error))
        except FrameError as error:
            worker.kill()
            said = f"The {self._work.name} worker sent what is no report: {error}."
            failed = WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=said)
            return TrainingReport(failed=failed)
        return TrainingReport()

    async def note(self, report: TrainingReport) -> None:
        """Takes in a report that does not end the attempt."""
        journal = self._means.records.journal
        match report.WhichOneof("report"):
            case "progress":
                self._observe(report.progress)
                await self._write(journal.progress, report.progress)
            case "generated":
                self._observe(report.generated)
                await self._write(journal.generated, report.generated)
            case "evaluated":
                await self._write(journal.evaluated, report.evaluated)
            case "checkpoint":
                await self._write(journal.checkpoint, report.checkpoint)
            case "check":
                await self._write(journal.rehearsed, JobEvent(check=report.check))
            case "paused" | "rehearsed":
                self.tokens_per_s = None
                if report.HasField("paused") or report.rehearsed.adapter_path:
                    self._rests.set()
                    self._meter.rest()
            case "resumed":
                self._rests.clear()
                self._meter.go_on()
            case "started" | "generating":
                self._meter = PowerMeter(self._means.energy_j)
                await self._write(journal.log, LogLine(text=self._work.begun(report)))
            case "log" if self._log_lines < _MOST_LOG_LINES:
                self._log_lines += 1
                await self._write(journal.log, report.log)

    async def _tell_all(self, sentences: Sequence[str]) -> None:
        for said in sentences:
            await self._write(self._means.records.journal.log, LogLine(text=said))

    async def _write(self, call: Callable[[str, M], None], entry: M) -> None:
        """Progress that cannot be written for want of space is lost; the job goes on."""
        try:
            await self._means.records.write(call, self.job_id, entry)
        except DiskFull as error:
            _LOG.warning("job %s: not journalled: %s", self.job_id, error)

    async def _go_on(self, worker: Worker[TrainingReport], done: TrainingRehearsed) -> None:
        """Where the worker waits for it, lets llama.cpp speak first. When the worker was told to
        end meanwhile, the next attempt rehearses again."""
        if done.adapter_path:
            check = await self._spoken(Path(done.adapter_path))
            if check is None:
                return
            await self.note(TrainingReport(check=check))
        plan = completed(done.plan, self._means, self._meter.power_w())
        await self._write(self._means.records.journal.rehearsed, JobEvent(plan=plan))
        if done.adapter_path and not self._suspended:
            await self._resume(worker)

    async def _spoken(self, adapter: Path) -> PlanCheck | None:
        """None when it was hushed. Raises _Unserved."""
        base = await asyncio.to_thread(self._means.base, self._work.spec)
        if self._stop_asked or self._killed:
            return None
        log = self._folder / SPEECH_LOG_NAME
        speech = asyncio.create_task(spoken(self._means, base, adapter, log), name="speech")
        self._speech = speech
        try:
            await asyncio.wait({speech})
        finally:
            self._speech = None
            speech.cancel()
            await asyncio.wait({speech})
        if speech.cancelled():
            return None
        try:
            return speech.result()
        except NanofleetError as error:
            raise _Unserved(error) from error

    def _hush(self) -> None:
        if self._speech is not None:
            self._speech.cancel()

    def _explained(self, error: NanofleetError) -> WorkerFailed:
        if error.reason == NOT_SERVED:
            cause = job_pb2.CAUSE_GATE_FAILED
        elif isinstance(error, OutOfMemory):
            cause = job_pb2.CAUSE_OOM
        elif isinstance(error, DiskFull):
            cause = job_pb2.CAUSE_DISK_FULL
        else:
            cause = job_pb2.CAUSE_WORKER_CRASH
        step = self.progress.step if isinstance(self.progress, TrainProgress) else 0
        kept = f"The checkpoint of step {step} was kept."
        return WorkerFailed(cause=cause, message=f"{error} {kept}")

    def _observe(self, progress: TrainProgress | GenerateProgress) -> None:
        self.progress = progress
        self.tokens_per_s = progress.tokens_per_s
        self._means.measured(progress.anonymous_bytes)
        self._peak_anonymous_bytes = max(self._peak_anonymous_bytes, progress.anonymous_bytes)

    async def _ending(self, last: TrainingReport, exit: Exit) -> Ending:
        match last.WhichOneof("report"):
            case "finished":
                self._stamp(last.finished.result)
                return await self._kept(last.finished, exit)
            case "stopped":
                message = f"Stopped after {self._work.step} {last.stopped.step}."
                if last.stopped.lease_ended:
                    message += " " + _LEASE_ENDED
                return Ending(states.Stopped(), self._account(exit, message))
            case "failed":
                if last.failed.cause == job_pb2.CAUSE_WORKER_CRASH and exit.out_of_memory:
                    last.failed.cause = job_pb2.CAUSE_OOM  # of a child of the worker
                return self._broken(last.failed, exit)
        if self._killed:
            return self._broken(WorkerFailed(cause=job_pb2.CAUSE_CANCELED), exit)
        if self._hung:
            hung = WorkerFailed(cause=job_pb2.CAUSE_TIMEOUT, message=self._hung)
            return self._broken(hung, exit)
        return await self._adopted(exit) or self._broken(self._death(exit), exit)

    async def _adopted(self, exit: Exit) -> Ending | None:
        """The result of a worker that died between its rename and its report. None: there is none,
        or it cannot be kept now, and the next attempt packs it again."""
        try:
            result = await asyncio.to_thread(
                results.found, self._means.store, self._folder, self.job_id, self._spec
            )
        except NanofleetError as error:
            _LOG.warning("job %s: its result cannot be kept now: %s", self.job_id, error)
            return None
        if result is None:
            return None
        self._stamp(result)
        message = f"Finished; the worker ended with {exit} before it could say so."
        return Ending(states.Finished(), self._account(exit, message, result))

    def _stamp(self, result: JobResult) -> None:
        """With what the board was like: the figures are of no use without it."""
        if self._circumstances is not None:
            result.circumstances.CopyFrom(self._circumstances)
            if self._circumstances.HasField("energy_j"):
                result.energy_j = self._circumstances.energy_j

    async def _kept(self, finished: TrainingFinished, exit: Exit) -> Ending:
        result = finished.result
        result.peak_rss_bytes = max(result.peak_rss_bytes, exit.peak_rss_bytes)
        try:
            said = await asyncio.to_thread(self._work.keep, self._means.store, finished)
        except NanofleetError as error:
            full = isinstance(error, DiskFull)
            cause = job_pb2.CAUSE_DISK_FULL if full else job_pb2.CAUSE_WORKER_CRASH
            return self._broken(WorkerFailed(cause=cause, message=str(error)), exit)
        return Ending(states.Finished(), self._account(exit, said, result))

    def _broken(self, failed: WorkerFailed, exit: Exit) -> Ending:
        return Ending(states.Broke(failed.cause), self._account(exit, failed.message))

    def _account(self, exit: Exit, message: str, result: JobResult | None = None) -> Account:
        peak_rss_bytes = max(exit.peak_rss_bytes, self.progress.peak_rss_bytes)
        return Account(
            message,
            result,
            exit.log_tail,
            peak_rss_bytes,
            self._peak_anonymous_bytes,
            self._means.conditions(self.job_id),
            self._circumstances,
        )

    def _death(self, exit: Exit) -> WorkerFailed:
        """Why a worker died that did not say it. Lack of memory is claimed only with a proof."""
        if exit.out_of_memory or any(words in exit.log_tail for words in _OUT_OF_MEMORY):
            return WorkerFailed(cause=job_pb2.CAUSE_OOM, message=self._work.out_of_memory)
        sentence = POLICIES[job_pb2.CAUSE_WORKER_CRASH].sentence
        message = f"{sentence} It ended with {exit}."
        return WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=message)
