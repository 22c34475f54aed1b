"""How an attempt ended: from the worker's last report and its exit to an event of the job.

    finished                   what was made is put into the store, then Finished
    stopped                    Stopped: by us, or because the job's lease has ended
    failed                     Broke with the worker's cause; OOM when it is proved that a child
                               of the worker died of it
    (the end of the pipe)      Finished when its adapter is complete; else Broke: CANCELED when we
                               killed it, TIMEOUT when it hung, OOM when it is proved, else
                               WORKER_CRASH

What was made is in the store, complete, before the job is said to have succeeded; a death in
between leaves it in the job's folder, where recovery.py finds an adapter, and the next attempt the
answers.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from agent.jobs import results, states
from agent.jobs.journal import Account
from agent.jobs.means import Means
from agent.jobs.notes import Notes
from agent.jobs.speech import NOT_SERVED
from agent.jobs.work import Work
from agent.workers.process import Exit
from protos.causes import POLICIES
from protos.errors import DiskFull, NanofleetError, OutOfMemory
from protos.nanofleet.v1 import job_pb2
from protos.nanofleet.v1.job_pb2 import Circumstances, JobResult, JobSpec, TrainProgress
from protos.nanofleet.v1.worker_pb2 import TrainingFinished, TrainingReport, WorkerFailed

_LOG = logging.getLogger(__name__)

_LEASE_ENDED = "Its lease ended: no controller was heard in time. It goes on when one is."
# The last words of allocators that end the process instead of raising an error.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "NvMapMemAlloc", "bad_alloc")


@dataclass(frozen=True, slots=True)
class Ending:
    event: states.Event
    account: Account


def not_started(*, killed: bool) -> Ending:
    """A wish came while it waited for its memory."""
    if killed:
        canceled = states.Broke(job_pb2.CAUSE_CANCELED)
        return Ending(canceled, Account(POLICIES[job_pb2.CAUSE_CANCELED].sentence))
    return Ending(states.Stopped(), Account("Stopped while it waited for memory."))


class Closing:
    """Tells how an attempt ended. ``circumstances`` are the board's while the worker ran, and come
    once it is gone; None where nobody observed them."""

    def __init__(
        self, job_id: str, spec: JobSpec, means: Means, work: Work, folder: Path, notes: Notes
    ) -> None:
        self.circumstances: Circumstances | None = None
        self._job_id = job_id
        self._spec = spec
        self._means = means
        self._work = work
        self._folder = folder
        self._notes = notes

    async def ending(
        self, last: TrainingReport, exit: Exit, *, killed: bool = False, hung: str = ""
    ) -> Ending:
        """``last`` is empty where the worker said nothing of its end. ``killed``: by us. ``hung``
        says how it hung, and was ended; empty: it did not."""
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
        if killed:
            return self._broken(WorkerFailed(cause=job_pb2.CAUSE_CANCELED), exit)
        if hung:
            return self._broken(WorkerFailed(cause=job_pb2.CAUSE_TIMEOUT, message=hung), exit)
        return await self._adopted(exit) or self._broken(self._death(exit), exit)

    def unserved(self, error: NanofleetError) -> WorkerFailed:
        """The trial adapter of its rehearsal has not spoken."""
        if error.reason == NOT_SERVED:
            cause = job_pb2.CAUSE_GATE_FAILED
        elif isinstance(error, OutOfMemory):
            cause = job_pb2.CAUSE_OOM
        else:
            cause = _cause(error)
        progress = self._notes.progress
        step = progress.step if isinstance(progress, TrainProgress) else 0
        kept = f"The checkpoint of step {step} was kept."
        return WorkerFailed(cause=cause, message=f"{error} {kept}")

    async def _adopted(self, exit: Exit) -> Ending | None:
        """The result of a worker that died between its rename and its report. None: there is none,
        or it cannot be kept now, and the next attempt packs it again."""
        try:
            result = await asyncio.to_thread(
                results.found, self._means.store, self._folder, self._job_id, self._spec
            )
        except NanofleetError as error:
            _LOG.warning("job %s: its result cannot be kept now: %s", self._job_id, error)
            return None
        if result is None:
            return None
        self._stamp(result)
        message = f"Finished; the worker ended with {exit} before it could say so."
        return Ending(states.Finished(), self._account(exit, message, result))

    def _stamp(self, result: JobResult) -> None:
        """With what the board was like: the figures are of no use without it."""
        if self.circumstances is not None:
            result.circumstances.CopyFrom(self.circumstances)
            if self.circumstances.HasField("energy_j"):
                result.energy_j = self.circumstances.energy_j

    async def _kept(self, finished: TrainingFinished, exit: Exit) -> Ending:
        result = finished.result
        result.peak_rss_bytes = max(result.peak_rss_bytes, exit.peak_rss_bytes)
        try:
            said = await asyncio.to_thread(self._work.keep, self._means.store, finished)
        except NanofleetError as error:
            return self._broken(WorkerFailed(cause=_cause(error), message=str(error)), exit)
        return Ending(states.Finished(), self._account(exit, said, result))

    def _broken(self, failed: WorkerFailed, exit: Exit) -> Ending:
        return Ending(states.Broke(failed.cause), self._account(exit, failed.message))

    def _account(self, exit: Exit, message: str, result: JobResult | None = None) -> Account:
        peak_rss_bytes = max(exit.peak_rss_bytes, self._notes.progress.peak_rss_bytes)
        return Account(
            message,
            result,
            exit.log_tail,
            peak_rss_bytes,
            self._notes.peak_anonymous_bytes,
            self._means.conditions(self._job_id),
            self.circumstances,
        )

    def _death(self, exit: Exit) -> WorkerFailed:
        """Why a worker died that did not say it. Lack of memory is claimed only with a proof."""
        if exit.out_of_memory or any(words in exit.log_tail for words in _OUT_OF_MEMORY):
            return WorkerFailed(cause=job_pb2.CAUSE_OOM, message=self._work.out_of_memory)
        sentence = POLICIES[job_pb2.CAUSE_WORKER_CRASH].sentence
        message = f"{sentence} It ended with {exit}."
        return WorkerFailed(cause=job_pb2.CAUSE_WORKER_CRASH, message=message)


def _cause(error: NanofleetError) -> job_pb2.Cause.ValueType:
    full = isinstance(error, DiskFull)
    return job_pb2.CAUSE_DISK_FULL if full else job_pb2.CAUSE_WORKER_CRASH
