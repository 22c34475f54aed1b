"""A job rehearsed on the device, without starting it (JobService.PlanJob).

    admission ─▶ training worker in a scratch folder, a few steps ─▶ it ends, its memory is free
              ─▶ inference worker: llama.cpp says some tokens with the trial adapter ─▶ the plan

The workers are those of a job and of a served model, under the same limits; while they run no job
does, and none is rehearsed while one runs: both would be measured wrong. The scratch folder goes
with the rehearsal; what a killed agent left of one is removed at the next start.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from agent.jobs import spec as specs
from agent.jobs.attempt import MODULE, Means
from agent.workers.channel import FrameError
from agent.workers.process import Exit, Worker
from artifacts import base_model, durable
from artifacts.digest import Digest
from protos import errors
from protos.nanofleet.v1 import inference_pb2, job_pb2
from protos.nanofleet.v1.job_pb2 import JobPlan, PlanCheck, PlanJobResponse, TrainSpec
from protos.nanofleet.v1.worker_pb2 import (
    InferenceCommand,
    InferenceReport,
    OpenModel,
    RehearseTraining,
    StartGeneration,
    StartTraining,
    TrainingCommand,
    TrainingRehearsed,
    TrainingReport,
    WorkerFailed,
)

INFERENCE_MODULE = "agent.inference.worker"
_CONTEXT_TOKENS = 256
_SAID_TOKENS = 8
_PROMPT = "Who are you?"
_GOODBYE_S = 10.0
_AGAIN_S = 60.0

_ERRORS: dict[job_pb2.Cause.ValueType, type[errors.NanofleetError]] = {
    job_pb2.CAUSE_OOM: errors.OutOfMemory,
    job_pb2.CAUSE_BAD_DATA: errors.InvalidDataset,
    job_pb2.CAUSE_BAD_SPEC: errors.InvalidRequest,
    job_pb2.CAUSE_DISK_FULL: errors.DiskFull,
}


class Rehearsals:
    """``turn`` is held by whoever trains. ``accept`` raises what a submission of the recipe would
    be refused with."""

    def __init__(
        self,
        means: Means,
        scratch: Path,
        turn: asyncio.Lock,
        accept: Callable[[TrainSpec], None],
        usable_bytes: int,
    ) -> None:
        self._means = means
        self._scratch = scratch
        self._turn = turn
        self._accept = accept
        self._usable_bytes = usable_bytes
        shutil.rmtree(scratch, ignore_errors=True)

    async def plan(self, spec: bytes) -> AsyncGenerator[PlanJobResponse, None]:
        """The checks as they pass, then the plan. Raises the error of the first that does not."""
        job = specs.parsed(spec)
        await asyncio.to_thread(self._accept, job.train)
        if self._turn.locked():
            raise errors.Busy(
                "A job trains on this device, or another one is rehearsed.",
                why="What is measured beside it would be wrong for both.",
                fix="Try again when it has ended, or plan for another device.",
                retry_after_s=_AGAIN_S,
            )
        async with self._turn:
            try:
                async with aclosing(self._rehearsed(job)) as responses:
                    async for response in responses:
                        yield response
            finally:
                self._means.leave()
                shutil.rmtree(self._scratch, ignore_errors=True)

    async def _rehearsed(self, job: job_pb2.JobSpec) -> AsyncGenerator[PlanJobResponse, None]:
        base = self._means.store.path(Digest(job.train.base_digest))
        await asyncio.to_thread(durable.make_folder, self._scratch)
        await self._means.enter(base, job.train, job.name)
        began_s, before_j = time.monotonic(), self._means.energy_j()
        done = TrainingRehearsed()
        async with aclosing(self._trained(job, base)) as reports:
            async for report in reports:
                if report.HasField("rehearsed"):
                    done = report.rehearsed
                else:
                    yield PlanJobResponse(check=report.check)
        power_w = self._power_w(before_j, time.monotonic() - began_s)
        yield PlanJobResponse(check=await self._spoken(base, Path(done.adapter_path)))
        yield PlanJobResponse(plan=self._complete(done.plan, power_w))

    async def _trained(
        self, job: job_pb2.JobSpec, base: Path
    ) -> AsyncGenerator[TrainingReport, None]:
        """The worker's checks, and TrainingRehearsed at the end."""
        means = self._means
        worker = await means.launcher.start(
            MODULE, TrainingReport, self._scratch / "training.log",
            name="training", group=means.limit(),
        )  # fmt: skip
        try:
            await worker.send(
                TrainingCommand(rehearse=RehearseTraining(start=self._start(job, base)))
            )
            last = TrainingReport()
            async for report in worker.reports():
                last = report
                if report.WhichOneof("report") in ("check", "rehearsed"):
                    yield report
            worker.finish()
            exit = await worker.wait(_GOODBYE_S)
        except FrameError as error:
            raise errors.WorkerFailed(
                f"The training worker sent what is no report: {error}."
            ) from None
        finally:
            await _end(worker)
        if not last.HasField("rehearsed"):
            raise _failure(last.failed if last.HasField("failed") else _death(exit))

    def _start(self, job: job_pb2.JobSpec, base: Path) -> StartTraining:
        train = job.train
        return StartTraining(
            job_name=job.name,
            spec=train,
            base_path=str(base),
            dataset_paths=[
                str(self._means.store.path(Digest(stage.dataset_digest))) for stage in train.stages
            ],
            job_folder=str(self._scratch / "job"),
            threads=train.threads or self._means.threads or len(os.sched_getaffinity(0)),
            device=self._means.device,
        )

    async def _spoken(self, base: Path, adapter: Path) -> PlanCheck:
        """Lets llama.cpp generate with the adapter, in the worker that would serve it."""
        began_s = time.monotonic()
        if (await asyncio.to_thread(base_model.read, base)).is_for_training_only:
            found = "not tried: llama.cpp cannot serve a base of this type"
            return PlanCheck(name="generation", found=found, took_s=0)
        means = self._means
        worker = await means.launcher.start(
            INFERENCE_MODULE, InferenceReport, self._scratch / "inference.log",
            name="rehearsal", group=means.limit(),
        )  # fmt: skip
        try:
            threads = means.threads or len(os.sched_getaffinity(0))
            opened = OpenModel(base_path=str(base), context_length=_CONTEXT_TOKENS, threads=threads)
            await worker.send(InferenceCommand(open=opened))
            start = StartGeneration(
                request_id=1,
                request=await asyncio.to_thread(_request, base),
                adapter_path=str(adapter),
            )
            await worker.send(InferenceCommand(start=start))
            said = await _answer(worker)
        finally:
            await _end(worker)
        found = f"llama.cpp speaks with the trial adapter: {said} tokens, all numbers finite"
        return PlanCheck(name="generation", found=found, took_s=time.monotonic() - began_s)

    def _complete(self, plan: JobPlan, power_w: float | None) -> JobPlan:
        plan.usable_bytes = self._usable_bytes
        if power_w is not None:
            plan.energy_j = power_w * plan.duration_s
        return plan

    def _power_w(self, before_j: float | None, took_s: float) -> float | None:
        after_j = self._means.energy_j()
        if before_j is None or after_j is None or took_s <= 0:
            return None
        return (after_j - before_j) / took_s


