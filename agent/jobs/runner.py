"""The queue of jobs, taken one at a time: two of them would take each other's memory and time.

    next_queued ─▶ Started ─▶ Attempt.run ─▶ its ending ─▶ tidy up ─▶ next_queued …

The loop decides nothing about retries: a job that the state machine sends back into the queue is
simply the next one, because it keeps its place.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from async_timeout import timeout

from agent.jobs import states
from agent.jobs.attempt import LOG_NAME, Attempt
from agent.jobs.ending import Ending
from agent.jobs.journal import Account, Entry
from agent.jobs.means import Means
from agent.jobs.patience import Patience, stopped
from artifacts.digest import Digest
from artifacts.persisting import Point
from artifacts.store import ArtifactStore
from protos.errors import DiskFull, InvalidRequest, NanofleetError, Refused
from protos.nanofleet.v1.job_pb2 import (
    CAUSE_BAD_SPEC,
    CAUSE_DISK_FULL,
    CAUSE_WORKER_CRASH,
    Job,
    JobSpec,
)
from protos.recipe import input_digests

_LOG = logging.getLogger(__name__)

_NO_CHECKPOINT = "The agent stopped before a checkpoint was written; the job goes on where it was."
# How often the end of an attempt is written again while the disk is full.
_FULL_DISK_S = 5.0


class Runner:
    def __init__(self, means: Means) -> None:
        self._means = means
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        # Held by whoever works: a job, or the rehearsal of one.
        self.turn = asyncio.Lock()
        self.current: Attempt | None = None

    async def run(self) -> None:
        """Runs jobs until ``stop``. Cancelled, it leaves the job to the next start."""
        records, leases = self._means.records, self._means.leases
        while not self._stopping.is_set():
            self._wake.clear()
            entry = await records.read(records.journal.next_queued, leases.may_run)
            if entry is None:
                await self._wake.wait()
            else:
                async with self.turn:
                    await self._attempt(entry)

    def wake(self) -> None:
        """There may be something new in the queue."""
        self._wake.set()

    async def stop(
        self, patience: Patience, on_wait: Callable[[float], None] = lambda for_s: None
    ) -> None:
        """Lets the running job write its checkpoint; takes no new one."""
        self._stopping.set()
        self.wake()
        if self.current is not None:
            await self.current.stop()
            await stopped(self.current, self.current.settled, patience, on_wait)

    async def extend_lease(self, job_id: str, end_ns: int) -> None:
        """Tells the worker, if the job runs, and looks at the queue again."""
        if self.current is not None and self.current.job_id == job_id:
            await self.current.extend_lease(end_ns)
        self.wake()

    async def heed(self, job: Job, wish: states.Wish) -> None:
        """Carries a wish to the worker; returns when a cancelled job has ended."""
        attempt = self.current
        if attempt is None or attempt.job_id != job.id:
            return
        if wish is states.Wish.PAUSE:
            await attempt.stop()
        elif wish is states.Wish.CANCEL:
            attempt.kill()
            await attempt.settled.wait()

    async def _attempt(self, entry: Entry) -> None:
        attempt = self.current = Attempt(entry, self._means)
        try:
            await self._journal(entry.job.id, states.Started(), Account())
            ending = await self._ending(attempt)
            job = await self._settle(entry.job, ending)
            _LOG.info("job %s: %s", job.id, job.message)
        except Refused:
            _LOG.info("job %s is not queued any more", entry.job.id)
        except DiskFull:
            _LOG.error("job %s: the next start of the agent settles it", entry.job.id)
        finally:
            self.current = None
            attempt.settled.set()

    async def _ending(self, attempt: Attempt) -> Ending:
        """The queue outlives an attempt that could not even be started."""
        try:
            ending = await attempt.run()
        except NanofleetError as error:
            message = str(error)
            if isinstance(error, DiskFull):
                return Ending(states.Broke(CAUSE_DISK_FULL), Account(message))
            if isinstance(error, InvalidRequest):
                return Ending(states.Broke(CAUSE_BAD_SPEC), Account(message))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next job must run
            _LOG.exception("job %s", attempt.job_id)
            message = f"The attempt could not be run: {error!r}."
        else:
            if self._stopping.is_set() and isinstance(ending.event, states.Broke):
                return Ending(states.Stopped(), replace(ending.account, message=_NO_CHECKPOINT))
            return ending
        return Ending(states.Broke(CAUSE_WORKER_CRASH), Account(message))

    async def _settle(self, job: Job, ending: Ending) -> Job:
        """Journals the ending. The artifacts are let go of first: who hears that a job has ended
        may delete them. (Killed in between, the next agent pins them again.)"""
        records, means = self._means.records, self._means
        entry = await records.read(records.journal.entry, job.id)
        if states.apply(entry.standing, ending.event).state in states.ENDED:
            with full_disk_told(job.id):
                await asyncio.to_thread(unpin, means.store, job.id, job.spec)
        job = await self._journal(job.id, ending.event, ending.account)
        if job.state in states.ENDED:
            means.leases.forget(job.id)
            with full_disk_told(job.id):
                await asyncio.to_thread(tidy, means.store, means.jobs, job)
        return job

    async def _journal(self, job_id: str, event: states.Event, account: Account) -> Job:
        """A transition happens even if the disk is full: it waits until there is room, or until
        the agent stops. Then the next start finds the job as it was, and settles it."""
        records = self._means.records
        while True:
            try:
                return await records.write(records.journal.apply, job_id, event, account)
            except DiskFull as error:
                _LOG.error("job %s: %s", job_id, error)
                if self._stopping.is_set():
                    raise
            with contextlib.suppress(asyncio.TimeoutError):
                async with timeout(_FULL_DISK_S):
                    await self._stopping.wait()


@contextlib.contextmanager
def full_disk_told(job_id: str) -> Iterator[None]:
    """A pin that cannot be removed for want of space must not end the queue: the next start of the
    agent removes it."""
    try:
        yield
    except DiskFull as error:
        _LOG.warning("job %s: its artifacts stay pinned: %s", job_id, error)


def pin_owner(job_id: str) -> str:
    return f"job {job_id}"


def pin(store: ArtifactStore, job_id: str, spec: JobSpec) -> None:
    for digest in input_digests(spec):
        store.pin(Digest(digest), pin_owner(job_id))


def unpin(store: ArtifactStore, job_id: str, spec: JobSpec) -> None:
    for digest in input_digests(spec):
        store.unpin(Digest(digest), pin_owner(job_id))


def tidy(store: ArtifactStore, jobs: Path, job: Job) -> None:
    """Lets go of what an ended job needed. The log stays, and what a failed one left behind."""
    unpin(store, job.id, job.spec)
    if job.state == states.FAILED:
        return
    with Point.JOB_TIDIED:
        for entry in (jobs / job.id).glob("*"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif not entry.name.startswith(LOG_NAME):
                entry.unlink(missing_ok=True)
