"""A job rehearsed on the device, without starting it (JobService.PlanJob).

    admission ─▶ training worker in a scratch folder, a few steps ─▶ it ends, its memory is free
              ─▶ inference worker: llama.cpp says some tokens with the trial adapter ─▶ the plan
              ─▶ or, of a job that generates, its worker answers a few prompts       ─▶ the plan

The workers are those of a job and of a served model, under the same limits; while they run no job
does, and none is rehearsed while one runs: both would be measured wrong. It rests when the device
rests, between two steps, and its client is told so. The scratch folder goes with the rehearsal;
what a killed agent left of one is removed at the next start.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from agent.jobs import spec as specs
from agent.jobs.means import BATCH_MODULE, TRAINING_MODULE, Means, completed
from agent.jobs.speech import spoken
from agent.jobs.trial import Trial
from agent.workers import watchdog
from agent.workers.channel import FrameError
from agent.workers.process import Exit, Worker
from artifacts import durable
from protos import errors
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import JobSpec, PlanJobResponse
from protos.nanofleet.v1.worker_pb2 import (
    RehearseTraining,
    TrainingCommand,
    TrainingRehearsed,
    TrainingReport,
    WorkerFailed,
)

_GOODBYE_S = 10.0
_AGAIN_S = 60.0

_ERRORS: dict[job_pb2.Cause.ValueType, type[errors.NanofleetError]] = {
    job_pb2.CAUSE_OOM: errors.OutOfMemory,
    job_pb2.CAUSE_BAD_DATA: errors.InvalidDataset,
    job_pb2.CAUSE_BAD_SPEC: errors.InvalidRequest,
    job_pb2.CAUSE_DISK_FULL: errors.DiskFull,
}


class Rehearsals:
    """``turn`` is held by whoever works. ``accept`` raises what a submission of the spec would be
    refused with."""

    def __init__(
        self,
        means: Means,
        scratch: Path,
        turn: asyncio.Lock,
        accept: Callable[[JobSpec], None],
    ) -> None:
        self._means = means
        self._scratch = scratch
        self._turn = turn
        self._accept = accept
        shutil.rmtree(scratch, ignore_errors=True)

    async def plan(self, spec: bytes) -> AsyncGenerator[PlanJobResponse, None]:
        """The checks as they pass, then the plan; in between, that it rests and goes on. Raises the
        error of the first check that does not pass."""
        job = specs.parsed(spec)
        await asyncio.to_thread(self._accept, job)
        if self._turn.locked():
            raise errors.Busy(
                "A job runs on this device, or another one is rehearsed.",
                why="What is measured beside it would be wrong for both.",
                fix="Try again when it has ended, or plan for another device.",
                retry_after_s=_AGAIN_S,
            )
        if why := self._means.rest(job_pb2.JobSpec()):
            raise errors.Busy(
                "This device rests now.",
                why=why,
                fix="Try again later, or plan for another device.",
                retry_after_s=_AGAIN_S,
            )
        async with self._turn:
            said: asyncio.Queue[PlanJobResponse | None] = asyncio.Queue()
            working = asyncio.create_task(self._work(job, said), name="rehearsal")
            try:
                while (response := await said.get()) is not None:
                    yield response
                await working
            finally:
                working.cancel()
                await asyncio.wait({working})
                self._means.leave()
                shutil.rmtree(self._scratch, ignore_errors=True)

    async def _work(self, job: JobSpec, said: "asyncio.Queue[PlanJobResponse | None]") -> None:
        """Decisions come at any time, between the responses."""
        trial = Trial(
            lambda told: said.put_nowait(PlanJobResponse(decided=told)), self._means.energy_j
        )
        steps = self._generated if job.HasField("generate") else self._rehearsed
        try:
            async with aclosing(steps(job, trial)) as responses:
                async for response in responses:
                    said.put_nowait(response)
        finally:
            said.put_nowait(None)

    async def _rehearsed(self, job: JobSpec, trial: Trial) -> AsyncGenerator[PlanJobResponse, None]:
        means, done = self._means, TrainingRehearsed()
        await asyncio.to_thread(durable.make_folder, self._scratch)
        start = await means.start_of(job.name, job.train, self._scratch / "job")
        base = Path(start.base_path)
        await means.enter(base, _unlimited(job), trial)
        rehearse = TrainingCommand(rehearse=RehearseTraining(start=start))
        async with aclosing(self._worked(TRAINING_MODULE, rehearse, trial)) as reports:
            async for report in reports:
                if report.HasField("rehearsed"):
                    done = report.rehearsed
                else:
                    yield PlanJobResponse(check=report.check)
        log = self._scratch / "inference.log"
        yield PlanJobResponse(check=await spoken(means, base, Path(done.adapter_path), log))
        yield PlanJobResponse(plan=completed(done.plan, means, trial.power_w))

    async def _generated(self, job: JobSpec, trial: Trial) -> AsyncGenerator[PlanJobResponse, None]:
        means = self._means
        await asyncio.to_thread(durable.make_folder, self._scratch)
        start = await means.generating(job.generate, self._scratch / "job")
        start.rehearse = True
        await means.enter(Path(start.base_path), _unlimited(job), trial)
        command = TrainingCommand(generate=start)
        async with aclosing(self._worked(BATCH_MODULE, command, trial)) as reports:
            async for report in reports:
                if report.HasField("rehearsed"):
                    plan = completed(report.rehearsed.plan, means, trial.power_w)
                    yield PlanJobResponse(plan=plan)
                else:
                    yield PlanJobResponse(check=report.check)

    async def _worked(
        self, module: str, rehearse: TrainingCommand, trial: Trial
    ) -> AsyncGenerator[TrainingReport, None]:
        """The worker's checks, and TrainingRehearsed at the end."""
        means = self._means
        worker = await means.launcher.start(
            module, TrainingReport, self._scratch / "worker.log",
            name="training", group=means.limit("training"),
        )  # fmt: skip
        try:
            await trial.begin(worker, rehearse)
            last = TrainingReport()
            async with watchdog.watching(
                worker, lambda: trial.rests, limits=means.watch
            ) as watching:
                async for report in worker.reports():
                    watching.reports += 1
                    last = report
                    trial.note(report)
                    if report.WhichOneof("report") in ("check", "rehearsed"):
                        yield report
            if watching.hung:
                raise errors.WorkerFailed(watching.said("training"))
            worker.finish()
            exit = await worker.wait(_GOODBYE_S)
        except FrameError as error:
            raise errors.WorkerFailed(
                f"The rehearsing worker sent what is no report: {error}."
            ) from None
        finally:
            trial.end()
            await _end(worker)
        if last.HasField("rehearsed"):
            return
        if trial.stopped:
            raise errors.Busy(
                "The rehearsal was stopped.",
                why=trial.stopped,
                fix="Try again later, or plan for another device.",
                retry_after_s=_AGAIN_S,
            )
        raise _failure(last.failed if last.HasField("failed") else _death(exit))


def _unlimited(job: JobSpec) -> JobSpec:
    """Only the device's limits hold: the job's own hours are no time at which nobody may plan."""
    found = JobSpec()
    found.CopyFrom(job)
    found.ClearField("limits")
    return found


async def _end(worker: Worker[TrainingReport]) -> None:
    worker.finish()
    worker.kill()
    await worker.wait()


def _death(exit: Exit) -> WorkerFailed:
    if exit.out_of_memory:
        return WorkerFailed(
            cause=job_pb2.CAUSE_OOM,
            message="The rehearsal was killed for lack of memory. Give a recipe a memory_budget, a"
            " generation a shorter context_length, or free memory on the device.",
        )
    last = exit.log_tail.strip().rpartition("\n")[2]
    return WorkerFailed(
        cause=job_pb2.CAUSE_WORKER_CRASH,
        message=f"The rehearsal ended unexpectedly ({exit}). {last}".strip(),
    )


def _failure(failed: WorkerFailed) -> errors.NanofleetError:
    kind = _ERRORS.get(failed.cause, errors.WorkerFailed)
    return kind(f"The rehearsal of the job failed: {failed.message}")
