"""A rehearsal before the arbiter, which lets it rest and ends it, as it does with a job.

It makes room for no request, because it is measured and is over in a minute. In a rest it computes
nothing, at the worker's next step, so what is measured stays right; its client hears of it.
"""

import asyncio
from collections.abc import Callable

from agent.jobs.means import PowerMeter
from agent.memory.arbiter import Act, Decision
from agent.workers.process import Worker
from protos.nanofleet.v1.job_pb2 import Decided
from protos.nanofleet.v1.worker_pb2 import (
    PauseTraining,
    ResumeTraining,
    TrainingCommand,
    TrainingReport,
)


class Trial:
    """``said`` takes what was decided about it, ``energy_j`` is the board's meter."""

    yields = False

    def __init__(
        self, said: Callable[[Decided], None], energy_j: Callable[[], float | None]
    ) -> None:
        self._said = said
        self._energy_j = energy_j
        self._meter = PowerMeter(energy_j)
        self._worker: Worker[TrainingReport] | None = None
        self._suspended = self._vacated = False
        self._rests = asyncio.Event()
        # Why it was told to end; empty: it was not.
        self.stopped = ""

    @property
    def rests(self) -> bool:
        return self._rests.is_set()

    @property
    def power_w(self) -> float | None:
        """The board's mean while the worker computed."""
        return self._meter.power_w()

    async def begin(self, worker: Worker[TrainingReport], rehearse: TrainingCommand) -> None:
        """With what was wished while the worker was being started."""
        self._worker = worker
        self._meter = PowerMeter(self._energy_j)
        self._rests.clear()
        await worker.send(rehearse)
        if self._suspended:
            await self._order(pause=PauseTraining())
        if self._vacated:
            worker.kill()

    def note(self, report: TrainingReport) -> None:
        """What the worker says of its rests."""
        if report.HasField("paused"):
            self._rests.set()
            self._meter.rest()
        elif report.HasField("resumed"):
            self._rests.clear()
            self._meter.go_on()

    def end(self) -> None:
        """The worker is gone."""
        self._worker = None
        self._meter.rest()
        self._rests.set()

    async def suspend(self) -> None:
        """Without a worker there is nothing that computes for long."""
        self._suspended = True
        if self._worker is not None:
            await self._order(pause=PauseTraining())
            await self._rests.wait()

    async def resume(self) -> None:
        self._suspended = False
        if self._worker is not None:
            self._rests.clear()
            await self._order(resume=ResumeTraining())

    async def vacate(self) -> None:
        """Nothing of it is kept."""
        self._vacated = True
        if self._worker is not None:
            self._worker.kill()
            await self._worker.wait()

    async def tell(self, decision: Decision) -> None:
        if decision.act is Act.STOP_JOB:
            self.stopped = decision.reason
        holds = decision.act is Act.SUSPEND_JOB
        self._said(Decided(act=decision.act.value, reason=decision.reason, holds=holds))

    async def tell_waiting(self, why: str) -> None:
        self._said(Decided(act="let the job wait", reason=why, holds=True))

    async def _order(
        self, pause: PauseTraining | None = None, resume: ResumeTraining | None = None
    ) -> None:
        if self._worker is not None:
            await self._worker.order(TrainingCommand(pause=pause, resume=resume))