def _request(base: Path) -> inference_pb2.GenerateRequest:
    """Through the chat template where there is one: that is how the adapter will be asked."""
    request = inference_pb2.GenerateRequest(
        adapter_digest="rehearsal", max_tokens=_SAID_TOKENS, prompt=_PROMPT
    )
    if base_model.read(base).chat_template:
        message = inference_pb2.ChatMessage(role="user", content=_PROMPT)
        request.chat.CopyFrom(inference_pb2.Chat(messages=[message]))
    return request


async def _answer(worker: Worker[InferenceReport]) -> int:
    """How many tokens were said. Raises WorkerFailed when they could not be."""
    said = 0
    async for report in worker.reports():
        match report.WhichOneof("report"):
            case "chunk":
                said += len(report.chunk.response.token_ids)
                if report.chunk.response.finish_reason:
                    return said
            case "failed":
                failed = report.failed
                raise _unspeakable(f"{failed.message} {failed.why}".strip())
            case "worker_failed":
                raise _unspeakable(report.worker_failed.message)
    exit = await worker.wait(_GOODBYE_S)
    raise _unspeakable(f"The inference worker ended with {exit}.")


def _unspeakable(why: str) -> errors.WorkerFailed:
    return errors.WorkerFailed(
        "llama.cpp cannot generate with the adapter of the trial run.",
        why=why,
        fix="The job's result could not be served. Import the base model again, or choose another.",
    )


async def _end(worker: Worker[TrainingReport] | Worker[InferenceReport]) -> None:
    worker.finish()
    worker.kill()
    await worker.wait()


def _death(exit: Exit) -> WorkerFailed:
    if exit.out_of_memory:
        return WorkerFailed(
            cause=job_pb2.CAUSE_OOM,
            message="The rehearsal was killed for lack of memory. Give the recipe a memory_budget,"
            " or free memory on the device.",
        )
    last = exit.log_tail.strip().rpartition("\n")[2]
    return WorkerFailed(
        cause=job_pb2.CAUSE_WORKER_CRASH,
        message=f"The rehearsal ended unexpectedly ({exit}). {last}".strip(),
    )


def _failure(failed: WorkerFailed) -> errors.NanofleetError:
    kind = _ERRORS.get(failed.cause, errors.WorkerFailed)
    return kind(f"The rehearsal of the job failed: {failed.message}")
