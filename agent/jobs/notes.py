"""What a worker reports while it runs: into the journal of its job, and for whoever looks.

    worker's report            journal
    started, generating, log   a line of the log
    progress, generated        progress
    evaluated                  evaluated
    checkpoint                 a checkpoint, from which the next attempt would go on
    check                      a check of its rehearsal

The reports that end an attempt are in ending.py.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from agent.jobs.means import Means, PowerMeter, completed
from agent.jobs.work import Work
from agent.memory.arbiter import Act, Decision
from protos.errors import DiskFull
from protos.nanofleet.v1.job_pb2 import (
    Decided,
    GenerateProgress,
    JobEvent,
    JobPlan,
    LogLine,
    TrainProgress,
)
from protos.nanofleet.v1.worker_pb2 import TrainingReport

M = TypeVar("M", bound=Message)

_LOG = logging.getLogger(__name__)

# What a runaway worker may put into the journal; all of it is in the worker's log.
_MOST_LOG_LINES = 200


class Notes:
    """Of one attempt."""

    def __init__(self, job_id: str, means: Means, work: Work) -> None:
        self.progress: TrainProgress | GenerateProgress = TrainProgress()
        # Of the newest step; None before the first one, and from a pause to the next step.
        self.tokens_per_s: float | None = None
        self.peak_anonymous_bytes = 0
        # Set while the worker computes nothing and has given its workspace back.
        self.rests = asyncio.Event()
        self._job_id = job_id
        self._means = means
        self._work = work
        self._meter = PowerMeter(means.energy_j)
        self._log_lines = 0

    async def take(self, report: TrainingReport) -> None:
        """A report that does not end the attempt."""
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
                    self.rests.set()
                    self._meter.rest()
            case "resumed":
                self.rests.clear()
                self._meter.go_on()
            case "started" | "generating":
                self._meter = PowerMeter(self._means.energy_j)
                await self._write(journal.log, LogLine(text=self._work.begun(report)))
            case "log" if self._log_lines < _MOST_LOG_LINES:
                self._log_lines += 1
                await self._write(journal.log, report.log)

    async def plan(self, plan: JobPlan) -> None:
        """What the rehearsal has measured, with what only the agent knows."""
        done = completed(plan, self._means, self._meter.power_w())
        await self._write(self._means.records.journal.rehearsed, JobEvent(plan=done))

    async def say(self, sentences: Sequence[str]) -> None:
        for said in sentences:
            await self._write(self._means.records.journal.log, LogLine(text=said))

    async def decided(self, decision: Decision) -> None:
        """By the arbiter, about this job."""
        holds = decision.act is Act.SUSPEND_JOB
        told = Decided(act=decision.act.value, reason=decision.reason, holds=holds)
        await self._write(self._means.records.journal.decided, told)

    async def waits(self, why: str) -> None:
        told = Decided(act="let the job wait", reason=why, holds=True)
        await self._write(self._means.records.journal.decided, told)

    async def _write(self, call: Callable[[str, M], None], entry: M) -> None:
        """Progress that cannot be written for want of space is lost; the job goes on."""
        try:
            await self._means.records.write(call, self._job_id, entry)
        except DiskFull as error:
            _LOG.warning("job %s: not journalled: %s", self._job_id, error)

    def _observe(self, progress: TrainProgress | GenerateProgress) -> None:
        self.progress = progress
        self.tokens_per_s = progress.tokens_per_s
        self._means.measured(progress.anonymous_bytes)
        self.peak_anonymous_bytes = max(self.peak_anonymous_bytes, progress.anonymous_bytes)
