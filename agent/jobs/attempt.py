"""One run of a job: its worker from its start to its end.

What the worker reports meanwhile goes into the journal (notes.py), and what became of it is the
attempt's ending (ending.py). A worker that has rehearsed waits for llama.cpp, which speaks with its
trial adapter, and goes on when that was understood; else the attempt Broke: GATE_FAILED. What kinds
of jobs differ in is in work.py.

A worker that generates rests while requests are under way, even where the memory is enough for
both: they would share the processor. So there are two reasons to pause, those of the arbiter
(``suspend``) and that; it goes on when neither is left.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from agent.jobs import spec
from agent.jobs.ending import Closing, Ending, not_started
from agent.jobs.journal import Entry
from agent.jobs.means import Means
from agent.jobs.notes import Notes
from agent.jobs.patience import Patience, stopped
from agent.jobs.speech import spoken
from agent.jobs.work import work_of
from agent.memory.arbiter import Decision
from agent.workers import watchdog
from agent.workers.channel import FrameError
from agent.workers.process import Exit, Worker
from agent.workers.watchdog import Watchdog
from artifacts import durable
from protos.errors import NanofleetError
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import PlanCheck
from protos.nanofleet.v1.telemetry_pb2 import WorkerSample
from protos.nanofleet.v1.worker_pb2 import (
    ExtendLease,
    PauseTraining,
    ResumeTraining,
    StopTraining,
    TrainingCommand,
    TrainingRehearsed,
    TrainingReport,
    WorkerFailed,
)

LOG_NAME = "worker.log"
SPEECH_LOG_NAME = "rehearsal.log"
# After its last report a worker has nothing left to do but to be torn down by the interpreter.
_GOODBYE_S = 10.0


class _Unserved(Exception):
    """The trial adapter has not passed: ``error`` says why."""

    def __init__(self, error: NanofleetError) -> None:
        super().__init__(str(error))
        self.error = error


class Attempt:
    def __init__(self, entry: Entry, means: Means) -> None:
        self.job_id = entry.job.id
        self.settled = asyncio.Event()  # set by the runner when the ending is journalled
        self._means = means
        self._is_rehearsed = entry.job.rehearsal.HasField("plan")
        self._spec = entry.job.spec
        self._work = work_of(self._spec, takes_least=entry.standing.shrinks > 0)
        self._folder = means.jobs / entry.job.id
        self.notes = Notes(self.job_id, means, self._work)
        self._closing = Closing(
            self.job_id, self._spec, means, self._work, self._folder, self.notes
        )
        self._worker: Worker[TrainingReport] | None = None
        self._stop_asked = False
        self._killed = False
        # Why the watchdog has ended the worker; empty: it has not.
        self._hung = ""
        # llama.cpp with the trial adapter, while the worker waits.
        self._speech: asyncio.Task[PlanCheck] | None = None
        # Waiting for its memory.
        self._entering: asyncio.Future[None] | None = None
        self._suspended = False
        self._makes_way = False
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
            await self.notes.say(self._means.without_effect(self._spec))
            if not await self._enter():
                return not_started(killed=self._killed)
            try:
                await self.notes.say(await self._means.take_power())
                last, exit = await self._run(command)
            finally:
                await self.notes.say(await self._means.give_power_back())
        finally:
            self.notes.rests.set()
            self._gone.set()
            self._means.leave()
            self._closing.circumstances = observed()
        return await self._closing.ending(last, exit, killed=self._killed, hung=self._hung)

    @property
    def yields(self) -> bool:
        return not self._work.holds_memory

    async def suspend(self) -> None:
        """Returns when the worker rests at a micro-step, its workspace given back, or is gone."""
        self._suspended = True
        if self._worker is None or self.notes.rests.is_set():
            return
        await self._worker.order(TrainingCommand(pause=PauseTraining()))
        await self.notes.rests.wait()

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
        await self.notes.decided(decision)

    async def tell_waiting(self, why: str) -> None:
        await self.notes.waits(why)

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
        return self.notes.rests.is_set() and not self._stop_asked

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
        self.notes.rests.clear()
        await worker.order(TrainingCommand(resume=ResumeTraining()))

    async def _follow(self, worker: Worker[TrainingReport], watching: Watchdog) -> TrainingReport:
        """Journals what is reported; returns the report that ends the attempt (empty: none did)."""
        try:
            async for report in worker.reports():
                watching.reports += 1
                if report.WhichOneof("report") in ("finished", "stopped", "failed"):
                    return report
                await self.notes.take(report)
                if report.HasField("rehearsed"):
                    await self._go_on(worker, report.rehearsed)
        except _Unserved as unserved:
            worker.kill()
            return TrainingReport(failed=self._closing.unserved(unserved.error))
        except FrameError as error:
            worker.kill()
            said = f"The {self._work.name} worker sent what is no report: {error}."
            failed = WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=said)
            return TrainingReport(failed=failed)
        return TrainingReport()

    async def _go_on(self, worker: Worker[TrainingReport], done: TrainingRehearsed) -> None:
        """Where the worker waits for it, lets llama.cpp speak first. When the worker was told to
        end meanwhile, the next attempt rehearses again."""
        if done.adapter_path:
            check = await self._spoken(Path(done.adapter_path))
            if check is None:
                return
            await self.notes.take(TrainingReport(check=check))
        await self.notes.plan(done.plan)
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
