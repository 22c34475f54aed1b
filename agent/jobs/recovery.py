"""What the agent finds when it starts: jobs that were running when it ended.

    a worker or its children still alive   killed first: two workers never share a job's folder
    RUNNING, its adapter complete          the result is adopted: SUCCEEDED
    RUNNING, to be cancelled               CANCELED
    RUNNING, otherwise                     Interrupted: POWER_LOSS when the machine was booted since
                                           the attempt began, else WORKER_CRASH (the agent died)
    a pin of a job that has ended          removed; one that an active job lacks, added
    the folder of a job that has ended     tidied: the agent may have died before it was

Blocking; runs before the server listens, so nobody sees a state from before it.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from agent.jobs import results, states
from agent.jobs.journal import Account, Entry, Journal
from agent.jobs.runner import pin, pin_owner, tidy
from artifacts.digest import Digest, short
from artifacts.store import ArtifactStore
from protos.causes import POLICIES
from protos.errors import DiskFull, NanofleetError, NotFound
from protos.nanofleet.v1.job_pb2 import (
    CAUSE_CANCELED,
    CAUSE_POWER_LOSS,
    CAUSE_WORKER_CRASH,
    Conditions,
    Job,
)

_LOG = logging.getLogger(__name__)

_AGENT_DIED = "The agent ended unexpectedly and its worker with it; the job goes on where it was."
_GIVEN_UP = "It was interrupted too often without reaching a checkpoint."


def recover(
    journal: Journal,
    store: ArtifactStore,
    jobs: Path,
    boot_id: str,
    conditions: Callable[[str], Conditions] = lambda job_id: Conditions(),
) -> list[Job]:
    """Settles every job that was running; returns them as they are now. ``conditions``: how things
    stood when telemetry last looked at a job's worker."""
    settled = [
        _settle(journal, store, jobs / entry.job.id, entry, boot_id, conditions(entry.job.id))
        for entry in journal.entries([states.RUNNING])
    ]
    for job in settled:
        _LOG.warning("job %s was running when the agent ended: %s", job.id, job.message)
    _set_pins(journal, store)
    for entry in journal.entries(tuple(states.ENDED)):
        if (jobs / entry.job.id).is_dir():
            tidy(store, jobs, entry.job)
    return settled


def _settle(
    journal: Journal,
    store: ArtifactStore,
    folder: Path,
    entry: Entry,
    boot_id: str,
    last: Conditions,
) -> Job:
    job = entry.job
    if entry.standing.wish is states.Wish.CANCEL:
        return journal.apply(job.id, states.Interrupted(CAUSE_CANCELED), Account(last=last))
    try:
        result = results.found(store, folder, job.id, job.spec)
    except NanofleetError as error:
        _LOG.warning("job %s: its result cannot be kept now: %s", job.id, error)
    else:
        if result is not None:
            message = "Finished; the result was found when the agent started again."
            return journal.apply(job.id, states.Finished(), Account(message, result, last=last))
    same_boot = job.attempts[-1].started.boot_id == boot_id
    event = states.Interrupted(CAUSE_WORKER_CRASH if same_boot else CAUSE_POWER_LOSS)
    message = _AGENT_DIED if same_boot else POLICIES[CAUSE_POWER_LOSS].sentence
    if states.apply(entry.standing, event).state == states.FAILED:
        message = _GIVEN_UP
    return journal.apply(job.id, event, Account(message, last=last))


def _set_pins(journal: Journal, store: ArtifactStore) -> None:
    active = journal.entries(tuple(states.ACTIVE))
    needed = {pin_owner(entry.job.id) for entry in active}
    for artifact in store.list():
        for owner in artifact.pins:
            if owner not in needed:
                _unpin(store, artifact.digest, owner)
    for entry in active:
        try:
            pin(store, entry.job.id, entry.job.spec)
        except NotFound as error:
            _LOG.error("job %s lacks an artifact: %s", entry.job.id, error)
        except DiskFull as error:
            _LOG.error("job %s: its artifacts are not pinned: %s", entry.job.id, error)


def _unpin(store: ArtifactStore, digest: Digest, owner: str) -> None:
    """A full disk must not keep the agent from starting: it is needed to make room."""
    try:
        store.unpin(digest, owner)
    except DiskFull as error:
        _LOG.warning("%s stays pinned by %s: %s", short(digest), owner, error)
